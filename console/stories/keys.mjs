// From the log-in page to a release that goes on, without a mouse, and where one is can be seen.
//
//   BERTH_IMAGE   an image that answers on port 8080

import assert from "node:assert/strict";
import { ask, comes, go, leave, people, visit } from "./ground.mjs";

const APPS = "/apis/berth.dev/v1/namespaces/default/apps";
const APP = {
  apiVersion: "berth.dev/v1",
  kind: "App",
  metadata: { name: "by-keys", namespace: "default" },
  spec: {
    image: process.env.BERTH_IMAGE ?? "",
    port: 8080,
    replicas: 1,
    terminationGracePeriodSeconds: 0,
    strategy: { type: "canary", steps: [{ weight: 50 }] },
  },
};
/** More stops than this has no page before what one looks for. */
const STOPS = 60;

export async function whoHasNoMouseReleasesAnApp(browser) {
  const page = await visit(browser);
  await go(page, "/now");
  await page.getByRole("button", { name: "Log in" }).waitFor();
  await reach(page, "textbox", "Name");
  await page.keyboard.type("admin");
  await reach(page, "textbox", "Password");
  await page.keyboard.type(people.admin);
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Log out" }).waitFor();
  await ask(page, "POST", APPS, APP);
  try {
    await twoVersions(page);
    await reach(page, "link", "Apps");
    await page.keyboard.press("Enter");
    await page.getByRole("link", { name: "by-keys" }).waitFor();
    await reach(page, "textbox", "Search");
    await page.keyboard.type("by-keys");
    await page.getByRole("link", { name: "hello", exact: true }).waitFor({ state: "detached" });
    await reach(page, "link", "by-keys");
    await page.keyboard.press("Enter");

    await reach(page, "tab", "Instances");
    const tab = (name) => page.getByRole("tab", { name, exact: true });
    await turn(page, "ArrowRight", tab("Logs"));
    await reach(page, "log", "Logs");
    await reach(page, "tab", "Logs", "Shift+Tab");
    await turn(page, "ArrowRight", tab("Releases"));
    await page.getByRole("link", { name: "by-keys-2" }).waitFor();
    await reach(page, "link", "by-keys-2");
    await page.keyboard.press("Enter");

    await page.locator("tbody tr[aria-current=step]", { hasText: "canary 50 %" }).waitFor();
    await reach(page, "button", "Promote");
    await page.keyboard.press("Enter");
    await page.locator("dd .well", { hasText: "Succeeded" }).waitFor();
  } finally {
    await ask(page, "DELETE", `${APPS}/by-keys`);
  }
  await leave(page);
}

/** The first is out, and the second waits for somebody. */
async function twoVersions(page) {
  const phase = (name, wanted) =>
    comes(
      page,
      `${name} is ${wanted}`,
      async ([name, wanted]) => {
        const path = `/k8s/apis/berth.dev/v1/namespaces/default/releases/${name}`;
        return (await (await fetch(path)).json()).status?.phase === wanted;
      },
      [name, wanted],
    );
  await phase("by-keys-1", "Succeeded");
  await ask(page, "PATCH", `${APPS}/by-keys`, { spec: { env: { GREETING: "anew" } } });
  await phase("by-keys-2", "Paused");
}

/** Goes from stop to stop until what is called so has the focus; each stop shows that it has it. */
async function reach(page, role, name, key = "Tab") {
  const wanted = await page.getByRole(role, { name }).first().elementHandle();
  for (let stop = 0; stop < STOPS; stop++) {
    if (await wanted.evaluate((one) => one === document.activeElement)) return;
    await page.keyboard.press(key);
    const unseen = await page.evaluate(() => {
      const one = document.activeElement;
      if (one === document.body) return "";
      // What stands in for it where it is itself not drawn, as a radio's label.
      const drawn = [one, one.parentElement, one.nextElementSibling].filter(Boolean);
      const looks = () => {
        // What changes slowly is looked at when it has changed.
        for (const one of document.getAnimations()) one.cancel();
        const said = drawn.map((part) => {
          const { outline, boxShadow, borderColor } = getComputedStyle(part);
          return `${outline} ${boxShadow} ${borderColor}`;
        });
        return said.join();
      };
      const focused = looks();
      one.blur();
      const blurred = looks();
      one.focus({ focusVisible: true, preventScroll: true });
      const sizes = drawn.map((part) => part.getBoundingClientRect());
      const there = sizes.some(({ width, height }) => width > 0 && height > 0);
      return focused === blurred || !there ? one.outerHTML.slice(0, 200) : "";
    });
    assert.equal(unseen, "", `on the way to ${name} nobody sees where one is`);
  }
  assert.fail(`no ${role} ${name} within ${STOPS} stops`);
}

/** From tab to tab. */
async function turn(page, key, tab) {
  for (let stop = 0; stop < STOPS; stop++) {
    if ((await tab.getAttribute("aria-selected")) === "true") return;
    await page.keyboard.press(key);
  }
  assert.fail(`no such tab within ${STOPS} turns`);
}
