// The cluster: its parts, its nodes, what they have and what is asked of them.

import { Stack, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import { get } from "../api";
import { useLive } from "../live";
import { Components } from "../parts/components";
import { Day } from "../parts/day";
import { Heat } from "../parts/heat";
import { LiveTable } from "../parts/table";

export default function Fleet() {
  const { t } = useTranslation();
  return (
    <Stack>
      <Title order={1} size="h3">
        {t("fleet")}
      </Title>
      <Clusters />
      <Components />
      <Heat />
      <Day />
      <LiveTable title={t("nodes")} path="/api/v1/nodes" to={(row) => `/fleet/${row.name}`} short />
    </Stack>
  );
}

/** The cluster that is looked at, and those that it knows, where it knows any. */
function Clusters() {
  const { t } = useTranslation();
  const nodes = useLive("/api/v1/nodes");
  const version = useQuery({
    queryKey: ["version"],
    queryFn: () => get<{ gitVersion: string; platform?: string }>("/version"),
    staleTime: 300_000,
    retry: false,
  });
  return (
    <section aria-label={t("cluster")}>
      <Title order={2} size="h4" mb="xs">
        {t("cluster")}
      </Title>
      <Text size="sm">
        {location.host} · Kubernetes {version.data?.gitVersion ?? "…"} · {version.data?.platform}{" "}
        {nodes.ready && `· ${t("nodes")}: ${nodes.rows.length}`}
      </Text>
    </section>
  );
}
