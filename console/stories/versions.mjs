// How an App is reached and asked, and what it said before.

import assert from "node:assert/strict";
import { accessible, ask, enter, leave, picture } from "./ground.mjs";

const HELLO = "/apis/berth.dev/v1/namespaces/default/apps/hello";

export async function anAppsRoutesProbesAndVersionsAreTold(browser) {
  const page = await enter(browser, "admin", "/apps/default/hello");
  await page.getByRole("tab", { name: "Routes" }).click();
  const route = page.locator("tbody tr", { hasText: "hello.apps." });
  await route.waitFor();
  assert.match(await route.innerText(), /HTTP\s+hello\.apps\.\S+\s+\/\s/);
  await accessible(page, "routes");
  await picture(page, "light-en-app-routes");
  await page.getByRole("tab", { name: "Probes" }).click();
  await page.locator("tbody tr", { hasText: "GET /healthz" }).first().waitFor();
  await accessible(page, "probes");
  await picture(page, "light-en-app-probes");

  await ask(page, "PATCH", HELLO, { spec: { env: { GREETING: "of another version" } } });
  await page.getByRole("tab", { name: "Configuration" }).click();
  const before = page.getByRole("combobox", { name: "Before" });
  await before.locator("option", { hasText: /^hello-1 / }).waitFor({ state: "attached" });
  await before.selectOption("hello-1");
  await page.locator(".diff .added", { hasText: "of another version" }).waitFor();
  await accessible(page, "two versions");
  await picture(page, "light-en-app-versions");
  await ask(page, "PATCH", HELLO, { spec: { env: null } });
  await leave(page);
}
