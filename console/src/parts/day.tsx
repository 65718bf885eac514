// What the cluster asked for and used in the last day, for those who may see it.

import { SimpleGrid, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { Suspense } from "react";
import { useTranslation } from "react-i18next";
import { send } from "../api";
import { bytes, small } from "./quantity";
import { later } from "./later";

const Chart = later(() => import("./chart"));
const EVERY = 60_000;

interface Amount {
  cpu: number;
  memory: number;
}

interface Minute {
  at: number;
  requested: Amount;
  used: Amount;
}

export function Day() {
  const { t } = useTranslation();
  const found = useQuery({
    queryKey: ["minutes"],
    queryFn: async (): Promise<Minute[]> => (await (await send("/usage/minutes")).json()).items,
    refetchInterval: EVERY,
    retry: false,
  });
  const minutes = found.data ?? [];
  if (minutes.length < 2) return null;
  const times = minutes.map((minute) => minute.at);
  const lines = (of: (amount: Amount) => number) => [
    { label: t("used"), values: minutes.map((minute) => of(minute.used)) },
    { label: t("requested"), values: minutes.map((minute) => of(minute.requested)) },
  ];
  return (
    <section aria-label={t("lastDay")}>
      <Title order={2} size="h4" mb="xs">
        {t("lastDay")}
      </Title>
      <Suspense fallback={<Text c="dimmed">{t("loading")}</Text>}>
        <SimpleGrid cols={{ base: 1, md: 2 }}>
          <Chart title={t("cpu")} times={times} said={small} lines={lines(millicores)} />
          <Chart title={t("memory")} times={times} said={bytes} binary lines={lines(memory)} />
        </SimpleGrid>
      </Suspense>
    </section>
  );
}

function millicores(amount: Amount): number {
  return amount.cpu / 1000;
}

function memory(amount: Amount): number {
  return amount.memory;
}
