// The namespace that is looked at; it stays over pages and visits.

import { createContext, useContext } from "react";

export interface Scope {
  /** Empty: all of them. */
  namespace: string;
  choose: (namespace: string) => void;
}

export const ScopeContext = createContext<Scope>({ namespace: "", choose: () => {} });

export function useScope(): Scope {
  return useContext(ScopeContext);
}

/** The list of `resource` under `base` (`/api/v1`, `/apis/apps/v1`) in the scope. */
export function listOf(base: string, resource: string, namespace: string): string {
  return namespace ? `${base}/namespaces/${namespace}/${resource}` : `${base}/${resource}`;
}
