// Somebody asks for an account, somebody else decides, and it goes with the request.

import assert from "node:assert/strict";
import { accessible, ask, comes, enter, go, leave, logIn, picture, visit } from "./ground.mjs";

const LIST = "/apis/berth.dev/v1/accountrequests";
const BINDING =
  "/k8s/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings/account-for-kim-viewer";

const KIM = `apiVersion: berth.dev/v1
kind: AccountRequest
metadata:
  name: for-kim
spec:
  name: kim
  roles:
  - {namespace: default, role: viewer}
  reason: she is on call from Monday
`;
const MASTER = {
  apiVersion: "berth.dev/v1",
  kind: "AccountRequest",
  metadata: { name: "for-mallory" },
  spec: { name: "mallory", groups: ["system:masters"], reason: "trust me" },
};

export async function whoIsAskedForGetsInAndGoesWithTheRequest(browser) {
  const page = await enter(browser, "admin", "/accounts");
  await page.getByText("Nobody asks for an account.").waitFor();
  await page.getByRole("link", { name: "Ask for an account" }).click();
  const yaml = page.getByRole("textbox", { name: "YAML" });
  await yaml.fill(KIM.replace("viewer", "emperor"));
  await page.getByRole("button", { name: "Check" }).click();
  assert.match(await page.getByRole("alert").innerText(), /emperor/, "there is no such role");
  await yaml.fill(KIM);
  await page.getByRole("button", { name: "Check" }).click();
  await page.locator(".diff .added", { hasText: "name: kim" }).waitFor();
  await page.getByRole("button", { name: "Apply" }).click();

  await ask(page, "POST", LIST, MASTER);
  const row = (name) => page.locator("main tbody tr", { hasText: name });
  const decide = (name) => row(name).getByRole("button", { name: "Decide" });
  await decide("mallory").click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("button", { name: "Approve" }).click();
  assert.match(await dialog.getByRole("alert").innerText(), /system:masters.* no group for people/);
  await accessible(page, "an approval that is refused");
  await dialog.getByRole("textbox").fill("nobody is the cluster's master");
  await dialog.getByRole("button", { name: "Deny" }).click();
  await row("mallory").getByText("nobody is the cluster's master").waitFor();
  await decide("mallory").waitFor({ state: "detached" });

  for (const language of ["en", "zh"]) {
    for (const scheme of ["light", "dark"]) {
      const other = await enter(browser, "admin", "/accounts", { language, scheme });
      await other.locator("main tbody tr", { hasText: "kim" }).getByRole("button").click();
      await other.getByRole("dialog").waitFor();
      await accessible(other, `an account is decided on, ${scheme}, ${language}`);
      await picture(other, `${scheme}-${language}-accounts-decide`);
      await leave(other);
    }
  }

  await decide("kim").click();
  await dialog.getByRole("button", { name: "Approve" }).click();
  const password = await dialog.locator("code").innerText();
  await accessible(page, "a password that is shown once");
  await dialog.getByRole("button", { name: "Close" }).click();
  await row("kim").getByText("approved").waitFor();
  await picture(page, "light-en-accounts");

  const hers = await visit(browser);
  await go(hers, "/apps");
  await logIn(hers, "kim", password);
  await hers.getByRole("combobox", { name: "Namespace" }).fill("default");
  await hers.keyboard.press("Enter");
  await hers.getByRole("link", { name: "hello" }).waitFor();
  await go(hers, "/accounts");
  assert.match(await hers.getByRole("alert").innerText(), /forbidden|cannot/i);

  for (const name of ["for-kim", "for-mallory"]) await ask(page, "DELETE", `${LIST}/${name}`);
  await row("kim").waitFor({ state: "detached" });
  await comes(
    page,
    "her role goes with the request",
    async (path) => (await fetch(path)).status === 404,
    BINDING,
  );
  await comes(hers, "she is logged out", async () => (await fetch("/session")).status === 401);
  await hers.reload();
  await hers.getByRole("button", { name: "Log in" }).waitFor();
  await leave(hers);
  await leave(page);
}
