// One app: its instances with what they use, their logs, its events, its configuration.

import {
  Alert,
  Anchor,
  Group,
  SegmentedControl,
  Stack,
  Table,
  Tabs,
  Text,
  Title,
} from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { dump } from "js-yaml";
import { useCallback, useMemo, useState } from "react";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { get } from "../api";
import { type Row, type Table as Live, cell, useLive } from "../live";
import { Charts } from "../parts/charts";
import { Doors } from "../parts/doors";
import { excepts, shut, useFreezes, useWhose } from "../parts/freeze";
import { tone } from "../parts/health";
import { History } from "../parts/history";
import { collected, printed } from "../parts/lines";
import { Logs } from "../parts/logs";
import { isInstance, useOwned } from "../parts/own";
import { Probes } from "../parts/probes";
import { bytes, cores, image } from "../parts/quantity";
import { ScaleTrail } from "../parts/scale";
import { LiveTable } from "../parts/table";
import { elapsed, since, useWhen } from "../parts/time";
import { doing, measures, useTrends } from "../parts/trends";
import { useServed } from "../words/served";

const APP = "berth.dev/app";

interface App {
  metadata: { annotations?: Record<string, string> };
  spec: { image?: string };
  status?: { url?: string };
}

const COLUMNS = [
  "name",
  "ready",
  "status",
  "restarts",
  "cpu",
  "RSS",
  "rssAndCache",
  "workingSet",
  "load",
  "readAndWritten",
  "uptime",
  "node",
  "age",
] as const;

export default function AppPage({ params }: { params: { namespace: string; name: string } }) {
  const { t } = useTranslation();
  const { namespace, name } = params;
  const [tab, setTab] = useState<string | null>("instances");
  const path = `/apis/berth.dev/v1/namespaces/${namespace}/apps/${name}`;
  const app = useQuery({
    queryKey: ["item", path],
    queryFn: () => get<App>(path),
    refetchInterval: 5_000,
  });
  const pods = useLive(`/api/v1/namespaces/${namespace}/pods`);
  const own = useMemo(() => pods.rows.filter((row) => isInstance(row, name)), [pods, name]);
  const released = useCallback((row: Row) => row.labels[APP] === name, [name]);

  return (
    <Stack>
      <Group justify="space-between">
        <Title order={1} size="h3">
          {name}
        </Title>
        <Text size="sm" c="dimmed" title={app.data?.spec.image}>
          {image(app.data?.spec.image ?? "")}
        </Text>
        <Url url={app.data?.status?.url ?? ""} />
      </Group>
      <Frozen namespace={namespace} name={name} notes={app.data?.metadata.annotations} />
      <Tabs value={tab} onChange={setTab} keepMounted={false}>
        <Tabs.List>
          <Tabs.Tab value="instances">{t("instances")}</Tabs.Tab>
          <Tabs.Tab value="charts">{t("charts")}</Tabs.Tab>
          <Tabs.Tab value="scale">{t("scale")}</Tabs.Tab>
          <Tabs.Tab value="logs">{t("logs")}</Tabs.Tab>
          <Tabs.Tab value="releases">{t("releases")}</Tabs.Tab>
          <Tabs.Tab value="events">{t("events")}</Tabs.Tab>
          <Tabs.Tab value="routes">{t("routes")}</Tabs.Tab>
          <Tabs.Tab value="probes">{t("probes")}</Tabs.Tab>
          <Tabs.Tab value="configuration">{t("configuration")}</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="instances" pt="md">
          <Instances namespace={namespace} name={name} table={pods} rows={own} />
        </Tabs.Panel>
        <Tabs.Panel value="charts" pt="md">
          <Charts namespace={namespace} app={name} />
        </Tabs.Panel>
        <Tabs.Panel value="scale" pt="md">
          <ScaleTrail namespace={namespace} app={name} />
        </Tabs.Panel>
        <Tabs.Panel value="logs" pt="md">
          <Written namespace={namespace} name={name} table={pods} rows={own} />
        </Tabs.Panel>
        <Tabs.Panel value="releases" pt="md">
          <LiveTable
            title={t("releases")}
            path={`/apis/berth.dev/v1/namespaces/${namespace}/releases`}
            to={(row) => `/releases/${row.namespace}/${row.name}`}
            keep={released}
            short
          />
        </Tabs.Panel>
        <Tabs.Panel value="events" pt="md">
          <Events namespace={namespace} name={name} />
        </Tabs.Panel>
        <Tabs.Panel value="routes" pt="md">
          <Doors namespace={namespace} name={name} url={app.data?.status?.url} />
        </Tabs.Panel>
        <Tabs.Panel value="probes" pt="md">
          <Probes namespace={namespace} name={name} />
        </Tabs.Panel>
        <Tabs.Panel value="configuration" pt="md">
          <Link href={`/item/berth.dev/v1/apps/${namespace}/${name}`}>{t("edit")}</Link>
          <pre className="diff" tabIndex={0} role="region" aria-label={t("configuration")}>
            {app.data ? dump(app.data.spec) : t("loading")}
          </pre>
          {app.data && <History namespace={namespace} name={name} now={app.data.spec} />}
        </Tabs.Panel>
      </Tabs>
    </Stack>
  );
}

/** Whoever may write a status may write anything into it: what leads to no site is no link. */
function Url({ url }: { url: string }) {
  if (!/^https?:\/\//.test(url)) return <Text size="sm">{url}</Text>;
  return (
    <Anchor href={url} rel="noreferrer" size="sm">
      {url}
    </Anchor>
  );
}

/** Why no version of it would be released now, where that is so. */
function Frozen(given: { namespace: string; name: string; notes?: Record<string, string> }) {
  const { t } = useTranslation();
  const { namespace, name, notes } = given;
  const { rules } = useFreezes(namespace, { name, notes });
  const [whose, when] = [useWhose(), useWhen()];
  const at = Date.now();
  const shuts = rules.flatMap((rule) => {
    const found = excepts(rule, namespace, name) ? null : shut(rule, at);
    return found ? [{ rule, found }] : [];
  });
  if (shuts.length === 0) return null;
  return (
    <Alert color="yellow">
      <Text fw={600} size="sm">
        {t("frozenNow")}
      </Text>
      {shuts.map(({ rule, found }) => (
        <Text size="sm" key={rule.of}>
          {whose(rule)}:{" "}
          {Number.isFinite(found.until)
            ? t("frozenUntil", { until: when(found.until) })
            : t("frozenAlways")}{" "}
          {found.window.reason}
        </Text>
      ))}
      <Link href="/releases/freezes">{t("freezes")}</Link>
    </Alert>
  );
}

/** What happened to it and to all that is made of it. */
function Events({ namespace, name }: { namespace: string; name: string }) {
  const { t } = useTranslation();
  const owned = useOwned(namespace, name);
  const mine = useCallback(
    (row: Row, table: Live) => {
      const object = cell(table, row, "Object");
      return owned(object.slice(object.indexOf("/") + 1));
    },
    [owned],
  );
  const path = `/api/v1/namespaces/${namespace}/events`;
  return <LiveTable title={t("events")} path={path} keep={mine} short />;
}

/** What its containers print, or what the nodes collected of its log directories. */
function Written(given: { namespace: string; name: string; table: Live; rows: Row[] }) {
  const { t } = useTranslation();
  const { namespace, name, table, rows } = given;
  const [from, setFrom] = useState("printed");
  const files = from === "collected";
  // Without instances, the only node is meant: it keeps what they wrote.
  const nodes = [...new Set(rows.map((row) => cell(table, row, "Node")))].filter(
    (node) => node && node !== "<none>",
  );
  const sources = files
    ? (nodes.length > 0 ? nodes.sort() : [""]).map((node) => collected(namespace, name, node))
    : rows.map((row) => printed(namespace, row.name));
  return (
    <Stack gap="xs">
      <SegmentedControl
        size="xs"
        style={{ alignSelf: "flex-start" }}
        aria-label={t("logs")}
        data={(["printed", "collected"] as const).map((value) => ({ value, label: t(value) }))}
        value={from}
        onChange={setFrom}
      />
      <Logs key={from} sources={sources} files={files} />
    </Stack>
  );
}

function Instances(given: { namespace: string; name: string; table: Live; rows: Row[] }) {
  const { t } = useTranslation();
  const served = useServed();
  const { namespace, name, table, rows } = given;
  const points = useTrends(namespace, name);
  const last = points?.at(-1);
  return (
    <Table.ScrollContainer minWidth={1100}>
      <Table>
        <Table.Thead>
          <Table.Tr>
            {COLUMNS.map((word) => (
              <Table.Th key={word}>{word === "RSS" ? word : t(word)}</Table.Th>
            ))}
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {rows.map((row) => {
            const used = last?.pods[row.name] ? measures(last, row.name) : null;
            const does = last ? doing(last, row.name) : null;
            return (
              <Table.Tr key={row.uid}>
                <Table.Td>
                  <Link href={`/item/core/v1/pods/${row.namespace}/${row.name}`}>{row.name}</Link>{" "}
                  <Link href={`/shell/${row.namespace}/${row.name}`} className="beside">
                    {t("shell")}
                  </Link>
                </Table.Td>
                <Table.Td>{cell(table, row, "Ready")}</Table.Td>
                <Table.Td>
                  <span className={tone("Status", cell(table, row, "Status"))}>
                    {served("states", cell(table, row, "Status"))}
                  </span>
                </Table.Td>
                <Table.Td>{cell(table, row, "Restarts")}</Table.Td>
                <Table.Td>{said(used?.cpu, cores)}</Table.Td>
                <Table.Td>{said(used?.rss, bytes)}</Table.Td>
                <Table.Td>{said(used?.weighed, bytes)}</Table.Td>
                <Table.Td>{said(used?.workingSet, bytes)}</Table.Td>
                <Table.Td>{does?.load?.map((mean) => mean.toFixed(2)).join(" ") ?? "–"}</Table.Td>
                <Table.Td>
                  {said(does?.read, bytes)} / {said(does?.written, bytes)}
                </Table.Td>
                <Table.Td>{said(does?.started, (at) => elapsed(Date.now() - at))}</Table.Td>
                <Table.Td>{cell(table, row, "Node")}</Table.Td>
                <Table.Td>{row.created ? since(row.created) : ""}</Table.Td>
              </Table.Tr>
            );
          })}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  );
}

function said(value: number | null | undefined, how: (value: number) => string): string {
  return value === null || value === undefined ? "–" : how(value);
}
