// How an App's instances are found to be well: what is asked, and what it found lately.

import { Alert, Stack, Table, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useCallback } from "react";
import { useTranslation } from "react-i18next";
import { Refused, get } from "../api";
import { type Row, type Table as Live, cell } from "../live";
import { useOwned } from "./own";
import { LiveTable } from "./table";

const EVERY = 15_000;
const KINDS = ["startup", "readiness", "liveness"] as const;

interface Probe {
  httpGet?: { path?: string; port: number | string; scheme?: string };
  tcpSocket?: { port: number | string };
  grpc?: { port: number; service?: string };
  exec?: { command?: string[] };
  periodSeconds?: number;
  failureThreshold?: number;
}

interface Container {
  name: string;
  startupProbe?: Probe;
  readinessProbe?: Probe;
  livenessProbe?: Probe;
}

interface Workload {
  spec: { template: { spec: { containers: Container[] } } };
}

export function Probes({ namespace, name }: { namespace: string; name: string }) {
  const { t } = useTranslation();
  const owned = useOwned(namespace, name);
  const failed = useCallback(
    (row: Row, table: Live) => {
      const object = cell(table, row, "Object");
      const unhealthy = ["Unhealthy", "ProbeWarning"].includes(cell(table, row, "Reason"));
      return unhealthy && owned(object.slice(object.indexOf("/") + 1));
    },
    [owned],
  );
  const found = useQuery({
    queryKey: ["probes", namespace, name],
    queryFn: () => workload(namespace, name),
    refetchInterval: EVERY,
  });
  const probes = (found.data?.spec.template.spec.containers ?? []).flatMap((one) =>
    KINDS.flatMap((kind) => {
      const probe = one[`${kind}Probe`];
      return probe ? [{ container: one.name, kind, probe }] : [];
    }),
  );
  return (
    <Stack>
      {found.error && <Alert color="red">{found.error.message}</Alert>}
      {found.data !== undefined && probes.length === 0 && <Text c="dimmed">{t("noProbes")}</Text>}
      {probes.length > 0 && (
        <Table.ScrollContainer minWidth={560}>
          <Table>
            <Table.Thead>
              <Table.Tr>
                {(["container", "kind", "asks", "every", "after"] as const).map((word) => (
                  <Table.Th key={word}>{t(word)}</Table.Th>
                ))}
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {probes.map(({ container, kind, probe }) => (
                <Table.Tr key={`${container}/${kind}`}>
                  <Table.Td>{container}</Table.Td>
                  <Table.Td>{t(kind)}</Table.Td>
                  <Table.Td style={{ overflowWrap: "anywhere" }}>{asks(probe)}</Table.Td>
                  <Table.Td>{probe.periodSeconds ?? 10} s</Table.Td>
                  <Table.Td>{probe.failureThreshold ?? 3}</Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      )}
      <LiveTable
        title={t("unhealthyEvents")}
        path={`/api/v1/namespaces/${namespace}/events`}
        keep={failed}
        short
      />
    </Stack>
  );
}

/** The App's Deployment, or its StatefulSet. */
async function workload(namespace: string, name: string): Promise<Workload | null> {
  for (const resource of ["deployments", "statefulsets"]) {
    try {
      return await get<Workload>(`/apis/apps/v1/namespaces/${namespace}/${resource}/${name}`);
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 404) throw error;
    }
  }
  return null;
}

function asks(probe: Probe): string {
  const { httpGet, tcpSocket, grpc, exec } = probe;
  if (httpGet) return `${httpGet.scheme ?? "HTTP"} GET ${httpGet.path ?? "/"} : ${httpGet.port}`;
  if (tcpSocket) return `TCP : ${tcpSocket.port}`;
  if (grpc) return `gRPC ${grpc.service ?? ""} : ${grpc.port}`;
  return exec?.command?.join(" ") ?? "";
}
