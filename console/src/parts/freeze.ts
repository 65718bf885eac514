// When no release may start: the windows that the release controller obeys, as spans of time.
//
// `FROM/UNTIL` in RFC 3339, `Fri@18:00/Mon@09:00` every week, `@22:00/@06:00` every day (UTC, or an
// offset behind the time), or `always`; a reason after a space; several apart by `;`. What cannot be
// read freezes, there as here.

import { useQuery } from "@tanstack/react-query";
import { useMemo } from "react";
import { useTranslation } from "react-i18next";
import { Refused, get } from "../api";
import { useLive } from "../live";
import { listOf } from "../scope";

export const ALL = "/api/v1/namespaces/kube-system/configmaps/berth-freeze";
const WINDOWS = "berth.dev/freeze";
const EXCEPT = "berth.dev/freeze-except";
const EVERY = 30_000;

const MINUTE = 60_000;
const DAY = 24 * 60;
const WEEK = 7 * DAY;
const DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/** A Monday, UTC. */
const MONDAY = Date.UTC(1970, 0, 5);
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)$/i;

/** Milliseconds since 1970; without an end it is infinite. */
export type Span = [from: number, until: number];

export interface Window {
  text: string;
  reason: string;
  wrong: boolean;
  /** Those that touch the time between two others. */
  spans: (from: number, until: number) => Span[];
}

export interface Rule {
  of: "everything" | "namespace" | "app";
  namespace: string;
  name: string;
  windows: Window[];
  except: string[];
}

export function read(text: string): Window[] {
  const parts = text.split(";").map((part) => part.trim());
  return parts.filter((part) => part).map(one);
}

function one(text: string): Window {
  const space = text.indexOf(" ");
  const span = space < 0 ? text : text.slice(0, space);
  const reason = space < 0 ? "" : text.slice(space).trim();
  const told = { text: span, reason, wrong: false };
  const always = () => [[-Infinity, Infinity]] as Span[];
  if (span === "always") return { ...told, spans: always };
  const slash = span.indexOf("/");
  const [from, until] = slash < 0 ? ["", ""] : [span.slice(0, slash), span.slice(slash + 1)];
  const [first, last] = [end(from), end(until)];
  if (first && last && first.period === last.period) {
    return { ...told, spans: (a, b) => again(first.minute, last.minute, first.period, a, b) };
  }
  if (TIME.test(from) && TIME.test(until)) {
    const [a, b] = [Date.parse(from), Date.parse(until)];
    if (!Number.isNaN(a) && !Number.isNaN(b)) {
      return { ...told, spans: (x, y) => (a < b && a < y && x < b ? [[a, b]] : []) };
    }
  }
  return { ...told, wrong: true, spans: always };
}

/** `Fri@18:00`, `@22:00+08:00`: minutes from where its period begins, in UTC. */
function end(text: string): { minute: number; period: number } | null {
  const parts = /^([a-z]*)@(\d\d):(\d\d)(?:Z|([+-])(\d\d):(\d\d))?$/i.exec(text);
  if (!parts) return null;
  const [, word = "", hour, minute, sign, hours = "0", minutes = "0"] = parts;
  const day = word ? DAYS.indexOf(word.toLowerCase()) : 0;
  const over = [Number(hour), Number(hours)].some((one) => one > 23);
  if (day < 0 || over || Number(minute) > 59 || Number(minutes) > 59) return null;
  const offset = (Number(hours) * 60 + Number(minutes)) * (sign === "-" ? -1 : 1);
  const period = word ? WEEK : DAY;
  return {
    minute: turned(day * DAY + Number(hour) * 60 + Number(minute) - offset, period),
    period,
  };
}

function again(first: number, last: number, period: number, from: number, until: number): Span[] {
  const long = turned(last - first, period) * MINUTE;
  const spans: Span[] = [];
  if (long === 0) return spans;
  const step = period * MINUTE;
  const begin = MONDAY + first * MINUTE;
  for (let at = begin + Math.floor((from - begin) / step) * step; at < until; at += step) {
    if (at + long > from) spans.push([at, at + long]);
  }
  return spans;
}

function turned(minute: number, period: number): number {
  return ((minute % period) + period) % period;
}

export interface Shut {
  until: number;
  window: Window;
}

/** Until when `rule` lets nothing start, over all windows that take turns; null when it does. */
export function shut(rule: Rule, at: number): Shut | null {
  const first = longest(rule, at);
  let last = first;
  // What takes turns for a year may as well do so for ever.
  while (last && last.until < at + 366 * DAY * MINUTE) {
    const next = longest(rule, last.until);
    if (!next) return first && { ...first, until: last.until };
    last = next;
  }
  return first && { ...first, until: Infinity };
}

/** The window that is shut at `at` for longest. */
function longest(rule: Rule, at: number): Shut | null {
  const all = rule.windows.flatMap((window) =>
    window.spans(at, at + 1).map(([, until]) => ({ until, window })),
  );
  return all.reduce<Shut | null>((a, b) => (a && a.until >= b.until ? a : b), null);
}

export interface Coming {
  from: number;
  window: Window;
}

/** What begins next after `at`. */
export function coming(rule: Rule, at: number): Coming | null {
  let found: Coming | null = null;
  for (const window of rule.windows) {
    // Those that come back do so within two weeks.
    const near = window.spans(at, at + 2 * WEEK * MINUTE);
    const spans = near.length > 0 ? near : window.spans(at, Infinity);
    for (const [from] of spans) {
      if (from > at && from < (found?.from ?? Infinity)) found = { from, window };
    }
  }
  return found;
}

/** Whether an exception of `rule` names the App. */
export function excepts(rule: Rule, namespace: string, app: string): boolean {
  return rule.except.some((one) => {
    const slash = one.indexOf("/");
    if (slash < 0) return one === app;
    const name = one.slice(slash + 1);
    return one.slice(0, slash) === namespace && (name === "*" || name === app);
  });
}

export interface Freezes {
  rules: Rule[];
  /** Not all that might freeze could be seen. */
  partly: boolean;
}

type Notes = Record<string, string> | undefined;

/** The rules for `namespace`, or for all of them; of its Apps for `app` alone, where one is given. */
export function useFreezes(namespace: string, app?: { name: string; notes: Notes }): Freezes {
  const all = useOne<{ data?: Record<string, string> }>(ALL);
  const namespaces = useLive("/api/v1/namespaces");
  const listed = namespaces.ready;
  // Who may not list namespaces may still see their own.
  const own = useOne<{ metadata: { annotations?: Record<string, string> } }>(
    namespace && namespaces.fault === "refused" ? `/api/v1/namespaces/${namespace}` : "",
  );
  const apps = useLive(app ? "" : listOf("/apis/berth.dev/v1", "apps", namespace));
  const [name, ours] = [app?.name, app?.notes];
  return useMemo(() => {
    const rules: Rule[] = [];
    const add = (of: Rule["of"], namespace: string, name: string, notes: Notes) => {
      const windows = read(notes?.[WINDOWS] ?? "");
      const apart = (notes?.[EXCEPT] ?? "").split(",").map((one) => one.trim());
      const except = apart.filter((one) => one);
      if (windows.length > 0) rules.push({ of, namespace, name, windows, except });
    };
    const { windows = "", except = "" } = all.data?.data ?? {};
    add("everything", "", "", { [WINDOWS]: windows, [EXCEPT]: except });
    for (const row of listed ? namespaces.rows : []) {
      if (namespace && row.name !== namespace) continue;
      add("namespace", "", row.name, row.notes);
    }
    if (!listed) add("namespace", "", namespace, own.data?.metadata.annotations);
    for (const row of apps.rows) add("app", row.namespace, row.name, row.notes);
    if (name) add("app", namespace, name, ours);
    const hidden = all.refused || own.refused || apps.fault === "refused";
    return { rules, partly: hidden || (!namespace && namespaces.fault === "refused") };
  }, [
    all.data,
    all.refused,
    own.data,
    own.refused,
    namespaces,
    listed,
    apps,
    namespace,
    name,
    ours,
  ]);
}

/** One object, looked at now and then; nothing for an empty path, or where there is none. */
function useOne<T>(path: string): { data: T | null | undefined; refused: boolean } {
  const found = useQuery({
    queryKey: ["item", "or none", path],
    queryFn: () =>
      get<T>(path).catch((error: unknown) => {
        if (error instanceof Refused && error.status === 404) return null;
        throw error;
      }),
    enabled: path !== "",
    refetchInterval: EVERY,
  });
  return { data: found.data, refused: found.isError };
}

/** Whose rule it is, for people. */
export function useWhose(): (rule: Rule) => string {
  const { t } = useTranslation();
  return (rule) => {
    if (rule.of === "everything") return t("everything");
    if (rule.of === "namespace") return `${t("namespace")} ${rule.name}`;
    return `${rule.namespace}/${rule.name}`;
  };
}
