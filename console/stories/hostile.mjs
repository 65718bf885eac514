// What a pod can write anywhere is shown as text, and does nothing.
//
// Names, labels, annotations, events and log lines of the pod `hostile` in the namespace default
// hold scripts, images that do not load, and what a terminal would obey; each would set
// `window.taken`.

import assert from "node:assert/strict";
import { ask, comes, enter, go, leave, picture } from "./ground.mjs";

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

const ENDLESS = {
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name: "endless", namespace: "default" },
  spec: {
    terminationGracePeriodSeconds: 0,
    containers: [
      {
        name: "main",
        image: process.env.BERTH_IMAGE ?? "",
        command: [
          "/bin/sh",
          "-c",
          // Time for the page to be there; then a hundred megabytes that no line ends.
          "busybox sleep 8; busybox head -c 104857600 /dev/zero | busybox tr '\\000' x; echo; echo all told; exec busybox sleep 3600",
        ],
      },
    ],
  },
};
const MEMORY = 256 * 2 ** 20;

export async function aLineWithoutEndLeavesThePageAsItWas(browser) {
  const page = await enter(browser, "admin", "/now");
  await ask(page, "POST", "/api/v1/namespaces/default/pods", ENDLESS);
  try {
    await go(page, "/item/core/v1/pods/default/endless");
    await page.getByRole("tab", { name: "Logs: main" }).click();
    await page.evaluate(() => {
      [window.longest, window.most] = [0, 0];
      let before = performance.now();
      const frame = (now) => {
        window.longest = Math.max(window.longest, now - before);
        window.most = Math.max(window.most, performance.memory.usedJSHeapSize);
        before = now;
        requestAnimationFrame(frame);
      };
      requestAnimationFrame(frame);
    });
    await page.locator(".log div div", { hasText: "all told" }).waitFor({ timeout: 120_000 });
    const { longest, most } = await page.evaluate(() => ({
      longest: window.longest,
      most: window.most,
    }));
    assert.ok(most < MEMORY, `the page holds ${Math.round(most / 2 ** 20)} MiB`);
    assert.ok(longest < 1_000, `the page stood still for ${Math.round(longest)} ms`);
    // It is read from its end too, and nothing else is slower for it.
    await page.getByRole("link", { name: "Apps" }).click();
    await page.getByRole("link", { name: "hello" }).waitFor({ timeout: 5_000 });
  } finally {
    await ask(page, "DELETE", "/api/v1/namespaces/default/pods/endless");
  }
  await leave(page);
}

/** Nothing ran, and nothing that could is in the page. */
export async function harmless(page, where) {
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
