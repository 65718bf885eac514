// An App's charts: of all its instances together, or of one.

import { NativeSelect, SimpleGrid, Stack, Text } from "@mantine/core";
import { Suspense, useState } from "react";
import { useTranslation } from "react-i18next";
import { bytes, small } from "./quantity";
import { later } from "./later";
import { type Measures, measures, useTrends } from "./trends";

const Chart = later(() => import("./chart"));

export function Charts({ namespace, app }: { namespace: string; app: string }) {
  const { t } = useTranslation();
  const points = useTrends(namespace, app);
  const [chosen, setChosen] = useState("");
  const pods = Object.keys(points?.at(-1)?.pods ?? {});
  if (!points) return <Text c="dimmed">{t("loading")}</Text>;
  if (points.length === 0) return <Text c="dimmed">{t("measuring")}</Text>;
  const times = points.map((point) => point.at);
  const all = points.map((point) => measures(point, chosen || undefined));
  const line = (label: string, of: keyof Measures) => ({
    label,
    values: all.map((one) => one[of]),
  });
  const answered = points.some((point) => measures(point).requests !== null);
  return (
    <Stack>
      <NativeSelect
        label={t("instances")}
        value={chosen}
        onChange={(event) => setChosen(event.currentTarget.value)}
        data={[{ value: "", label: t("together") }, ...pods]}
        maw={360}
      />
      <Suspense fallback={<Text c="dimmed">{t("loading")}</Text>}>
        <SimpleGrid cols={{ base: 1, md: 2 }}>
          <Chart title={t("cpu")} times={times} said={small} lines={[line(t("cores"), "cpu")]} />
          <Chart
            title={t("memory")}
            times={times}
            said={bytes}
            binary
            lines={[
              line("RSS", "rss"),
              line(t("rssAndCache"), "weighed"),
              line(t("workingSet"), "workingSet"),
            ]}
          />
          {answered && (
            <>
              <Chart
                title={t("requests")}
                times={times}
                said={rate}
                lines={[line(t("aSecond"), "requests")]}
              />
              <Chart
                title={t("success")}
                times={times}
                said={percent}
                most={100}
                lines={[line(t("below500"), "success")]}
              />
              <Chart
                title={t("latency")}
                times={times}
                said={milliseconds}
                lines={[line(t("average"), "latency")]}
              />
            </>
          )}
        </SimpleGrid>
      </Suspense>
      {!answered && (
        <Text size="sm" c="dimmed">
          {t("noBalancer")}
        </Text>
      )}
    </Stack>
  );
}

function rate(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toFixed(1);
}

function percent(value: number): string {
  return `${value >= 99.95 || value === 0 ? value.toFixed(0) : value.toFixed(1)} %`;
}

function milliseconds(value: number): string {
  return `${value >= 10 ? value.toFixed(0) : value.toFixed(1)} ms`;
}
