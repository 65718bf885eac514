// Parts of the page that are loaded when they are wanted.

import { type ComponentType, lazy } from "react";

/** A network that changed is back by then, milliseconds. */
const AGAIN = 500;
const KEPT = "berth.loaded-anew";
/** Whoever loaded all anew so lately does not do it again, milliseconds. */
const LATELY = 60_000;

/**
 * As `lazy`, but a part that does not come is asked for again; where it is gone, because the
 * console is a newer one, the whole page is loaded anew.
 */
export function later<P extends object>(load: () => Promise<{ default: ComponentType<P> }>) {
  return lazy(async () => {
    try {
      return await load().catch(async () => {
        await new Promise((resolve) => setTimeout(resolve, AGAIN));
        return load();
      });
    } catch (error) {
      const before = Number(sessionStorage.getItem(KEPT) ?? 0);
      if (Date.now() - before < LATELY) throw error;
      sessionStorage.setItem(KEPT, String(Date.now()));
      location.reload();
      return new Promise(() => {});
    }
  });
}
