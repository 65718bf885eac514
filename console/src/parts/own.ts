// What belongs to an App.

import { useMemo } from "react";
import { type Row, type Table, useLive } from "../live";

const NAME = "app.kubernetes.io/name";
const INSTANCE = "app.kubernetes.io/instance";

/** What runs by an App's clock has its name too, and is none of its instances. */
export function isInstance(row: Row, app: string): boolean {
  return row.labels[NAME] === app && row.labels[INSTANCE] === app;
}

/**
 * Tells whether an object of the namespace, there or gone, belongs to the App, by its name alone:
 * what is made for an object is called as that is, and more. Of several that could be meant
 * (`shop` and `shop-admin` of `shop-admin-1`), it is the one with the longest name.
 */
export function useOwned(namespace: string, app: string): (name: string) => boolean {
  const list = (group: string, resource: string) => `${group}/namespaces/${namespace}/${resource}`;
  const apps = useLive(list("/apis/berth.dev/v1", "apps"));
  const deployments = useLive(list("/apis/apps/v1", "deployments"));
  const statefulsets = useLive(list("/apis/apps/v1", "statefulsets"));
  const crons = useLive(list("/apis/batch/v1", "cronjobs"));
  const pods = useLive(list("/api/v1", "pods"));
  return useMemo(() => {
    const owners = new Map<string, string>();
    const put = (table: Table) => {
      for (const row of table.rows) owners.set(row.name, row.labels[NAME] ?? "");
    };
    for (const table of [pods, crons, statefulsets, deployments]) put(table);
    for (const row of apps.rows) owners.set(row.name, row.name);
    owners.set(app, app);
    return (name) => owner(owners, name) === app;
  }, [apps, deployments, statefulsets, crons, pods, app]);
}

function owner(owners: ReadonlyMap<string, string>, name: string): string | undefined {
  for (let rest = name; rest; rest = rest.slice(0, Math.max(0, rest.lastIndexOf("-")))) {
    const found = owners.get(rest);
    if (found !== undefined) return found;
  }
  return undefined;
}
