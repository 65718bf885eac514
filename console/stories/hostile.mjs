// What a pod can write anywhere is shown as text, and does nothing.
//
// Names, labels, annotations, events and log lines of the pod `hostile` in the namespace default
// hold scripts, images that do not load, and what a terminal would obey; each would set
// `window.taken`.

import assert from "node:assert/strict";
import { comes, enter, go, leave, picture } from "./ground.mjs";

const PAGES = [
  ["/now", "onerror"],
  ["/workloads/core/v1/events", "onerror"],
  ["/workloads/core/v1/pods", "hostile"],
  ["/item/core/v1/pods/default/hostile", "onerror"],
  ["/item/core/v1/configmaps/default/hostile", "onerror"],
];

export async function whatAPodWritesIsText(browser) {
  const page = await enter(browser, "admin", "/now");
  for (const [path, seen] of PAGES) {
    await go(page, path);
    // Only what is in sight is in the page.
    const search = page.getByRole("main").getByRole("textbox", { name: "Search" });
    if (!path.startsWith("/item")) await search.fill("hostile");
    await comes(
      page,
      `${path} shows ${seen}`,
      (seen) => {
        const fields = [...document.querySelectorAll("main textarea")].map((one) => one.value);
        const main = document.querySelector("main")?.innerText ?? "";
        return [main, ...fields].some((text) => text.includes(seen));
      },
      seen,
    );
    await harmless(page, path);
  }
  await go(page, "/item/core/v1/pods/default/hostile");
  await page.getByRole("tab", { name: "Logs: shout" }).click();
  await page.locator(".log div div", { hasText: "onerror" }).first().waitFor();
  await harmless(page, "its log");
  const log = await page.locator(".log").innerText();
  assert.ok(!/[\u0000-\u0008\u000b-\u001f\u007f\u202a-\u202e]/.test(log), "no control letters");
  // A line without end is cut, and what came after it still comes.
  await page.getByRole("textbox", { name: "Search" }).fill("after the long line");
  await page.locator(".log div div", { hasText: "after the long line" }).first().waitFor();
  await picture(page, "hostile-log");
  await leave(page);
}

async function harmless(page, where) {
  const found = await page.evaluate(() => ({
    taken: window.taken ?? null,
    images: document.querySelectorAll("main img, main iframe, main script, main svg[onload]")
      .length,
    links: [...document.querySelectorAll("main a")].filter(
      (one) => !/^https?:$/.test(new URL(one.href, location.href).protocol),
    ).length,
  }));
  assert.deepEqual(found, { taken: null, images: 0, links: 0 }, `${where} is harmless`);
}
