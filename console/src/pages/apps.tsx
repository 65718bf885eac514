// All apps: health, version, replicas, and what they use of what they ask for.

import { Button } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useMemo } from "react";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { type AppLoad, appLoads } from "../api";
import { type Row, type Table, cell } from "../live";
import { appFault, workloadFault } from "../parts/health";
import { bytes, image, small } from "../parts/quantity";
import { LiveTable, type Own } from "../parts/table";
import { listOf, useScope } from "../scope";

const EVERY = 15_000;
/** Columns of the API's own table that are told otherwise here. */
const TOLD = ["Image", "Ready"];

export default function Apps() {
  const { t } = useTranslation();
  const { namespace } = useScope();
  const found = useQuery({
    queryKey: ["loads", namespace],
    queryFn: async () => {
      const loads = await appLoads(namespace);
      return new Map(loads.map((one) => [`${one.namespace}/${one.app}`, one]));
    },
    refetchInterval: EVERY,
    retry: false,
  });
  const loads = found.data;
  const columns = useMemo((): Own[] => {
    const of = (row: Row) => loads?.get(`${row.namespace}/${row.name}`);
    return [
      { name: t("health"), width: [110, 1], show: (table, row) => <Health {...{ table, row }} /> },
      { name: t("version"), width: [130, 1], show: version },
      { name: t("replicas"), width: [72, 0.5], show: (table, row) => cell(table, row, "Ready") },
      { name: t("cpu"), width: [110, 1], show: (_, row) => share(of(row), "cpu", millicores) },
      { name: t("memory"), width: [150, 1], show: (_, row) => share(of(row), "memory", bytes) },
    ];
  }, [t, loads]);
  return (
    <LiveTable
      title={t("apps")}
      path={listOf("/apis/berth.dev/v1", "apps", namespace)}
      to={(row) => `/apps/${row.namespace}/${row.name}`}
      none={t("noApps")}
      own={columns}
      without={TOLD}
      extra={
        <Button component={Link} href="/new/berth.dev/v1/apps" size="xs">
          {t("make")}
        </Button>
      }
    />
  );
}

function Health({ table, row }: { table: Table; row: Row }) {
  const { t } = useTranslation();
  const fault = appFault(table, row);
  if (fault) return <span className="ill">{fault}</span>;
  const ready = cell(table, row, "Ready");
  if (!ready || workloadFault(table, row)) return <span className="waits">{t("starting")}</span>;
  if (ready === "0/0") return <span>{t("stopped")}</span>;
  return <span className="well">{t("well")}</span>;
}

/** The commit that it was built from, else its image's tag, else as much of the digest as tells. */
function version(table: Table, row: Row): string {
  const commit = cell(table, row, "Commit");
  if (commit) return commit.slice(0, 12);
  const whole = cell(table, row, "Image");
  const [named = "", digest] = whole.split("@");
  const last = named.slice(named.lastIndexOf("/") + 1);
  const tag = last.includes(":") ? last.slice(last.indexOf(":") + 1) : "";
  return tag || (digest ? image(`@${digest}`).slice(1) : "latest");
}

function share(
  load: AppLoad | undefined,
  what: "cpu" | "memory",
  said: (amount: number) => string,
): string {
  if (!load) return "–";
  return `${load.used ? said(load.used[what]) : "–"} / ${said(load.requested[what])}`;
}

function millicores(amount: number): string {
  return small(amount / 1000);
}
