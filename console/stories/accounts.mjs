// Somebody asks for an account, somebody else decides, and it goes with the request.

import assert from "node:assert/strict";
import {
  accessible,
  ask,
  comes,
  enter,
  go,
  leave,
  logIn,
  people,
  picture,
  visit,
} from "./ground.mjs";

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

/** An account is shut, opened and given a password; its person chooses another, as it was before. */
export async function anAccountIsLookedAfterByOthersAndByItsOwn(browser) {
  const page = await enter(browser, "admin", "/accounts");
  const hers = await enter(browser, "eve", "/now");
  await page.getByRole("tab", { name: "People" }).click();
  const row = page.locator("main tbody tr", { hasText: "eve" });
  const dialog = page.getByRole("dialog");
  const edit = async (what) => {
    await row.getByRole("button", { name: "Edit" }).click();
    await dialog.getByRole("button", { name: what, exact: true }).click();
  };
  await row.getByText("May log in").waitFor();
  await row.getByRole("button", { name: "Edit" }).click();
  await dialog.getByRole("button", { name: "Disable" }).waitFor();
  await accessible(page, "an account that is looked after");
  await dialog.getByRole("button", { name: "Close" }).click();
  await edit("Disable");
  await row.getByText("Disabled").waitFor();
  await picture(page, "light-en-people");
  await comes(hers, "she is logged out", async () => (await fetch("/session")).status === 401);
  await edit("Enable");
  await row.getByText("May log in").waitFor();
  await edit("Choose a new password");
  const password = await dialog.locator("code").innerText();
  await accessible(page, "a new password");
  await dialog.getByRole("button", { name: "Close" }).click();
  // One's own account is changed on one's own page.
  await page.locator("main tbody tr", { hasText: "admin" }).getByRole("button").click();
  await dialog.getByRole("button", { name: "Disable" }).click();
  assert.match(await dialog.getByRole("alert").innerText(), /nobody does this to themselves/);
  await leave(page);

  await hers.reload();
  await logIn(hers, "eve", password);
  const elsewhere = await visit(browser);
  await go(elsewhere, "/now");
  await logIn(elsewhere, "eve", password);
  await hers.getByRole("link", { name: "eve" }).click();
  await hers
    .getByRole("region", { name: "Where you are logged in" })
    .getByText("here", { exact: true })
    .waitFor();
  const change = async (old, next) => {
    await hers.getByLabel(/^The password that you have/).fill(old);
    await hers.getByLabel(/^The new password(?! again)/).fill(next);
    await hers.getByLabel(/^The new password again/).fill(next);
    await hers.getByRole("button", { name: "Change the password" }).click();
  };
  await change("no password of hers", people.eve);
  assert.match(await hers.getByRole("alert").innerText(), /another one/);
  await accessible(hers, "a password that is not changed");
  await change(password, people.eve);
  await hers.getByText("Everywhere else you are logged out.").waitFor();
  await picture(hers, "light-en-me");
  await comes(elsewhere, "logged out", async () => (await fetch("/session")).status === 401);
  await elsewhere.reload();
  await logIn(elsewhere, "eve", people.eve);
  await hers.reload();
  await hers.getByRole("button", { name: "Log out there" }).click();
  await comes(elsewhere, "ended by her", async () => (await fetch("/session")).status === 401);
  await go(hers, "/accounts");
  await hers.getByRole("tab", { name: "People" }).click();
  assert.match(await hers.getByRole("alert").innerText(), /accounts of berth.dev/);
  for (const one of [hers, elsewhere]) await leave(one);
}
