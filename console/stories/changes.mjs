// An app is made, seen, changed, and who did it is written down.
//
//   BERTH_IMAGE   an image that answers on port 8080

import assert from "node:assert/strict";
import { accessible, ask, comes, enter, go, leave, picture } from "./ground.mjs";
import { knock } from "./knock.mjs";

const image = process.env.BERTH_IMAGE ?? "";

const APP = `apiVersion: berth.dev/v1
kind: App
metadata:
  name: made-here
  namespace: default
spec:
  image: ${image}
  port: 8080
  replicas: 2
`;

export async function anAppIsDeployedAndSeen(browser) {
  const page = await enter(browser, "admin", "/apps");
  await page.getByRole("link", { name: "New" }).click();
  const yaml = page.getByRole("textbox", { name: "YAML" });
  const apply = page.getByRole("button", { name: "Apply" });
  await yaml.fill(APP.replace("port:", "prot:"));
  await page.getByRole("button", { name: "Check" }).click();
  assert.match(await page.getByRole("alert").innerText(), /prot/, "a wrong field is named");
  await accessible(page, "what was refused");
  await yaml.fill(APP);
  assert.ok(await apply.isDisabled(), "nothing is applied that was not checked");
  await page.getByRole("button", { name: "Check" }).click();
  await page.locator(".diff .added", { hasText: "name: made-here" }).waitFor();
  await accessible(page, "what would be made");
  await apply.click();
  await page.getByRole("heading", { name: "made-here" }).waitFor();
  await ready(page, 2);
  await picture(page, "deployed");
  await leave(page);
}

export async function aChangeIsLookedAtBeforeItIsMade(browser) {
  const page = await enter(browser, "admin", "/apps/default/made-here");
  await page.getByRole("tab", { name: "Configuration" }).click();
  await page.getByRole("link", { name: "Edit" }).click();
  await page.getByRole("button", { name: "Edit" }).click();
  const yaml = page.getByRole("textbox", { name: "YAML" });
  const text = await yaml.inputValue();
  await yaml.fill(text.replace("replicas: 2", "replicas: 3"));
  await page.getByRole("button", { name: "Check" }).click();
  await page.locator(".diff .removed", { hasText: "replicas: 2" }).waitFor();
  await page.locator(".diff .added", { hasText: "replicas: 3" }).waitFor();
  await accessible(page, "a difference");
  await picture(page, "difference");
  await page.getByRole("button", { name: "Apply" }).click();
  await page.getByText("Applied").waitFor();
  await go(page, "/apps/default/made-here");
  await ready(page, 3);
  await leave(page);
}

export async function whoDidWhatIsWrittenDown(browser) {
  const page = await enter(browser, "admin", "/audit");
  await page.getByLabel("Path").fill("made-here");
  const row = page.locator("tbody tr", { hasText: "apps/made-here" }).first();
  await row.waitFor();
  const said = await row.innerText();
  assert.match(said, /admin/);
  assert.match(said, /PUT/);
  await leave(page);
}

/** So many instances, each of which is ready. */
async function ready(page, count) {
  await comes(
    page,
    `${count} instances are ready`,
    (count) => {
      const rows = [...document.querySelectorAll("main tbody tr")];
      const fine = rows.filter((row) => row.cells[1].textContent === "1/1");
      return rows.length === count && fine.length === count;
    },
    count,
  );
}

export async function aCanaryIsStoppedAndTakenBack(browser) {
  const page = await enter(browser, "admin", "/item/berth.dev/v1/apps/default/made-here");
  await page.getByRole("button", { name: "Edit" }).click();
  const yaml = page.getByRole("textbox", { name: "YAML" });
  const text = await yaml.inputValue();
  const canary = [
    "spec:",
    "  env:",
    "    GREETING: anew",
    "  strategy:",
    "    type: canary",
    "    steps: [{weight: 50}]",
  ];
  await yaml.fill(text.replace(/^spec:$/m, canary.join("\n")));
  await page.getByRole("button", { name: "Check" }).click();
  await page.locator(".diff .added", { hasText: "type: canary" }).waitFor();
  await page.getByRole("button", { name: "Apply" }).click();
  await page.getByText("Applied").waitFor();
  await go(page, "/releases");
  const row = page
    .locator("main [role=row]", { hasText: "made-here" })
    .filter({ hasText: "canary" });
  await row.locator(".waits", { hasText: "Paused" }).waitFor();
  await row.getByRole("link").click();
  await page.locator("tbody tr[aria-current=step]", { hasText: "canary 50 %" }).waitFor();
  await accessible(page, "a canary");
  await picture(page, "canary");
  await page.getByRole("button", { name: "Abort" }).click();
  await page.locator("dd .ill", { hasText: "Aborted" }).waitFor();
  await go(page, "/apps/default/made-here");
  await ready(page, 3);
  await leave(page);
}

/** Of what its new instances answer, three in five are wrong: nobody has to say anything. */
export async function aCanaryThatFailsComesBackByItself(browser) {
  const app = "/apis/berth.dev/v1/namespaces/default/apps/made-here";
  const page = await enter(browser, "admin", "/apps/default/made-here");
  const stop = await knock(page, "made-here");
  const check = { name: "success", balancer: "success", min: 99, everySeconds: 2, failures: 2 };
  try {
    const strategy = { type: "canary", steps: [{ weight: 30 }], checks: [check] };
    await ask(page, "PATCH", app, {
      spec: { env: { FAILS: "60", TURN: `${Date.now()}` }, strategy },
    });
    await go(page, "/releases");
    const row = page
      .locator("main [role=row]", { hasText: "made-here" })
      .filter({ hasText: "canary 30%" })
      .first();
    await row.getByRole("link").click();
    await page.locator("dd .ill", { hasText: "Aborted" }).waitFor();
  } finally {
    stop();
  }
  // The number, in what is said and beside its step.
  await page.getByText(/check success says [\d.]+, at least 99 is wanted/).waitFor();
  const step = page.locator("tbody tr", { hasText: "canary 30 %" });
  const said = await step.innerText();
  const rate = Number(/success: ([\d.]+) % \(≥ 99 %\)/.exec(said)?.[1]);
  assert.ok(rate > 10 && rate < 90, `two in five were right: ${said}`);
  await accessible(page, "a canary that failed");
  await picture(page, "failed-canary");
  await go(page, "/apps/default/made-here");
  await ready(page, 3);
  await leave(page);
}
