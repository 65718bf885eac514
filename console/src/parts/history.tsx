// Two versions of an App beside each other, as its Releases keep them.

import { Group, NativeSelect, Stack, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { dump } from "js-yaml";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { get } from "../api";
import { type Row, type Table, cell, useLive } from "../live";
import { Diff } from "./diff";
import { since } from "./time";

const APP = "berth.dev/app";
const NOW = "";

interface Release {
  spec: { appSpec: Record<string, unknown> };
}

/** `now` is the App's spec as it is. */
export function History(given: { namespace: string; name: string; now: unknown }) {
  const { t } = useTranslation();
  const { namespace, name, now } = given;
  const list = `/apis/berth.dev/v1/namespaces/${namespace}/releases`;
  const table = useLive(list);
  const rows = table.rows
    .filter((row) => row.labels[APP] === name)
    .sort((a, b) => revision(b.name) - revision(a.name));
  const [before, setBefore] = useState<string | null>(null);
  const [after, setAfter] = useState(NOW);
  // What ran before what runs.
  const from = before ?? rows[1]?.name ?? rows[0]?.name ?? NOW;
  const older = useSpec(list, from);
  const newer = useSpec(list, after);
  if (rows.length === 0) return null;
  const choices = [
    { value: NOW, label: t("asItIs") },
    ...rows.map((row) => ({ value: row.name, label: told(table, row) })),
  ];
  const texts = [
    [from, older],
    [after, newer],
  ].map(([which, found]) => (which === NOW ? dump(now) : (found as string | undefined)));
  return (
    <Stack gap="xs">
      <Text size="sm" c="dimmed">
        {t("compareHint")}
      </Text>
      <Group align="end">
        <NativeSelect
          label={t("previousVersion")}
          data={choices}
          value={from}
          onChange={(event) => setBefore(event.currentTarget.value)}
        />
        <NativeSelect
          label={t("nextVersion")}
          data={choices}
          value={after}
          onChange={(event) => setAfter(event.currentTarget.value)}
        />
      </Group>
      {texts[0] !== undefined && texts[1] !== undefined ? (
        <Diff before={texts[0]} after={texts[1]} />
      ) : (
        <Text>{t("loading")}</Text>
      )}
    </Stack>
  );
}

/** A Release's spec never changes: it is asked for once. */
function useSpec(list: string, name: string): string | undefined {
  const found = useQuery({
    queryKey: ["version", list, name],
    queryFn: async () => dump((await get<Release>(`${list}/${name}`)).spec.appSpec),
    enabled: name !== NOW,
    staleTime: Infinity,
  });
  return found.data;
}

/** `hello-3`: the third. */
function revision(name: string): number {
  return Number(name.slice(name.lastIndexOf("-") + 1));
}

function told(table: Table, row: Row): string {
  const words = [cell(table, row, "Phase"), cell(table, row, "Author"), cell(table, row, "Cause")];
  const age = row.created ? since(row.created) : "";
  return [row.name, age, ...words].filter(Boolean).join(" · ");
}
