// What belongs to an App, and what is broken: neither more nor less.
//
//   BERTH_IMAGE   an image that runs on

import assert from "node:assert/strict";
import { ask, comes, enter, go, leave } from "./ground.mjs";

const CORE = "/api/v1/namespaces/default";
const APPS = "/apis/berth.dev/v1/namespaces/default/apps";
const image = process.env.BERTH_IMAGE ?? "";

const pod = (name, given) => ({
  metadata: { name, ...given },
  spec: { terminationGracePeriodSeconds: 1, containers: [{ name: "main", image }] },
});

const event = (of, message) => ({
  metadata: { name: `${of}.told` },
  involvedObject: { kind: "Pod", namespace: "default", name: of },
  reason: "Told",
  type: "Normal",
  message,
});

/** `hello-admin` is another App, `hello-nightly` is what runs by the clock of `hello`. */
export async function anAppHasItsOwnInstancesAndEventsAlone(browser) {
  const page = await enter(browser, "admin", "/now");
  await ask(page, "POST", APPS, {
    apiVersion: "berth.dev/v1",
    kind: "App",
    metadata: { name: "hello-admin" },
    spec: { image, replicas: 0 },
  });
  const labels = {
    "app.kubernetes.io/name": "hello",
    "app.kubernetes.io/instance": "hello-nightly",
    "app.kubernetes.io/component": "cron",
  };
  await ask(page, "POST", `${CORE}/pods`, pod("hello-nightly-1", { labels }));
  await ask(page, "POST", `${CORE}/events`, event("hello-admin-0-0", "of another app"));
  await ask(page, "POST", `${CORE}/events`, event("hello-0-0", "of one that is gone"));
  await ask(page, "POST", `${CORE}/events`, event("hello-nightly-1", "by the clock"));
  try {
    await go(page, "/apps/default/hello");
    await page.locator("main tbody tr").first().waitFor();
    const names = await page.locator("main tbody tr td:first-child").allInnerTexts();
    assert.ok(!names.join().includes("nightly"), `what runs by the clock is one: ${names}`);
    await page.getByRole("tab", { name: "Events" }).click();
    await page.getByText("of one that is gone").waitFor();
    await page.getByText("by the clock").waitFor();
    assert.equal(await page.getByText("of another app").count(), 0);
  } finally {
    await ask(page, "DELETE", `${APPS}/hello-admin`);
    await ask(page, "DELETE", `${CORE}/pods/hello-nightly-1`);
  }
  await leave(page);
}

export async function aNodeAtRestIsWellAndAPodThatDoesNotEndIsNot(browser) {
  const page = await enter(browser, "admin", "/fleet");
  const node = await page.locator("main [role=rowgroup] a").first().innerText();
  const path = `/api/v1/nodes/${node}`;
  const stuck = `${CORE}/pods/stays`;
  await ask(page, "POST", `${CORE}/pods`, pod("stays", { finalizers: ["example.com/stays"] }));
  await ask(page, "DELETE", stuck);
  await ask(page, "PATCH", path, { spec: { unschedulable: true } });
  try {
    await page.locator("[role=row]", { hasText: "SchedulingDisabled" }).waitFor();
    const broken = page.getByRole("region", { name: "What is broken" });
    const fault = (text) => broken.getByRole("link", { name: text, exact: true });
    await go(page, "/now");
    await comes(page, "the tables are there", () =>
      [...document.querySelectorAll(".count")].every((one) => /\d/.test(one.textContent)),
    );
    assert.equal(await fault("default/stays").count(), 0, "it has a minute to end");
    await page.clock.setFixedTime(Date.now() + 600_000);
    await go(page, "/now");
    await fault("default/stays").waitFor();
    assert.equal(await fault(node).count(), 0, "a node that takes no more pods is well");
  } finally {
    await ask(page, "PATCH", path, { spec: { unschedulable: null } });
    await ask(page, "PATCH", stuck, { metadata: { finalizers: null } });
  }
  await leave(page);
}
