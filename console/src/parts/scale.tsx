// When an App was given other replicas, by whom and why, and by which rule that goes on.

import { Alert, Stack, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import { Refused, get, send } from "../api";
import { useWhen } from "./time";

const EVERY = 5_000;

interface Scaling {
  at: number;
  before: number;
  after: number;
  who: string;
  why: string;
}

interface Amount {
  averageUtilization?: number;
  averageValue?: string;
  value?: string;
}

interface Named {
  name?: string;
  metric?: { name: string };
}

interface Metric {
  type: string;
  [source: string]: unknown;
}

interface Rule {
  spec: { minReplicas?: number; maxReplicas: number; metrics?: Metric[] };
  status?: {
    currentReplicas?: number;
    desiredReplicas?: number;
    currentMetrics?: (Metric | null)[];
    conditions?: { type: string; status: string; reason?: string; message?: string }[];
  };
}

export function ScaleTrail({ namespace, app }: { namespace: string; app: string }) {
  const { t } = useTranslation();
  const when = useWhen();
  const query = new URLSearchParams({ namespace, app }).toString();
  const found = useQuery({
    queryKey: ["scalings", query],
    queryFn: async (): Promise<Scaling[]> =>
      (await (await send(`/scalings?${query}`)).json()).items,
    refetchInterval: EVERY,
  });
  const rows = found.data ?? [];
  return (
    <Stack>
      <ByRule namespace={namespace} app={app} />
      {found.error && <Alert color="red">{found.error.message}</Alert>}
      {found.data && rows.length === 0 && <Text c="dimmed">{t("noScalings")}</Text>}
      {rows.length > 0 && (
        <Table.ScrollContainer minWidth={640}>
          <Table>
            <Table.Thead>
              <Table.Tr>
                {(["time", "replicas", "person", "cause"] as const).map((word) => (
                  <Table.Th key={word}>{t(word)}</Table.Th>
                ))}
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {rows.map((row) => (
                <Table.Tr key={row.at}>
                  <Table.Td>{when(row.at)}</Table.Td>
                  <Table.Td>
                    {row.before < 0 ? "" : `${row.before} → `}
                    <strong>{row.after}</strong>
                  </Table.Td>
                  <Table.Td>{row.who === "autoscaler" ? t("autoscaler") : row.who}</Table.Td>
                  <Table.Td className="said">{row.why || "–"}</Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      )}
    </Stack>
  );
}

/** The autoscaler's rule beside what it measures now; it has the App's name. */
function ByRule({ namespace, app }: { namespace: string; app: string }) {
  const { t } = useTranslation();
  const path = `/apis/autoscaling/v2/namespaces/${namespace}/horizontalpodautoscalers/${app}`;
  const found = useQuery({
    queryKey: ["rule", path],
    queryFn: () =>
      get<Rule>(path).catch((error: unknown) => {
        if (error instanceof Refused && error.status === 404) return null;
        throw error;
      }),
    refetchInterval: EVERY,
  });
  if (found.error) return <Alert color="red">{found.error.message}</Alert>;
  if (found.data === undefined) return null;
  if (found.data === null) return <Text c="dimmed">{t("noRule")}</Text>;
  const { spec, status } = found.data;
  const current = new Map(status?.currentMetrics?.map((one) => [named(one), said(one, "current")]));
  return (
    <section aria-label={t("rule")}>
      <Title order={2} size="h4" mb="xs">
        {t("rule")}
      </Title>
      <dl className="facts">
        <div>
          <dt>{t("replicas")}</dt>
          <dd>
            {status?.currentReplicas ?? 0} ({spec.minReplicas ?? 1} – {spec.maxReplicas})
          </dd>
        </div>
        {spec.metrics?.map((metric) => (
          <div key={named(metric)}>
            <dt>{named(metric)}</dt>
            <dd>
              {current.get(named(metric)) || "–"} / {said(metric, "target")}
            </dd>
          </div>
        ))}
      </dl>
      {status?.conditions?.map((one) => (
        <Text size="sm" key={one.type}>
          {/* Limited is what it is when nothing limits it: no fault either way. */}
          <span className={one.status === "False" && one.type !== "ScalingLimited" ? "ill" : ""}>
            {one.type}: {one.status}
          </span>{" "}
          {one.message}
        </Text>
      ))}
    </section>
  );
}

/** `cpu`, `cpu of web`, the name of a metric of somebody else. */
function named(metric: Metric | null): string {
  const source = sourced(metric) as (Named & { container?: string }) | undefined;
  const name = source?.name ?? source?.metric?.name ?? metric?.type ?? "";
  return source?.container ? `${name} of ${source.container}` : name;
}

/** `80 %`, `200m`. */
function said(metric: Metric | null, which: "current" | "target"): string {
  const amount = (sourced(metric) as Record<string, Amount> | undefined)?.[which];
  if (amount?.averageUtilization !== undefined) return `${amount.averageUtilization} %`;
  return amount?.averageValue ?? amount?.value ?? "";
}

/** What a metric says under the name of its type: `Resource` under `resource`. */
function sourced(metric: Metric | null): unknown {
  const type = metric?.type ?? "";
  return metric?.[type.charAt(0).toLowerCase() + type.slice(1)];
}
