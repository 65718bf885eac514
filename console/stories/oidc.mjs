// Somebody whom a provider names gets in, as what the provider's groups are here.

import assert from "node:assert/strict";
import { accessible, again, go, leave, picture, visit } from "./ground.mjs";
import { provide, told } from "./provider.mjs";

export async function whoAProviderNamesGetsIn(browser) {
  if (!told) {
    console.log("skipped: the console was told of no provider (BERTH_PROVIDER)");
    return;
  }
  const end = await provide();
  try {
    const page = await visit(browser);
    // The provider's own pages are not ours to judge.
    await go(page, "/apps");
    const button = page.getByRole("link", { name: `Log in with localhost:${told.port}` });
    await button.waitFor();
    await accessible(page, "logging in with a provider");
    await picture(page, "login-provider");
    await button.focus();
    await page.keyboard.press("Enter");
    await page.getByPlaceholder("Enter any login").fill("zoe");
    await page.getByPlaceholder("and password").fill("whatever");
    await page.getByRole("button", { name: "Sign-in" }).click();
    await page.getByRole("button", { name: "Continue" }).click();
    await page.getByRole("button", { name: "Log out" }).waitFor();
    await page.getByText("zoe", { exact: true }).waitFor();
    const me = await again(() => page.evaluate(async () => (await fetch("/session")).json()));
    // What nobody mapped is nothing here, whatever the provider says.
    assert.deepEqual(me.groups, ["berth:viewers"]);
    await go(page, "/apps");
    await page.getByRole("link", { name: "hello" }).waitFor();
    const refused = async () => {
      const { csrf } = await (await fetch("/session")).json();
      const path = "/k8s/api/v1/namespaces/default/configmaps";
      const headers = { "content-type": "application/json", "x-berth-csrf": csrf };
      const body = JSON.stringify({ metadata: { name: "hers" } });
      return (await fetch(path, { method: "POST", headers, body })).status;
    };
    const status = await again(() => page.evaluate(refused));
    assert.equal(status, 403, "who may look may not change");
    await leave(page);
  } finally {
    end();
  }
}
