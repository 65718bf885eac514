// Tables that follow the cluster. All who show the same list share one stream; what arrives within
// a frame is shown once.

import { useSyncExternalStore } from "react";
import { Refused, get } from "./api";

export interface Column {
  name: string;
  type: string;
  priority: number;
  description: string;
}

export interface Row {
  namespace: string;
  name: string;
  uid: string;
  created: string | null;
  ending: string | null;
  labels: Record<string, string>;
  /** Annotations of ours that lists show, where there are any. */
  notes?: Record<string, string>;
  cells: (string | number | boolean | null)[];
}

export interface Table {
  columns: Column[];
  /** By namespace and name. */
  rows: readonly Row[];
  ready: boolean;
  /** Why nothing comes: `forbidden`, or the connection is away. */
  fault: "" | "refused" | "away";
}

const EMPTY: Table = { columns: [], rows: [], ready: false, fault: "" };
/** How long a list is still followed after the last page that showed it. */
const LINGER = 5_000;
/** A connection that broke is back within so long, or it is away. */
const DOUBT = 5_000;
/** When what was away is asked for again. */
const AGAIN = 3_000;
/** Up to so many new rows are put in their places one by one; more are sorted again. */
const FEW = 64;

class Live {
  table = EMPTY;
  private rows = new Map<string, Row>();
  private source: EventSource | null = null;
  private readonly watchers = new Set<() => void>();
  private sorted: Row[] = [];
  private fresh: Row[] = [];
  private resort = false;
  private due = 0;
  private columns: Column[] = [];
  private ready = false;
  private fault: Table["fault"] = "";
  private leaving: ReturnType<typeof setTimeout> | undefined;
  private doubt: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly path: string) {}

  readonly subscribe = (watcher: () => void) => {
    this.watchers.add(watcher);
    clearTimeout(this.leaving);
    if (!this.source) this.open();
    return () => {
      this.watchers.delete(watcher);
      if (this.watchers.size === 0) this.leaving = setTimeout(() => this.close(), LINGER);
    };
  };

  readonly snapshot = () => this.table;

  private open() {
    const source = new EventSource(`/live?path=${encodeURIComponent(this.path)}`);
    this.source = source;
    source.addEventListener("columns", (event) => {
      this.columns = JSON.parse(event.data);
      this.rows.clear();
      this.sorted = [];
      this.fresh = [];
      this.ready = false;
      this.fault = "";
      clearTimeout(this.doubt);
    });
    source.addEventListener("rows", (event) => {
      for (const row of JSON.parse(event.data) as Row[]) this.set(row);
      this.changed();
    });
    source.addEventListener("gone", (event) => {
      for (const [namespace, name] of JSON.parse(event.data) as [string, string][]) {
        this.rows.delete(`${namespace}/${name}`);
      }
      this.resort = true;
      this.changed();
    });
    source.addEventListener("ready", () => {
      this.ready = true;
      this.changed();
    });
    // The console's server is there, what it asks is not.
    source.addEventListener("away", () => this.fail("away"));
    source.onerror = () => {
      // A broken connection is taken up again by the browser; what was refused is not.
      if (source.readyState !== EventSource.CLOSED) {
        clearTimeout(this.doubt);
        this.doubt = setTimeout(() => this.fail("away"), DOUBT);
        return;
      }
      this.source = null;
      void this.why();
    };
  }

  /** An event source does not say why it was refused: the list itself does. */
  private async why() {
    let fault: Table["fault"] = "away";
    try {
      await get(`${this.path}?limit=1`);
    } catch (error) {
      const final = error instanceof Refused && [400, 403, 404].includes(error.status);
      if (final) fault = "refused";
    }
    this.fail(fault);
    if (fault === "refused") return;
    setTimeout(() => {
      if (!this.source && this.watchers.size > 0) this.open();
    }, AGAIN);
  }

  private fail(fault: Table["fault"]) {
    this.fault = fault;
    this.table = { ...this.table, fault };
    this.tell();
  }

  private set(row: Row) {
    const key = `${row.namespace}/${row.name}`;
    if (!this.rows.has(key)) this.fresh.push(row);
    else this.resort = true;
    this.rows.set(key, row);
  }

  private changed() {
    if (!this.ready || this.due) return;
    this.due = requestAnimationFrame(() => {
      this.due = 0;
      this.settle();
      this.tell();
    });
  }

  private settle() {
    if (this.fresh.length > FEW) {
      this.sorted = [...this.rows.values()].sort(before);
    } else if (this.resort || this.fresh.length > 0) {
      // Those that were there keep their places; each is looked up for what it became.
      const next: Row[] = [];
      const fresh = this.fresh.filter((row) => this.rows.has(`${row.namespace}/${row.name}`));
      fresh.sort(before);
      let index = 0;
      for (const old of this.sorted) {
        const row = this.rows.get(`${old.namespace}/${old.name}`);
        if (!row) continue;
        for (let add = fresh[index]; add && before(add, row) < 0; add = fresh[++index]) {
          next.push(add);
        }
        next.push(row);
      }
      next.push(...fresh.slice(index));
      this.sorted = next;
    }
    this.fresh = [];
    this.resort = false;
    const { columns, sorted: rows, ready, fault } = this;
    this.table = { columns, rows, ready, fault };
  }

  private tell() {
    for (const watcher of this.watchers) watcher();
  }

  forget() {
    clearTimeout(this.leaving);
    this.table = EMPTY;
    this.close();
  }

  private close() {
    clearTimeout(this.doubt);
    this.source?.close();
    this.source = null;
    if (open.get(this.path) === this) open.delete(this.path);
  }
}

function before(a: Row, b: Row): number {
  if (a.namespace !== b.namespace) return a.namespace < b.namespace ? -1 : 1;
  return a.name < b.name ? -1 : a.name > b.name ? 1 : 0;
}

/** Of who was logged in, nothing stays for who comes next. */
export function forget(): void {
  for (const live of [...open.values()]) live.forget();
}

const open = new Map<string, Live>();
const nobody = { subscribe: () => () => {}, snapshot: () => EMPTY };

/** The table of the list at `path`, as it is now; nothing for an empty path. */
export function useLive(path: string): Table {
  let live: { subscribe: Live["subscribe"]; snapshot: Live["snapshot"] } = nobody;
  if (path) {
    const known = open.get(path) ?? new Live(path);
    open.set(path, known);
    live = known;
  }
  return useSyncExternalStore(live.subscribe, live.snapshot);
}

/** What a row says under the column `name`. */
export function cell(table: Table, row: Row, name: string): string {
  const index = table.columns.findIndex((column) => column.name === name);
  return String(row.cells[index] ?? "");
}
