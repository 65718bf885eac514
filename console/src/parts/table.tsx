// A table of any length: only the lines in sight are in the page.

import { Alert, Group, Loader, Text, TextInput, Title } from "@mantine/core";
import { useVirtualizer } from "@tanstack/react-virtual";
import { type ReactNode, useDeferredValue, useMemo, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { type Row, type Table, useLive } from "../live";
import { since } from "./time";

const LINE = 32;
/** Columns that Kubernetes marks as of lesser weight have a higher priority. */
const WEIGHTY = 0;

interface Shown {
  title: string;
  path: string;
  /** Where a line leads. */
  to?: (row: Row) => string;
  keep?: (row: Row, table: Table) => boolean;
  short?: boolean;
  none?: string;
  extra?: ReactNode;
}

/** The list at `path`, live, with a search over all that is shown. */
export function LiveTable({ title, path, to, keep, short, none, extra }: Shown) {
  const { t } = useTranslation();
  const table = useLive(path);
  const [search, setSearch] = useState("");
  const wanted = useDeferredValue(search.trim().toLowerCase());
  const rows = useMemo(() => {
    const kept = keep ? table.rows.filter((row) => keep(row, table)) : table.rows;
    return wanted ? kept.filter((row) => text(row).includes(wanted)) : kept;
  }, [table, wanted, keep]);

  return (
    <section aria-label={title}>
      <Group justify="space-between" mb="xs">
        <Title order={2} size="h4">
          {title}
        </Title>
        <Group gap="xs">
          {extra}
          <Text size="sm" c="dimmed" role="status">
            {table.ready
              ? rows.length === table.rows.length
                ? t("count", { count: rows.length })
                : t("shown", { shown: rows.length, count: table.rows.length })
              : ""}
          </Text>
          <TextInput
            size="xs"
            aria-label={t("search")}
            placeholder={t("search")}
            value={search}
            onChange={(event) => setSearch(event.currentTarget.value)}
          />
        </Group>
      </Group>
      {table.fault && (
        <Alert color={table.fault === "away" ? "yellow" : "red"} mb="xs">
          {t(table.fault)}
        </Alert>
      )}
      {!table.ready && !table.fault && <Loader size="sm" aria-label={t("loading")} />}
      {table.ready && rows.length === 0 && <Text c="dimmed">{none ?? t("empty")}</Text>}
      {rows.length > 0 && <Lines table={table} rows={rows} to={to} short={short} />}
    </section>
  );
}

function Lines(given: {
  table: Table;
  rows: readonly Row[];
  to?: (row: Row) => string;
  short?: boolean;
}) {
  const { table, rows, to, short } = given;
  const scroller = useRef<HTMLDivElement>(null);
  const lines = useVirtualizer({
    count: rows.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => LINE,
    overscan: 12,
  });
  const { t } = useTranslation();
  const columns = table.columns
    .map((column, index) => ({ column, index }))
    .filter(({ column }) => column.priority === WEIGHTY);
  const namespaced = rows.some((row) => row.namespace);
  const widths: string[] = columns.map(({ column }) =>
    column.name === "Name" ? "minmax(220px, 2fr)" : "minmax(90px, 1fr)",
  );
  if (namespaced) widths.unshift("minmax(120px, 1fr)");
  const grid = { gridTemplateColumns: widths.join(" ") };

  return (
    <div
      className={short ? "table short" : "table"}
      ref={scroller}
      role="table"
      aria-rowcount={rows.length + 1}
      tabIndex={0}
    >
      <div className="line head" role="row" style={grid}>
        {namespaced && <span role="columnheader">{t("namespace")}</span>}
        {columns.map(({ column }) => (
          <span role="columnheader" key={column.name} title={column.description}>
            {column.name}
          </span>
        ))}
      </div>
      <div role="rowgroup" style={{ height: lines.getTotalSize(), position: "relative" }}>
        {lines.getVirtualItems().map((item) => {
          const row = rows[item.index];
          if (!row) return null;
          const style = {
            ...grid,
            position: "absolute" as const,
            top: 0,
            left: 0,
            right: 0,
            transform: `translateY(${item.start}px)`,
          };
          const cells = (
            <>
              {namespaced && <span role="cell">{row.namespace}</span>}
              {columns.map(({ column, index }) => (
                <span role="cell" key={column.name}>
                  {column.name === "Name" && to ? (
                    <Link href={to(row)}>{String(row.cells[index] ?? "")}</Link>
                  ) : column.name === "Age" && row.created ? (
                    since(row.created)
                  ) : (
                    String(row.cells[index] ?? "")
                  )}
                </span>
              ))}
            </>
          );
          return (
            <div
              className="line"
              role="row"
              aria-rowindex={item.index + 2}
              key={`${row.namespace}/${row.name}`}
              style={style}
            >
              {cells}
            </div>
          );
        })}
      </div>
    </div>
  );
}

const texts = new WeakMap<Row, string>();

/** What a row is searched by, made once. */
function text(row: Row): string {
  let known = texts.get(row);
  if (known === undefined) {
    known = `${row.namespace}/${row.name} ${row.cells.join(" ")}`.toLowerCase();
    texts.set(row, known);
  }
  return known;
}
