// A log that is written faster than anybody reads, and how far the page is behind it.

import { ask, comes, enter } from "./ground.mjs";

/** A little more than the goal, so that it is met only by who keeps up with all of it. */
const WRITTEN_PER_SECOND = 1_050;
const WARM_UP = 5;
const COUNTED = 30;
const LINES = WRITTEN_PER_SECOND * (COUNTED + 20);

/**
 * Prints by the machine's clock, not by how long a pause lasts; each line begins with its number and
 * the hundredths of a second since the machine began.
 */
const WRITER = `
now() { read -r up rest < /proc/uptime; at=\${up%.*}\${up#*.}; }
now; begun=$at; i=0
while [ $i -lt ${LINES} ]; do
  now; due=$(( (at - begun) * ${WRITTEN_PER_SECOND} / 100 ))
  [ $due -le ${LINES} ] || due=${LINES}
  while [ $i -lt $due ]; do
    i=$((i+1)); echo "$i $at is what a pod says that says a great deal, again and again"
  done
  busybox usleep 20000
done
echo "all told"
exec busybox sleep 3600`;

/**
 * What a pod prints for half a minute, in a page that follows it: lines a second as they were
 * written and as they were shown, and how long they took to come, by their own times.
 *
 * `given` is the pod without its command; `uptime` says how long the machine runs, seconds.
 */
export async function linesShown(browser, given, longest, uptime) {
  const page = await enter(browser, "admin", "/now");
  const { name, namespace } = given.metadata;
  const path = `/api/v1/namespaces/${namespace}/pods`;
  given.spec.containers[0].command = ["/bin/sh", "-c", WRITER];
  await ask(page, "POST", path, given);
  const item = `/item/core/v1/pods/${namespace}/${name}`;
  await page.evaluate((to) => history.pushState(null, "", to), item);
  await comes(page, "the pod is there", () => document.querySelectorAll("[role=tab]").length > 1);
  await page.getByRole("tab", { name: "Logs" }).click();
  await page.locator(".log div div", { hasText: "is what a pod" }).first().waitFor();
  // The page's clock less that of the lines, milliseconds.
  const began = Date.now() - uptime() * 1000;
  await page.waitForTimeout(WARM_UP * 1000);
  await page.evaluate((began) => {
    window.seen = [];
    const look = () => {
      let [number, at] = [0, 0];
      for (const one of document.querySelectorAll(".log div div")) {
        const [mine, time] = one.textContent.split(" ", 2).map(Number);
        if (mine > number) [number, at] = [mine, time];
      }
      const now = Date.now();
      window.seen.push({ now, number, at: at * 10, behind: now - began - at * 10 });
      window.looking = requestAnimationFrame(look);
    };
    window.looking = requestAnimationFrame(look);
  }, began);
  const log_frame_ms = await longest(page, () => page.waitForTimeout(COUNTED * 1000));
  const seen = await page.evaluate(() => {
    cancelAnimationFrame(window.looking);
    return window.seen;
  });
  // The last of the lines, and none that was left out on the way.
  await page.locator(".log div div", { hasText: "all told" }).waitFor();
  const kept = await held(page);
  await page.context().close();
  const [first, last] = [seen[0], seen.at(-1)];
  const lines = last.number - first.number;
  return {
    written_per_second: (lines / (last.at - first.at)) * 1000,
    shown_per_second: (lines / (last.now - first.now)) * 1000,
    behind_ms: last.behind,
    most_behind_ms: Math.max(...seen.map((one) => one.behind)),
    // Below nothing where some came twice.
    lines_missing: LINES - kept.from + 1 - kept.count,
    log_frame_ms,
  };
}

/** The number of the oldest line that the page holds, and how many numbers it holds. */
async function held(page) {
  await page.getByRole("checkbox", { name: "Follow" }).uncheck();
  await page.locator(".log").evaluate((log) => log.scrollTo(0, 0));
  await page.locator(".log div div[style*='translateY(0px)']").waitFor();
  const said = await page.getByRole("main").getByRole("status").innerText();
  const top = await page.locator(".log div div").first().innerText();
  // The last of them says that all was told.
  const count = Number(/^[\d,]+/.exec(said)?.[0].replaceAll(",", "")) - 1;
  return { from: Number(top.split(" ", 1)[0]), count };
}
