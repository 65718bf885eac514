// What whoever is on call is told: what is broken and what is done about it, what the cluster is
// made of, what it costs; in their language.
//
//   BERTH_IMAGE   an image that answers on port 8080

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { accessible, ask, enter, go, leave, picture } from "./ground.mjs";

const APPS = "/apis/berth.dev/v1/namespaces/default/apps";
const image = process.env.BERTH_IMAGE ?? "";

export async function whatIsBrokenAndUnderWayIsTold(browser) {
  const page = await enter(browser, "admin", "/now");
  const app = { apiVersion: "berth.dev/v1", kind: "App", metadata: { name: "lost" } };
  await ask(page, "POST", APPS, { ...app, spec: { image: "127.0.0.1:1/no/such:image" } });
  const job = {
    metadata: { name: "fails" },
    spec: {
      backoffLimit: 0,
      template: {
        spec: {
          restartPolicy: "Never",
          containers: [{ name: "main", image, command: ["/bin/sh", "-c", "exit 1"] }],
        },
      },
    },
  };
  await ask(page, "POST", "/apis/batch/v1/namespaces/default/jobs", job);
  try {
    const broken = page.getByRole("region", { name: "What is broken" });
    const line = (text) => broken.locator("div", { hasText: text }).last();
    await broken.getByText("App", { exact: true }).first().waitFor();
    assert.match(await line("default/lost").innerText(), /Pull|BackOff|Image/);
    await broken.getByRole("link", { name: "default/fails", exact: true }).waitFor();
    const way = page.getByRole("region", { name: "Under way" });
    await way.getByRole("link", { name: "default/lost-1" }).waitFor();
    // Who made it is told by the release, whether or not it was made from here.
    const changed = page.getByRole("region", { name: "What changed" });
    await changed.getByRole("link", { name: "default/lost-1" }).waitFor();
    const parts = page.getByRole("region", { name: "Components" });
    for (const part of ["API server", "controllers", "registry", "node agents", "berth-dns"]) {
      const own = parts.locator("div", { hasText: part }).last();
      assert.match(await own.innerText(), /Healthy/, `${part} is well`);
    }
    await accessible(page, "what is broken");
    await picture(page, "broken");
    await page.getByRole("combobox", { name: "Namespace" }).fill("default");
    await page.keyboard.press("Enter");
    await parts.getByText("berth-balancer").waitFor();
  } finally {
    await ask(page, "DELETE", `${APPS}/lost`);
    const gone = "/apis/batch/v1/namespaces/default/jobs/fails?propagationPolicy=Background";
    await ask(page, "DELETE", gone);
  }
  await leave(page);
}

export async function whatAppsAndNodesCostIsTold(browser) {
  const page = await enter(browser, "admin", "/apps");
  const row = page.locator("[role=row]", { hasText: "hello" }).first();
  await row.locator(".well", { hasText: "Well" }).waitFor();
  await row.getByText(/\d\S* \/ 0\.10/).waitFor();
  await row.getByText(/\d+ [KM]iB \/ 128 MiB/).waitFor();
  await go(page, "/fleet");
  const field = page.locator(".heat a").first();
  await field.waitFor();
  const used = await field.innerText();
  await page.getByText("requested", { exact: true }).click();
  await page.getByText("Memory", { exact: true }).first().click();
  assert.match(await field.innerText(), /\d+ %/);
  assert.match((await field.getAttribute("title")) ?? "", /used.*requested \/ /);
  await accessible(page, `a heat map of what is asked for; used: ${used}`);
  await field.click();
  await page.locator("tbody tr", { hasText: "MemoryPressure" }).locator(".well").waitFor();
  await page.getByRole("region", { name: "Pods" }).getByRole("link").first().waitFor();
  await accessible(page, "a node");
  await leave(page);
}

export async function anAuditIsFilteredAndTakenAway(browser) {
  const page = await enter(browser, "admin", "/audit");
  await page.getByLabel("Action").selectOption("POST");
  await page.locator("main").getByRole("textbox", { name: "Namespace" }).fill("default");
  await page.getByLabel("Period").selectOption("24");
  await page.locator("tbody tr", { hasText: "/namespaces/default/" }).first().waitFor();
  await page.locator("tbody tr", { hasText: "/session" }).first().waitFor({ state: "detached" });
  await accessible(page, "a filtered audit");
  const [file] = await Promise.all([
    page.waitForEvent("download"),
    page.getByRole("link", { name: "Download CSV" }).click(),
  ]);
  assert.equal(file.suggestedFilename(), "berth-audit.csv");
  const [head, ...lines] = (await readFile(await file.path(), "utf8")).trimEnd().split("\r\n");
  assert.equal(head, "at,account,address,verb,path,status,milliseconds");
  assert.ok(lines.length > 0 && lines.every((line) => /,POST,.*\/default\//.test(line)), lines[0]);
  await leave(page);
}

export async function whatTheServerSaysIsInChinese(browser) {
  const page = await enter(browser, "admin", "/releases", { language: "zh" });
  await page.getByRole("columnheader", { name: "策略" }).waitFor();
  await page.getByRole("cell", { name: "成功" }).first().waitFor();
  await page.getByRole("cell", { name: "滚动发布" }).first().waitFor();
  await leave(page);
  const other = await enter(browser, "eve", "/audit", { language: "zh" });
  await other.getByRole("alert").getByText("需要 berth.dev 的 acts 的 get 权限").waitFor();
  await leave(other);
}
