// One node: its pods, its conditions, what presses on it, what it has and what is asked of it.

import { Alert, Group, Stack, Table, Text, Title } from "@mantine/core";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useCallback, useEffect } from "react";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { get } from "../api";
import { type Row, type Table as Live, cell, useLive } from "../live";
import { said, useNodeLoads } from "../parts/heat";
import { LiveTable } from "../parts/table";
import { since } from "../parts/time";
import { listOf, useScope } from "../scope";
import { useServed } from "../words/served";

interface Condition {
  type: string;
  status: string;
  reason?: string;
  message?: string;
  lastTransitionTime?: string;
}

interface Node {
  spec: { unschedulable?: boolean; taints?: { key: string; value?: string; effect: string }[] };
  status: {
    conditions?: Condition[];
    nodeInfo?: { osImage: string; kernelVersion: string; kubeletVersion: string };
  };
}

export default function NodePage({ params }: { params: { name: string } }) {
  const { t } = useTranslation();
  const { name } = params;
  const { namespace } = useScope();
  const queries = useQueryClient();
  const path = `/api/v1/nodes/${name}`;
  const node = useQuery({ queryKey: ["item", path], queryFn: () => get<Node>(path) });
  // The table is watched anyway: when its row changes, so has the node.
  const row = useLive("/api/v1/nodes").rows.find((one) => one.name === name);
  useEffect(() => {
    void queries.invalidateQueries({ queryKey: ["item", path] });
  }, [row, path, queries]);
  const here = useCallback((pod: Row, table: Live) => cell(table, pod, "Node") === name, [name]);
  const info = node.data?.status.nodeInfo;
  return (
    <Stack>
      <Group justify="space-between">
        <Title order={1} size="h3">
          {name}
        </Title>
        <Link href={`/item/core/v1/nodes/-/${name}`}>YAML</Link>
      </Group>
      {node.error && <Alert color="red">{node.error.message}</Alert>}
      {info && (
        <Text size="sm" c="dimmed">
          {info.osImage} · {info.kernelVersion} · {info.kubeletVersion}
        </Text>
      )}
      <Room name={name} />
      {node.data?.spec.taints?.map((taint) => (
        <Text size="sm" className="waits" key={`${taint.key}${taint.effect}`}>
          {taint.key}
          {taint.value ? `=${taint.value}` : ""}: {taint.effect}
        </Text>
      ))}
      <Conditions all={node.data?.status.conditions ?? []} />
      <LiveTable
        title={t("pods")}
        path={listOf("/api/v1", "pods", namespace)}
        to={(pod) => `/item/core/v1/pods/${pod.namespace}/${pod.name}`}
        keep={here}
        short
      />
    </Stack>
  );
}

/** What pods may ask for there, what they ask for, what is used. */
function Room({ name }: { name: string }) {
  const { t } = useTranslation();
  const load = useNodeLoads().data?.find((one) => one.name === name);
  if (!load) return null;
  return (
    <dl className="facts">
      {(["cpu", "memory"] as const).map((what) => (
        <div key={what}>
          <dt>{t(what)}</dt>
          <dd>
            {load.used ? said(what, load.used[what]) : "–"} {t("used")},{" "}
            {said(what, load.requested[what])} {t("requested")} /{" "}
            {said(what, load.allocatable[what])}
          </dd>
        </div>
      ))}
      <div>
        <dt>{t("pods")}</dt>
        <dd>{load.pods}</dd>
      </div>
    </dl>
  );
}

function Conditions({ all }: { all: Condition[] }) {
  const { t } = useTranslation();
  const served = useServed();
  if (all.length === 0) return null;
  return (
    <section aria-label={t("conditions")}>
      <Title order={2} size="h4" mb="xs">
        {t("conditions")}
      </Title>
      <Table.ScrollContainer minWidth={560}>
        <Table>
          <Table.Thead>
            <Table.Tr>
              {(["kind", "status", "age", "cause"] as const).map((word) => (
                <Table.Th key={word}>{t(word)}</Table.Th>
              ))}
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {all.map((one) => (
              <Table.Tr key={one.type}>
                <Table.Td>{served("states", one.type)}</Table.Td>
                <Table.Td>
                  <span className={well(one) ? "well" : "ill"}>{served("states", one.status)}</span>
                </Table.Td>
                <Table.Td>{one.lastTransitionTime ? since(one.lastTransitionTime) : ""}</Table.Td>
                <Table.Td className="said">{one.message ?? one.reason}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
    </section>
  );
}

/** Of all conditions, `Ready` alone is well when it is true. */
function well(one: Condition): boolean {
  return one.type === "Ready" ? one.status === "True" : one.status === "False";
}
