// Logging in and out, and what those may not do who may only look.

import assert from "node:assert/strict";
import {
  accessible,
  again,
  enter,
  go,
  leave,
  logIn,
  people,
  picture,
  url,
  visit,
  words,
} from "./ground.mjs";

export async function whoIsWrongStaysOutAndWhoIsRightComesIn(browser) {
  for (const language of ["en", "zh"]) {
    for (const scheme of ["light", "dark"]) {
      const page = await visit(browser, { language, scheme });
      await go(page, "/apps");
      await page.getByRole("button", { name: words[language].logIn }).waitFor();
      await accessible(page, `logging in, ${language}, ${scheme}`);
      if (language === "en" && scheme === "light") await picture(page, "login");
      await leave(page);
    }
  }
  const page = await visit(browser);
  await go(page, "/apps");
  await page.getByRole("textbox", { name: "Name" }).fill("admin");
  await page.getByLabel(/^Password/).fill("no password of anybody's");
  await page.keyboard.press("Enter");
  const said = await page.getByRole("alert").innerText();
  assert.match(said, /name or password is wrong/);
  await accessible(page, "a wrong password");
  await logIn(page, "admin", people.admin);
  assert.equal(new URL(page.url()).pathname, "/apps", "one comes where one wanted to go");
  await page.reload();
  await page.getByRole("button", { name: "Log out" }).waitFor();
  const cookies = await page.context().cookies();
  assert.ok(
    cookies.every((one) => one.httpOnly && one.secure && one.sameSite === "Strict"),
    "no script reads a cookie",
  );
  await page.getByRole("button", { name: "Log out" }).click();
  await page.getByRole("button", { name: "Log in" }).waitFor();
  await page.context().addCookies(cookies);
  await page.reload();
  await page.getByRole("button", { name: "Log in" }).waitFor();
  await leave(page);
}

export async function whoMayOnlyLookIsRefusedWhatChanges(browser) {
  const page = await enter(browser, "eve", "/now");
  // All namespaces together are not hers to see.
  await page.getByText("You may not see", { exact: false }).first().waitFor();
  await accessible(page, "a page of what one may not see");
  await page.getByRole("combobox", { name: "Namespace" }).fill("default");
  await page.keyboard.press("Enter");
  await go(page, "/apps");
  await page.getByRole("link", { name: "hello" }).click();
  await page.getByRole("tab", { name: "Configuration" }).click();
  await page.getByRole("link", { name: "Edit" }).click();
  await page.getByRole("button", { name: "Edit" }).click();
  await page.getByRole("button", { name: "Check" }).click();
  assert.match(await page.getByRole("alert").innerText(), /forbidden|cannot/i);
  assert.ok(await page.getByRole("button", { name: "Apply" }).isDisabled());

  await go(page, "/workloads/core/v1/secrets");
  await page.getByText("You may not see this.").waitFor();
  await go(page, "/audit");
  assert.match(await page.getByRole("alert").innerText(), /acts of berth.dev/);

  // Her cookie does not make her more, whoever she says she is.
  const tried = async () => {
    const me = await (await fetch("/session")).json();
    const send = (headers, path = "/k8s/api/v1/namespaces/default/configmaps") =>
      fetch(path, {
        method: "POST",
        headers: { "content-type": "application/json", ...headers },
        body: JSON.stringify({ metadata: { name: "hers" } }),
      }).then((answer) => answer.status);
    const token = { "x-berth-csrf": me.csrf };
    return [
      await send({}),
      await send({ "x-berth-csrf": "guessed" }),
      await send(token),
      await send({ ...token, "impersonate-user": "admin", "impersonate-group": "system:masters" }),
      await send(token, "/k8s/api/v1/namespaces/kube-system/configmaps"),
    ];
  };
  const asked = await again(() => page.evaluate(tried));
  assert.deepEqual(asked, [403, 403, 403, 403, 403]);
  await leave(page);
}
