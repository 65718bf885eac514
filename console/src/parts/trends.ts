// What an App's instances use and answer, point after point.

import { useQuery, useQueryClient } from "@tanstack/react-query";
import { send } from "../api";

/**
 * Cores; bytes of RSS, cache and working set; answers, failures and seconds, a second; load over 1,
 * 5 and 15 minutes; bytes read and written, a second; when the youngest container began.
 */
type Values = (number | null)[];

export interface Point {
  at: number;
  pods: Record<string, Values>;
}

const EVERY = 10_000;
const SOON = 1_500;
const KEPT = 1_800_000;

/** The last half hour; grows while it is looked at. */
export function useTrends(namespace: string, app: string): Point[] | undefined {
  const queries = useQueryClient();
  const key = ["trends", namespace, app];
  const found = useQuery({
    queryKey: key,
    queryFn: async () => {
      const known = queries.getQueryData<Point[]>(key) ?? [];
      const since = String(known.at(-1)?.at ?? 0);
      const query = new URLSearchParams({ namespace, app, since });
      const { points } = await (await send(`/trends?${query}`)).json();
      const oldest = Date.now() - KEPT;
      return [...known, ...(points as Point[])].filter((point) => point.at > oldest);
    },
    refetchInterval: (query) => (query.state.data?.length ? EVERY : SOON),
    staleTime: 0,
    retry: false,
    structuralSharing: false,
  });
  return found.data;
}

const [CPU, RSS, CACHE, SET, ANSWERS, FAILURES, SECONDS] = [0, 1, 2, 3, 4, 5, 6] as const;
const [LOAD, READ, WRITTEN, STARTED] = [7, 10, 11, 12] as const;

export interface Measures {
  cpu: number | null;
  rss: number | null;
  /** RSS and two fifths of the cache, as Mogujie counts what a container would miss. */
  weighed: number | null;
  workingSet: number | null;
  requests: number | null;
  /** Per cent; none where nobody asked. */
  success: number | null;
  /** Milliseconds until an answer began, on average. */
  latency: number | null;
}

/** What one instance does beside, where its node counts it. */
export interface Doing {
  /** Over 1, 5 and 15 minutes. */
  load: number[] | null;
  /** Bytes a second. */
  read: number | null;
  written: number | null;
  /** Milliseconds since 1970. */
  started: number | null;
}

export function doing(point: Point, pod: string): Doing {
  const values = point.pods[pod] ?? [];
  const load = values.slice(LOAD, LOAD + 3).filter((value) => value !== null);
  const of = (index: number) => values[index] ?? null;
  return {
    load: load.length === 3 ? load : null,
    read: of(READ),
    written: of(WRITTEN),
    started: of(STARTED),
  };
}

/** Of one instance, or of all together. */
export function measures(point: Point, pod?: string): Measures {
  const own = pod === undefined ? Object.values(point.pods) : [point.pods[pod] ?? []];
  const sum = (index: number) => {
    const known = own.map((values) => values[index] ?? null).filter((value) => value !== null);
    return known.length > 0 ? known.reduce((a, b) => a + b, 0) : null;
  };
  const [rss, cache, answers] = [sum(RSS), sum(CACHE), sum(ANSWERS)];
  const share = (part: number | null) => (answers && part !== null ? part / answers : null);
  const failed = share(sum(FAILURES));
  const took = share(sum(SECONDS));
  return {
    cpu: sum(CPU),
    rss,
    weighed: rss === null || cache === null ? null : rss + 0.4 * cache,
    workingSet: sum(SET),
    requests: answers,
    success: failed === null ? null : 100 * (1 - failed),
    latency: took === null ? null : 1000 * took,
  };
}
