// What is broken, what is done about it, what changed: the page for four in the morning.

import { Alert, Card, Group, SimpleGrid, Stack, Text, Title } from "@mantine/core";
import { useMemo } from "react";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { type Row, type Table, useLive } from "../live";
import { Day } from "../parts/day";
import { Components } from "../parts/components";
import {
  appFault,
  claimFault,
  daemonFault,
  jobFault,
  nodeFault,
  podFault,
  workloadFault,
} from "../parts/health";
import { LiveTable } from "../parts/table";
import { since, useTurn } from "../parts/time";
import { Changed, UnderWay } from "../parts/underway";
import { listOf, useScope } from "../scope";
import { useServed } from "../words/served";

const MOST = 50;
const LOOK_EVERY = 15_000;
const CLAIMS = "core/v1/persistentvolumeclaims";

interface Fault {
  kind: string;
  to: string;
  row: Row;
  what: string;
}

export function Now() {
  const { t } = useTranslation();
  const served = useServed();
  const { namespace } = useScope();
  const tables = {
    nodes: useLive("/api/v1/nodes"),
    deployments: useLive(listOf("/apis/apps/v1", "deployments", namespace)),
    statefulsets: useLive(listOf("/apis/apps/v1", "statefulsets", namespace)),
    pods: useLive(listOf("/api/v1", "pods", namespace)),
  };
  const more = {
    apps: useLive(listOf("/apis/berth.dev/v1", "apps", namespace)),
    daemonsets: useLive(listOf("/apis/apps/v1", "daemonsets", namespace)),
    jobs: useLive(listOf("/apis/batch/v1", "jobs", namespace)),
    claims: useLive(listOf("/api/v1", "persistentvolumeclaims", namespace)),
  };
  const all = [...Object.values(tables), ...Object.values(more)];
  const turn = useTurn(LOOK_EVERY);
  const faults = useMemo(
    () => [
      ...faulty("Node", "core/v1/nodes", tables.nodes, nodeFault),
      ...faulty("App", "berth.dev/v1/apps", more.apps, appFault),
      ...faulty("Deployment", "apps/v1/deployments", tables.deployments, workloadFault),
      ...faulty("StatefulSet", "apps/v1/statefulsets", tables.statefulsets, workloadFault),
      ...faulty("DaemonSet", "apps/v1/daemonsets", more.daemonsets, daemonFault),
      ...faulty("Job", "batch/v1/jobs", more.jobs, jobFault),
      ...faulty("PersistentVolumeClaim", CLAIMS, more.claims, claimFault),
      ...faulty("Pod", "core/v1/pods", tables.pods, podFault),
    ],
    // What takes too long gets broken without a change.
    [...all, turn],
  );
  const known = all.every((table) => table.ready || table.fault);
  // Who has a namespace alone sees no nodes, and misses nothing of what is theirs.
  const own = [tables.deployments, tables.statefulsets, tables.pods];
  const hidden = own.some((table) => table.fault === "refused");
  const away = all.some((table) => table.fault === "away");

  return (
    <Stack>
      <Title order={1} size="h3">
        {t("now")}
      </Title>
      <SimpleGrid cols={{ base: 2, sm: 4 }}>
        {Object.entries(tables).map(([resource, table]) => (
          <Card withBorder key={resource} padding="sm">
            <Text size="sm" c="dimmed">
              {t(resource)}
            </Text>
            <Text fw={700} size="xl" className="count">
              {table.fault === "refused" ? "–" : table.ready ? table.rows.length : "…"}
            </Text>
          </Card>
        ))}
      </SimpleGrid>
      <section aria-label={t("broken")}>
        <Title order={2} size="h4" mb="xs">
          {t("broken")}
        </Title>
        {hidden && <Alert color="yellow">{t(namespace ? "refused" : "chooseNamespace")}</Alert>}
        {away && <Alert color="yellow">{t("away")}</Alert>}
        {known && !hidden && !away && faults.length === 0 && (
          <Alert color="green">{t("allWell")}</Alert>
        )}
        <Stack gap={4} mt={away || hidden ? "xs" : 0}>
          {faults.slice(0, MOST).map((fault) => (
            <Group key={`${fault.kind}/${fault.row.namespace}/${fault.row.name}`} gap="sm" fz="sm">
              <Text span size="sm" className="ill">
                {served("states", fault.what)}
              </Text>
              <Text size="sm">{fault.kind}</Text>
              <Link href={fault.to}>
                {fault.row.namespace ? `${fault.row.namespace}/` : ""}
                {fault.row.name}
              </Link>
              <Text size="sm" c="dimmed">
                {fault.row.created ? since(fault.row.created) : ""}
              </Text>
            </Group>
          ))}
          {faults.length > MOST && <Text size="sm">+ {faults.length - MOST}</Text>}
        </Stack>
      </section>
      <UnderWay />
      <Components />
      <Changed />
      <Day />
      <LiveTable
        title={t("warnings")}
        path={listOf("/api/v1", "events", namespace)}
        keep={warns}
        short
      />
    </Stack>
  );
}

function faulty(
  kind: string,
  resource: string,
  table: Table,
  fault: (table: Table, row: Row) => string,
): Fault[] {
  return table.rows.flatMap((row) => {
    const what = fault(table, row);
    const to =
      kind === "App"
        ? `/apps/${row.namespace}/${row.name}`
        : `/item/${resource}/${row.namespace || "-"}/${row.name}`;
    return what ? [{ kind, to, row, what }] : [];
  });
}

function warns(row: Row, table: Table): boolean {
  const index = table.columns.findIndex((column) => column.name === "Type");
  return row.cells[index] === "Warning";
}
