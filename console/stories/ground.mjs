// A browser before a console that runs, and what every story needs of it.
//
//   BERTH_CONSOLE   https://HOST:PORT
//   BERTH_PEOPLE    {"admin": "PASSWORD", "eve": "PASSWORD"}: eve may look at the namespace default
//   CHROMIUM        the browser [default: /usr/bin/chromium]

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import axe from "axe-core";
import { chromium } from "playwright-core";

export const url = process.env.BERTH_CONSOLE ?? "https://localhost:8444";
export const people = JSON.parse(process.env.BERTH_PEOPLE ?? "{}");

/** What should come true does within this, or never. */
export const PATIENCE = 60_000;
const WIDE = { width: 1280, height: 800 };

export async function start() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    // As root, Chromium has no sandbox; what it shows here is ours alone.
    args: ["--no-sandbox", "--disable-dev-shm-usage"],
  });
}

/** A page of a browser that nobody used before; `faults` gathers what should never be said. */
export async function visit(browser, given = {}) {
  const { language = "en", scheme = "light", viewport = WIDE } = given;
  const context = await browser.newContext({
    ignoreHTTPSErrors: true,
    locale: language === "zh" ? "zh-CN" : "en-GB",
    colorScheme: scheme,
    viewport,
  });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(`an error in the page: ${error.message}`));
  page.on("console", (message) => {
    // A request that the server refuses is said by the browser too: stories look at the page.
    const refused = message.text().startsWith("Failed to load resource");
    if (message.type() === "error" && !refused) page.faults.push(message.text());
  });
  page.on("dialog", (dialog) => {
    page.faults.push(`a dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  return page;
}

/**
 * Goes to `path`. Chromium lets go of what it was told to fetch when an interface comes or goes,
 * as those of pods do: then once more.
 */
export async function go(page, path) {
  const CHANGED = "ERR_NETWORK_CHANGED";
  const end = performance.now() + PATIENCE;
  for (;;) {
    let cut = false;
    const failed = (request) => (cut ||= Boolean(request.failure()?.errorText.includes(CHANGED)));
    page.on("requestfailed", failed);
    try {
      await page.goto(url + path);
      // A page without its script shows nothing, for ever.
      if (!cut || performance.now() > end) return;
    } catch (error) {
      // The page that says so may come only now, and push aside what was asked for next; so may
      // one that loads itself again because a part of it was let go of, and again.
      const pushed = error.message.includes("is interrupted by another navigation");
      const again = pushed || error.message.includes(CHANGED);
      if (!again || performance.now() > end) throw error;
      await page.waitForLoadState();
    } finally {
      page.off("requestfailed", failed);
    }
  }
}

/** The same, logged in, at `path`. */
export async function enter(browser, name, path = "/now", given = {}) {
  const page = await visit(browser, given);
  await go(page, path);
  await logIn(page, name, people[name], given.language);
  return page;
}

export const words = {
  en: { name: "Name", password: "Password", logIn: "Log in", logOut: "Log out" },
  zh: { name: "名称", password: "密码", logIn: "登录", logOut: "退出" },
};

export async function logIn(page, name, password, language = "en") {
  const said = words[language];
  await page.getByRole("textbox", { name: said.name }).fill(name);
  await page.getByLabel(new RegExp(`^${said.password}`)).fill(password);
  const inside = page.getByRole("button", { name: said.logOut });
  const broken = page.getByText("Failed to fetch");
  for (const end = performance.now() + PATIENCE; performance.now() < end;) {
    const clicked = page.getByRole("button", { name: said.logIn }).click({ timeout: PATIENCE / 2 });
    // What was said of the turn before may stand there a moment longer than this turn takes.
    await clicked.catch(async (error) => {
      if (!(await inside.isVisible())) throw error;
    });
    await inside.or(broken).first().waitFor();
    // As in `go`.
    if (await inside.isVisible()) return;
  }
  throw new Error(`${name} does not get in`);
}

/** Ends the page's browser; nothing may have gone wrong in it unseen. */
export async function leave(page) {
  const { faults } = page;
  await page.context().close();
  assert.deepEqual(faults, []);
}

/** No fault that axe finds, and nothing that stands out at the side; said when the page is left. */
export async function accessible(page, what) {
  // What moves has its colours half way.
  await page.evaluate(() =>
    Promise.allSettled(document.getAnimations().map((one) => one.finished)),
  );
  // By the debugger's way: the page's own policy lets no script of ours in.
  await page.evaluate(axe.source);
  const found = await page.evaluate(() =>
    window.axe.run(document, { resultTypes: ["violations"] }),
  );
  for (const one of found.violations) {
    const nodes = one.nodes.map((node) => `${node.html} ${node.any[0]?.message ?? ""}`).slice(0, 4);
    page.faults.push(`${what}: ${one.id}: ${one.help}: ${nodes.join(" | ")}`);
  }
  const over = await page.evaluate(() => {
    const { scrollWidth, clientWidth } = document.documentElement;
    return scrollWidth - clientWidth;
  });
  if (over > 0) page.faults.push(`${what} is ${over} pixels too wide`);
}

/** Keeps a picture, when pictures are asked for. */
export async function picture(page, name) {
  const directory = process.env.BERTH_PICTURES;
  if (!directory) return;
  mkdirSync(directory, { recursive: true });
  await page.screenshot({ path: `${directory}/${name}.png`, animations: "disabled" });
}

/** What a script in the page fetches: as in `go`. */
export async function again(work) {
  const end = performance.now() + PATIENCE;
  for (let turn = 1; ; turn++) {
    try {
      return await work(turn);
    } catch (error) {
      if (performance.now() > end || !error.message.includes("Failed to fetch")) throw error;
    }
  }
}

/** Asks until `holds`, as often as the browser paints. */
export async function comes(page, what, holds, given) {
  const asked = again(() => page.waitForFunction(holds, given, { timeout: PATIENCE }));
  await asked.catch((error) => {
    throw new Error(`${what}: ${error.message}`);
  });
}

/** Asks the API as whoever is logged in. */
export async function ask(page, method, path, body) {
  const kind = `application/${method === "PATCH" ? "merge-patch+" : ""}json`;
  const given = { method, path, kind, text: body && JSON.stringify(body) };
  await again(async (turn) => {
    const status = await page.evaluate(async ({ method, path, kind, text }) => {
      const me = await (await fetch("/session")).json();
      const headers = { "content-type": kind, "x-berth-csrf": me.csrf };
      return (await fetch(`/k8s${path}`, { method, headers, body: text })).status;
    }, given);
    // What the browser let go of may have been done.
    const before = turn > 1 && (status === 404 || status === 409);
    assert.ok(status < 300 || before, `${method} ${path}: ${status}`);
  });
}
