// Nodes: conditions as a table, use as a heat map.

import { Stack, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { get } from "../api";
import { Day } from "../parts/day";
import { bytes, cores, quantity } from "../parts/quantity";
import { LiveTable } from "../parts/table";

const EVERY = 15_000;

interface Nodes {
  items: {
    metadata: { name: string };
    status: { allocatable?: Record<string, string> };
  }[];
}

interface Measured {
  items: { metadata: { name: string }; usage: Record<string, string> }[];
}

export default function Fleet() {
  const { t } = useTranslation();
  return (
    <Stack>
      <Title order={1} size="h3">
        {t("fleet")}
      </Title>
      <Heat />
      <Day />
      <LiveTable
        title={t("nodes")}
        path="/api/v1/nodes"
        to={(row) => `/item/core/v1/nodes/-/${row.name}`}
        short
      />
    </Stack>
  );
}

/** A field a node, coloured by how much of its processors is used. */
function Heat() {
  const { t } = useTranslation();
  const fleet = useQuery({
    queryKey: ["fleet"],
    queryFn: async () => {
      const [nodes, measured] = await Promise.all([
        get<Nodes>("/api/v1/nodes?resourceVersion=0"),
        get<Measured>("/apis/metrics.k8s.io/v1beta1/nodes").catch(() => ({ items: [] })),
      ]);
      const use = new Map(measured.items.map((item) => [item.metadata.name, item.usage]));
      return nodes.items.map((node) => ({
        name: node.metadata.name,
        cpu: quantity(node.status.allocatable?.cpu),
        memory: quantity(node.status.allocatable?.memory),
        usedCpu: quantity(use.get(node.metadata.name)?.cpu),
        usedMemory: quantity(use.get(node.metadata.name)?.memory),
      }));
    },
    refetchInterval: EVERY,
    retry: false,
  });
  if (!fleet.data) return null;
  return (
    <section aria-label={t("capacity")}>
      <Title order={2} size="h4" mb="xs">
        {t("capacity")}
      </Title>
      <div className="heat">
        {fleet.data.map((node) => {
          const share = node.cpu > 0 ? Math.min(1, node.usedCpu / node.cpu) : 0;
          const title = `${node.name}: ${cores(node.usedCpu)} / ${cores(node.cpu)}, ${bytes(node.usedMemory)} / ${bytes(node.memory)}`;
          return (
            <Link
              key={node.name}
              href={`/item/core/v1/nodes/-/${node.name}`}
              title={title}
              style={{ background: `hsl(${Math.round(130 - 130 * share)} 65% 72%)` }}
            >
              {node.name} {Math.round(share * 100)} %
            </Link>
          );
        })}
      </div>
      <Text size="xs" c="dimmed" mt={4}>
        {t("cpu")}, {t("used")}
      </Text>
    </section>
  );
}
