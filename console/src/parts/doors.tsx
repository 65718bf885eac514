// Under which hosts, paths and ports an App is reached.

import { Alert, Anchor, Table, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import { Refused, get } from "../api";

const EVERY = 15_000;

interface Backend {
  service?: { name: string; port: { name?: string; number?: number } };
}

interface Ingress {
  spec: {
    rules?: { host?: string; http?: { paths: { path?: string; backend: Backend }[] } }[];
    tls?: { hosts?: string[]; secretName?: string }[];
  };
}

interface Service {
  spec: {
    clusterIP?: string;
    type?: string;
    ports?: { name?: string; port: number; nodePort?: number; protocol?: string }[];
  };
}

interface Door {
  protocol: string;
  host: string;
  path: string;
  port: string;
  href?: string;
}

/** `url` is where the App says that it answers. */
export function Doors(given: { namespace: string; name: string; url?: string }) {
  const { t } = useTranslation();
  const { namespace, name, url } = given;
  const found = useQuery({
    queryKey: ["doors", namespace, name, url],
    queryFn: async () => {
      const inside = `namespaces/${namespace}`;
      const [ingress, service] = await Promise.all([
        there<Ingress>(`/apis/networking.k8s.io/v1/${inside}/ingresses/${name}`),
        there<Service>(`/api/v1/${inside}/services/${name}`),
      ]);
      return [...http(ingress, url), ...ports(service, `${name}.${namespace}`)];
    },
    refetchInterval: EVERY,
  });
  if (found.error) return <Alert color="red">{found.error.message}</Alert>;
  if (!found.data) return <Text>{t("loading")}</Text>;
  if (found.data.length === 0) return <Text c="dimmed">{t("noRoutes")}</Text>;
  return (
    <Table.ScrollContainer minWidth={560}>
      <Table>
        <Table.Thead>
          <Table.Tr>
            {(["protocol", "host", "path", "port"] as const).map((word) => (
              <Table.Th key={word}>{t(word)}</Table.Th>
            ))}
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {found.data.map((door) => (
            <Table.Tr key={Object.values(door).join(" ")}>
              <Table.Td>{door.protocol}</Table.Td>
              <Table.Td style={{ overflowWrap: "anywhere" }}>
                {door.href ? (
                  <Anchor href={door.href} rel="noreferrer" size="sm">
                    {door.host}
                  </Anchor>
                ) : (
                  door.host
                )}
              </Table.Td>
              <Table.Td>{door.path}</Table.Td>
              <Table.Td>{door.port}</Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  );
}

function http(ingress: Ingress | null, url?: string): Door[] {
  const secured = new Map(
    (ingress?.spec.tls ?? []).flatMap((one) => (one.hosts ?? []).map((host) => [host, one])),
  );
  return (ingress?.spec.rules ?? []).flatMap((rule) =>
    (rule.http?.paths ?? []).map(({ path = "/", backend }) => {
      const host = rule.host ?? "*";
      const own =
        url && /^https?:/.test(url) && url.includes(`//${host}`)
          ? url.replace(/\/$/, "") + path
          : undefined;
      const port = backend.service?.port;
      return {
        protocol: secured.has(host) ? "HTTPS" : "HTTP",
        host,
        path,
        port: String(port?.name ?? port?.number ?? ""),
        href: own,
      };
    }),
  );
}

/** Its Service, as all in the cluster reach it, and the nodes' ports that lead to it. */
function ports(service: Service | null, inside: string): Door[] {
  return (service?.spec.ports ?? []).flatMap((one) => {
    const door = { protocol: one.protocol ?? "TCP", host: `${inside}.svc`, path: "" };
    const own = { ...door, port: [one.name, one.port].filter(Boolean).join(" ") };
    return one.nodePort ? [own, { ...door, host: "*", port: String(one.nodePort) }] : [own];
  });
}

async function there<T>(path: string): Promise<T | null> {
  try {
    return await get<T>(path);
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return null;
    throw error;
  }
}
