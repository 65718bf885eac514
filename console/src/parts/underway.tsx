// What is being done about it, and what changed: releases, and what people did here.

import { Group, Stack, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { acts } from "../api";
import { cell, useLive } from "../live";
import { listOf, useScope } from "../scope";
import { useServed } from "../words/served";
import { tone } from "./health";
import { image } from "./quantity";
import { since } from "./time";

const HOUR = 3_600_000;
const ACTS_EVERY = 30_000;
const MOST = 20;
const OVER = new Set(["Aborted", "Succeeded", "Superseded"]);

function useReleases() {
  const { namespace } = useScope();
  return useLive(listOf("/apis/berth.dev/v1", "releases", namespace));
}

/** Releases that are not over: on their way, paused, waiting, being taken back. */
export function UnderWay() {
  const { t } = useTranslation();
  const served = useServed();
  const table = useReleases();
  if (table.fault === "refused") return null;
  const rows = table.rows.filter((row) => !OVER.has(cell(table, row, "Phase") || "Waiting"));
  return (
    <section aria-label={t("underWay")}>
      <Title order={2} size="h4" mb="xs">
        {t("underWay")}
      </Title>
      {table.ready && rows.length === 0 && <Text c="dimmed">{t("nothingUnderWay")}</Text>}
      <Stack gap={4}>
        {rows.slice(0, MOST).map((row) => {
          const phase = cell(table, row, "Phase") || "Waiting";
          return (
            <Group key={`${row.namespace}/${row.name}`} gap="sm" fz="sm">
              <span className={phase === "Aborting" ? "ill" : tone("Phase", phase)}>
                {served("states", phase)}
              </span>
              <Link href={`/releases/${row.namespace}/${row.name}`}>
                {row.namespace}/{row.name}
              </Link>
              <Text size="sm">{cell(table, row, "Step")}</Text>
              <Text size="sm" c="dimmed" className="said">
                {cell(table, row, "Message")}
              </Text>
            </Group>
          );
        })}
        {rows.length > MOST && <Text size="sm">+ {rows.length - MOST}</Text>}
      </Stack>
    </section>
  );
}

/** Releases of the last hour, whoever made them, and what people did through the console. */
export function Changed() {
  const { t } = useTranslation();
  const served = useServed();
  const table = useReleases();
  const { namespace } = useScope();
  const recent = useQuery({
    queryKey: ["acts", "recent", namespace],
    queryFn: () => acts(new URLSearchParams({ namespace })),
    refetchInterval: ACTS_EVERY,
    retry: false,
  });
  const from = Date.now() - HOUR;
  const did = (recent.data ?? [])
    .filter((act) => act.at > from && act.path !== "/session" && act.status < 400)
    .filter((act) => !act.verb.endsWith("(dry run)"))
    .map((act) => ({
      at: act.at,
      key: act.id,
      what: (
        <>
          {act.account} · {act.verb} {act.path} · {act.status}
        </>
      ),
    }));
  const came = table.rows
    .map((row) => ({ row, at: Date.parse(row.created ?? "") }))
    .filter(({ at }) => at > from)
    .map(({ row, at }) => {
      const say = (name: string) => cell(table, row, name);
      return {
        at,
        key: row.uid,
        what: (
          <>
            <Link href={`/releases/${row.namespace}/${row.name}`}>
              {row.namespace}/{row.name}
            </Link>{" "}
            · {by(say("Author"))} {image(say("Image"))} ·{" "}
            <span className={tone("Phase", say("Phase"))}>{served("states", say("Phase"))}</span>{" "}
            {say("Cause")}
          </>
        ),
      };
    });
  const all = [...did, ...came].sort((a, b) => b.at - a.at);
  if (all.length === 0) return null;
  return (
    <section aria-label={t("changed")}>
      <Title order={2} size="h4" mb="xs">
        {t("changed")}
      </Title>
      {all.slice(0, MOST).map((one) => (
        <Text size="sm" key={one.key} className="said">
          {since(new Date(one.at).toISOString())} · {one.what}
        </Text>
      ))}
      {all.length > MOST && <Text size="sm">+ {all.length - MOST}</Text>}
    </section>
  );
}

function by(author: string): string {
  return author ? `${author} ·` : "";
}
