// A terminal in a container: keys and their echo, what is recorded, who may, and who ends it.

import assert from "node:assert/strict";
import { accessible, enter, go, leave, picture } from "./ground.mjs";

const SUM = "echo 6 times 7 is $((6*7))";

export async function whatIsTypedInAShellIsReplayed(browser) {
  const page = await enter(browser, "admin", "/apps/default/hello");
  await page.getByRole("link", { name: "Shell" }).first().click();
  await page.getByRole("button", { name: "Open" }).click();
  const screen = page.locator(".xterm-rows");
  await screen.getByText(/[#$]/).first().waitFor();
  await page.keyboard.type(SUM);
  await page.keyboard.press("Enter");
  await screen.getByText("6 times 7 is 42").first().waitFor();
  await accessible(page, "a shell");
  await picture(page, "shell");
  // What would set the title or the clipboard, or answer into the shell, does nothing.
  const title = await page.title();
  await page.keyboard.type(
    "printf '\\033]0;taken\\007\\033]52;c;dGFrZW4=\\007\\033[6n\\033[cdone\\n'",
  );
  await page.keyboard.press("Enter");
  await screen.getByText(/^done/).first().waitFor();
  assert.equal(await page.title(), title);
  await page.keyboard.type("exit");
  await page.keyboard.press("Enter");
  await page.getByRole("alert").getByText("The command ended with 0.").waitFor();
  await page.getByRole("alert").getByRole("link", { name: "Replay" }).click();
  await page.getByRole("button", { name: "Pause" }).waitFor();
  await screen.getByText("6 times 7 is 42").first().waitFor();
  // Back to the command, by what was typed.
  await page.getByRole("button", { name: SUM }).click();
  await accessible(page, "a replay");
  await picture(page, "replay");
  await go(page, "/sessions");
  await page.getByRole("textbox", { name: "Command" }).fill("6 TIMES 7");
  await page.getByRole("tab", { name: "Commands" }).click();
  await page.locator("tbody tr", { hasText: SUM }).first().waitFor();
  await accessible(page, "commands");
  await leave(page);
}

export async function aShellIsCutOff(browser) {
  const page = await enter(browser, "admin", "/apps/default/hello");
  await page.getByRole("link", { name: "Shell" }).first().click();
  await page.getByRole("button", { name: "Open" }).click();
  await page.locator(".xterm-rows").getByText(/[#$]/).first().waitFor();
  const other = await enter(browser, "admin", "/sessions");
  await other.getByText("live").first().waitFor();
  await accessible(other, "sessions");
  await picture(other, "sessions");
  await other.getByRole("button", { name: "Cut off" }).first().click();
  await page.getByRole("alert").getByText("Cut off by admin.").waitFor();
  await leave(other);
  await leave(page);
}

export async function whoMayOnlyLookGetsNoShell(browser) {
  const page = await enter(browser, "eve", "/item/core/v1/pods/default/hostile");
  await page.getByRole("link", { name: "Shell" }).click();
  await page.getByRole("button", { name: "Open" }).click();
  await page.getByRole("alert").getByText("forbidden").waitFor();
  await leave(page);
}

export async function aContainerIsMadeToLookIntoAPod(browser) {
  const page = await enter(browser, "admin", "/shell/default/hostile");
  await page.getByLabel("In a container beside it").check();
  // The image of tools that is offered.
  const named = page.getByLabel("Image of a debug container");
  assert.match(await named.inputValue(), /berth\/tools/);
  await accessible(page, "a debug container");
  await page.getByRole("button", { name: "Open" }).click();
  const screen = page.locator(".xterm-rows");
  await screen.getByText(/[#$]/).first().waitFor();
  // It sees what the pod's own container runs.
  await page.keyboard.type("ps -e -o args | grep -c shou[t]; strace -V | head -1; echo looked");
  await page.keyboard.press("Enter");
  await screen
    .getByText(/^looked/)
    .first()
    .waitFor();
  await page.keyboard.type("exit");
  await page.keyboard.press("Enter");
  await page.getByRole("alert").getByText("The command ended").waitFor();
  await leave(page);
}
