// A table of any length: only the lines in sight are in the page.

import { Alert, Group, Loader, Text, TextInput, Title } from "@mantine/core";
import { useVirtualizer } from "@tanstack/react-virtual";
import { Fragment, type ReactNode, useDeferredValue, useMemo, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { type Row, type Table, useLive } from "../live";
import { tone } from "./health";
import { image } from "./quantity";
import { since, useTurn } from "./time";
import { useServed } from "../words/served";

const LINE = 32;
/** Ages grow, whether anything changes or not; milliseconds. */
const AGES_EVERY = 10_000;
/** Columns that Kubernetes marks as of lesser weight have a higher priority. */
const WEIGHTY = 0;

/** A column that the API's table has not. */
export interface Own {
  name: string;
  /** Pixels at least, and a share of what is left. */
  width: [number, number];
  show: (table: Table, row: Row) => ReactNode;
}

interface Shown {
  title: string;
  path: string;
  /** Where a line leads. */
  to?: (row: Row) => string;
  keep?: (row: Row, table: Table) => boolean;
  /** One of several on its page; else it is the page. */
  short?: boolean;
  none?: string;
  extra?: ReactNode;
  /** Columns behind the name; they stay as they are from one time to the next. */
  own?: Own[];
  /** Columns of the API's table that are not shown. */
  without?: string[];
}

/** Columns that are not as wide as most: pixels at least, and a share of what is left. */
const WIDTHS: Record<string, [number, number]> = {
  Name: [200, 2],
  Image: [200, 2],
  URL: [220, 2],
  Object: [220, 2],
  Message: [340, 5],
  Step: [180, 2],
  Age: [56, 0.5],
  Ready: [64, 0.5],
  Restarts: [80, 0.5],
  Type: [88, 0.5],
  "Last Seen": [80, 0.5],
};
const WIDTH: [number, number] = [104, 1];
const GAP = 12;

/** The list at `path`, live, with a search over all that is shown. */
export function LiveTable(given: Shown) {
  const { title, path, to, keep, short, none, extra, own, without } = given;
  const { t } = useTranslation();
  const table = useLive(path);
  const [search, setSearch] = useState("");
  const wanted = useDeferredValue(search.trim().toLowerCase());
  const rows = useMemo(() => {
    const kept = keep ? table.rows.filter((row) => keep(row, table)) : table.rows;
    return wanted ? kept.filter((row) => searched(row).includes(wanted)) : kept;
  }, [table, wanted, keep]);

  return (
    <section aria-label={title}>
      <Group justify="space-between" mb="xs">
        <Title order={short ? 2 : 1} size={short ? "h4" : "h3"}>
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
      {rows.length > 0 && (
        <Lines
          table={table}
          rows={rows}
          to={to}
          short={short}
          one={path.includes("/namespaces/")}
          own={own}
          without={without}
        />
      )}
    </section>
  );
}

function Lines(given: {
  table: Table;
  rows: readonly Row[];
  to?: (row: Row) => string;
  short?: boolean;
  /** Of one namespace alone, which needs not be said. */
  one: boolean;
  own?: Own[];
  without?: string[];
}) {
  const { table, rows, to, short, one, own = [], without = [] } = given;
  const scroller = useRef<HTMLDivElement>(null);
  const lines = useVirtualizer({
    count: rows.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => LINE,
    overscan: 12,
  });
  const { t } = useTranslation();
  const served = useServed();
  useTurn(AGES_EVERY);
  const columns = table.columns
    .map((column, index) => ({ column, index }))
    .filter(({ column }) => column.priority === WEIGHTY && !without.includes(column.name));
  const namespaced = !one && rows.some((row) => row.namespace);
  const widths = columns.map(({ column }) => WIDTHS[column.name] ?? WIDTH);
  widths.splice(1, 0, ...own.map((column) => column.width));
  if (namespaced) widths.unshift([120, 1]);
  const grid = {
    gridTemplateColumns: widths.map(([least, share]) => `minmax(${least}px, ${share}fr)`).join(" "),
  };
  // Lines are apart from one another: their columns stand below each other by being as wide.
  const least = widths.reduce((sum, [width]) => sum + width + GAP, GAP);

  return (
    <div
      className={short ? "table short" : "table"}
      ref={scroller}
      role="table"
      aria-rowcount={rows.length + 1}
      tabIndex={0}
    >
      <div className="line head" role="row" style={{ ...grid, minWidth: least }}>
        {namespaced && <span role="columnheader">{t("namespace")}</span>}
        {columns.map(({ column }, at) => (
          <Fragment key={column.name}>
            <span role="columnheader" title={column.description}>
              {served("columns", column.name)}
            </span>
            {at === 0 &&
              own.map(({ name }) => (
                <span role="columnheader" key={name}>
                  {name}
                </span>
              ))}
          </Fragment>
        ))}
      </div>
      <div
        role="rowgroup"
        style={{ height: lines.getTotalSize(), minWidth: least, position: "relative" }}
      >
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
              {columns.map(({ column, index }, at) => (
                <Fragment key={column.name}>
                  <span
                    role="cell"
                    className={tone(column.name, row.cells[index])}
                    title={text(row.cells[index])}
                  >
                    {column.name === "Name" && to ? (
                      <Link href={to(row)}>{text(row.cells[index])}</Link>
                    ) : (
                      shown(served, column.name, row, row.cells[index])
                    )}
                  </span>
                  {at === 0 &&
                    own.map((extra) => (
                      <span role="cell" key={extra.name}>
                        {extra.show(table, row)}
                      </span>
                    ))}
                </Fragment>
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

function text(cell: Row["cells"][number] | undefined): string {
  return String(cell ?? "");
}

/** Columns whose values are words of the server's, and of which sort. */
const WORDS: Record<string, "states" | "steps"> = {
  Status: "states",
  Phase: "states",
  Type: "states",
  Strategy: "steps",
};

function shown(
  served: ReturnType<typeof useServed>,
  column: string,
  row: Row,
  cell: Row["cells"][number] | undefined,
): string {
  if (column === "Age" && row.created) return since(row.created);
  const sort = WORDS[column];
  if (sort) return served(sort, text(cell));
  // `canary 20% (2/4)`.
  if (column === "Step") return text(cell).replace(/^\w+/, (kind) => served("steps", kind));
  return column.startsWith("Image") ? image(text(cell)) : text(cell);
}

/** What a row is searched by, made once. */
function searched(row: Row): string {
  let known = texts.get(row);
  if (known === undefined) {
    known = `${row.namespace}/${row.name} ${row.cells.join(" ")}`.toLowerCase();
    texts.set(row, known);
  }
  return known;
}
