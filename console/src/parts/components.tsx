// What the cluster is made of, and whether it is well; whichever namespace is looked at.

import { Group, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { type Component, components } from "../api";

const EVERY = 15_000;

export function Components() {
  const { t } = useTranslation();
  const found = useQuery({
    queryKey: ["components"],
    queryFn: components,
    refetchInterval: EVERY,
    retry: false,
  });
  if (!found.data?.length) return null;
  return (
    <section aria-label={t("components")}>
      <Title order={2} size="h4" mb="xs">
        {t("components")}
      </Title>
      <Group gap="lg">
        {found.data.map((one) => (
          <Group gap={6} key={`${one.kind}/${one.namespace}/${one.name}`} fz="sm">
            <Named one={one} />
            <span className={one.well ? "well" : "ill"}>
              {one.well ? t("healthy") : t("unhealthy")}
            </span>
            <Text size="xs" c="dimmed">
              {one.said}
            </Text>
          </Group>
        ))}
      </Group>
    </section>
  );
}

function Named({ one }: { one: Component }) {
  const lists: Record<string, string> = {
    Deployment: "apps/v1/deployments",
    DaemonSet: "apps/v1/daemonsets",
    leader: "coordination.k8s.io/v1/leases",
  };
  const list = lists[one.kind];
  if (list) return <Link href={`/item/${list}/${one.namespace}/${one.name}`}>{one.name}</Link>;
  return <span>{one.name}</span>;
}
