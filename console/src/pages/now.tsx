// What is broken, what warns, what changed: the page for four in the morning.

import { Alert, Card, Group, SimpleGrid, Stack, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useMemo } from "react";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { acts } from "../api";
import { type Row, type Table, cell, useLive } from "../live";
import { Day } from "../parts/day";
import { nodeFault, podFault, workloadFault } from "../parts/health";
import { LiveTable } from "../parts/table";
import { since, useTurn } from "../parts/time";
import { listOf, useScope } from "../scope";

const MOST = 50;
const HOUR = 3_600_000;
const ACTS_EVERY = 30_000;
const LOOK_EVERY = 15_000;
const PART_OF = "app.kubernetes.io/part-of";

interface Fault {
  kind: string;
  to: string;
  row: Row;
  what: string;
}

export function Now() {
  const { t } = useTranslation();
  const { namespace } = useScope();
  const tables = {
    nodes: useLive("/api/v1/nodes"),
    deployments: useLive(listOf("/apis/apps/v1", "deployments", namespace)),
    statefulsets: useLive(listOf("/apis/apps/v1", "statefulsets", namespace)),
    pods: useLive(listOf("/api/v1", "pods", namespace)),
  };
  const turn = useTurn(LOOK_EVERY);
  const faults = useMemo(
    () => [
      ...faulty("Node", "core/v1/nodes", tables.nodes, nodeFault),
      ...faulty("Deployment", "apps/v1/deployments", tables.deployments, workloadFault),
      ...faulty("StatefulSet", "apps/v1/statefulsets", tables.statefulsets, workloadFault),
      ...faulty("Pod", "core/v1/pods", tables.pods, podFault),
    ],
    // What takes too long gets broken without a change.
    [tables.nodes, tables.deployments, tables.statefulsets, tables.pods, turn],
  );
  const parts = tables.deployments.rows.filter((row) => row.labels[PART_OF] === "berth");
  const all = Object.values(tables);
  const known = all.some((table) => table.ready);
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
                {fault.what}
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
      {parts.length > 0 && (
        <section aria-label={t("components")}>
          <Title order={2} size="h4" mb="xs">
            {t("components")}
          </Title>
          <Group gap="lg">
            {parts.map((row) => (
              <Group gap={6} key={row.name} fz="sm">
                <Link href={`/item/apps/v1/deployments/${row.namespace}/${row.name}`}>
                  {row.name}
                </Link>
                <span className={workloadFault(tables.deployments, row) ? "ill" : "well"}>
                  {cell(tables.deployments, row, "Ready")}
                </span>
              </Group>
            ))}
          </Group>
        </section>
      )}
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
    const to = `/item/${resource}/${row.namespace || "-"}/${row.name}`;
    return what ? [{ kind, to, row, what }] : [];
  });
}

function warns(row: Row, table: Table): boolean {
  const index = table.columns.findIndex((column) => column.name === "Type");
  return row.cells[index] === "Warning";
}

/** What people did through the console in the last hour, for those who may see it. */
function Changed() {
  const { t } = useTranslation();
  const recent = useQuery({
    queryKey: ["acts", "recent"],
    queryFn: () => acts(new URLSearchParams()),
    refetchInterval: ACTS_EVERY,
    retry: false,
  });
  const fresh = (recent.data ?? []).filter(
    (act) =>
      act.at > Date.now() - HOUR &&
      act.path !== "/session" &&
      act.status < 400 &&
      !act.verb.endsWith("(dry run)"),
  );
  if (fresh.length === 0) return null;
  return (
    <section aria-label={t("changed")}>
      <Title order={2} size="h4" mb="xs">
        {t("changed")}
      </Title>
      {fresh.slice(0, 10).map((act) => (
        <Text size="sm" key={`${act.at}${act.path}`}>
          {since(new Date(act.at).toISOString())} · {act.account} · {act.verb} {act.path} ·{" "}
          {act.status}
        </Text>
      ))}
    </section>
  );
}
