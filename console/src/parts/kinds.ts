// What kinds of objects the cluster has, asked once.

import { useQuery } from "@tanstack/react-query";
import { get } from "../api";

export interface Kind {
  /** `core` for the group without a name. */
  group: string;
  version: string;
  resource: string;
  kind: string;
  namespaced: boolean;
}

interface Resources {
  resources: { name: string; kind: string; namespaced: boolean; verbs: string[] }[];
}

/** `/api/v1` or `/apis/GROUP/VERSION`. */
export function base(group: string, version: string): string {
  return group === "core" ? `/api/${version}` : `/apis/${group}/${version}`;
}

async function discover(): Promise<Kind[]> {
  // Each group's preferred version; older servers know no aggregated discovery.
  const groups = await get<{
    groups: { name: string; preferredVersion: { version: string } }[];
  }>("/apis");
  const all = [
    { group: "core", version: "v1" },
    ...groups.groups.map((one) => ({ group: one.name, version: one.preferredVersion.version })),
  ];
  const lists = await Promise.all(
    all.map(async ({ group, version }) => {
      try {
        const list = await get<Resources>(base(group, version));
        return list.resources
          .filter((one) => !one.name.includes("/") && one.verbs.includes("list"))
          .map((one) => ({
            group,
            version,
            resource: one.name,
            kind: one.kind,
            namespaced: one.namespaced,
          }));
      } catch {
        // A group whose server is away hides only itself.
        return [];
      }
    }),
  );
  return lists.flat().sort((a, b) => a.kind.localeCompare(b.kind));
}

export function useKinds() {
  return useQuery({ queryKey: ["kinds"], queryFn: discover, staleTime: 300_000 });
}
