// Each page, each of its tabs and what opens in it: in English and Chinese, light and dark, wide and
// narrow.

import { accessible, again, comes, enter, go, leave, picture } from "./ground.mjs";

const NARROW = { width: 390, height: 780 };
/** Each language, each colour and each width, without every one of their combinations. */
const LOOKS = {
  "light-en": { language: "en", scheme: "light" },
  "dark-zh": { language: "zh", scheme: "dark" },
  "narrow-en": { language: "en", scheme: "dark", viewport: NARROW },
};
const WORDS = {
  en: { edit: "Edit", check: "Check", open: "Open", replay: "Replay" },
  zh: { edit: "编辑", check: "检查", open: "打开", replay: "回放" },
};

/** A path, what has come when the page is there, and its picture's name. */
const PAGES = [
  ["/now", "main h1", "now"],
  ["/apps", "main a[href='/apps/default/hello']", "apps"],
  ["/releases", "main [role=row] + [role=rowgroup] [role=row]", "releases"],
  ["/releases/freezes", "main [role=tabpanel]:visible", ""],
  ["/releases/default/RELEASE", "main tbody tr", "release"],
  ["/fleet", "main .heat a", "fleet"],
  ["/fleet/NODE", "main [role=rowgroup] [role=row]", "node"],
  ["/workloads", "main [role=rowgroup] [role=row]", "workloads"],
  ["/workloads/apps/v1/deployments", "main [role=rowgroup] [role=row]", ""],
  ["/new/berth.dev/v1/apps", "main textarea", ""],
  ["/audit", "main tbody tr", "audit"],
  ["/report", "main h1", "usage"],
  ["/me", "main tbody tr", "me"],
  ["/nowhere", "main h1", ""],
];
/** What the tabs of a page show, in their order. */
const TABS = {
  "/apps/default/hello": [
    ["instances", "main tbody tr"],
    ["charts", "main canvas"],
    ["scale", "main [role=tabpanel]:visible"],
    ["logs", ".log div div"],
    ["releases", "main [role=rowgroup] [role=row]"],
    ["events", "main [role=rowgroup] [role=row]"],
    ["routes", "main [role=tabpanel]:visible tbody tr"],
    ["probes", "main [role=tabpanel]:visible"],
    ["configuration", "main pre"],
  ],
  "/accounts": [
    ["requests", "main [role=tabpanel]:visible"],
    ["people", "main tbody tr"],
  ],
  "/item/core/v1/pods/default/POD": [
    ["yaml", "main textarea"],
    ["logs", ".log div div"],
  ],
};

async function all(browser, name) {
  const look = LOOKS[name];
  const page = await enter(browser, "admin", "/now", look);
  const looked = async (what, there, shown) => {
    await page.locator(there).first().waitFor();
    // Loaders are of pages that are not there yet.
    await comes(page, `${what} has loaded`, () => !document.querySelector(".mantine-Loader-root"));
    await accessible(page, `${what}, ${name}`);
    if (shown) await picture(page, `${name}-${shown}`);
  };
  const named = await names(page);
  const put = (path) => path.replace(/NODE|RELEASE|POD/, (word) => named[word]);
  for (const [path, there, shown] of PAGES) {
    await go(page, put(path));
    await looked(path, there, shown);
  }
  for (const [path, tabs] of Object.entries(TABS)) {
    await go(page, put(path));
    const kind = path.split("/")[1];
    for (const [at, [tab, there]] of tabs.entries()) {
      await page.getByRole("main").getByRole("tab").nth(at).click();
      await looked(`${path}: ${tab}`, there, `${kind}-${tab}`);
    }
  }
  await change(page, look.language, looked);
  await shell(page, put("/shell/default/POD"), look.language, looked);
  for (const [path, choice] of [
    ["/now", "header [role=combobox], header input"],
    ["/workloads", "main .mantine-Select-input"],
    ["/shell/default/POD", "main .mantine-Select-input"],
  ]) {
    await go(page, put(path));
    await page.locator(choice).first().click();
    await looked(`${path}: a choice`, "[role=listbox]:visible [role=option]");
  }
  await leave(page);
}

/** What is there to be looked at. */
async function names(page) {
  const first = async (path) => {
    const name = async (path) => (await (await fetch(`/k8s${path}`)).json()).items[0].metadata.name;
    return again(() => page.evaluate(name, path));
  };
  const mine = "labelSelector=app.kubernetes.io/name%3Dhello";
  return {
    NODE: await first("/api/v1/nodes"),
    RELEASE: await first("/apis/berth.dev/v1/namespaces/default/releases"),
    POD: await first(`/api/v1/namespaces/default/pods?${mine}`),
  };
}

/** An editor with what a change would do, and with why one cannot be. */
async function change(page, language, looked) {
  const words = WORDS[language];
  await go(page, "/item/apps/v1/deployments/default/hello");
  await page.getByRole("button", { name: words.edit }).click();
  const yaml = page.getByRole("textbox", { name: "YAML" });
  await looked("an editor", "main textarea");
  const text = await yaml.inputValue();
  await yaml.fill(text.replace(/replicas: \d+/, "replicas: 7"));
  await page.getByRole("button", { name: words.check }).click();
  await looked("a difference", ".diff .added", "item");
  await yaml.fill(text.replace(/replicas: \d+/, "replicas: many"));
  await page.getByRole("button", { name: words.check }).click();
  await looked("a refusal", "main [role=alert]");
}

/** A shell before and while it is open, and its replay; all sessions, and what was typed in them. */
async function shell(page, path, language, looked) {
  const words = WORDS[language];
  await go(page, path);
  await looked("before a shell", "main button");
  await page.getByRole("button", { name: words.open }).click();
  await page.locator(".xterm-rows").getByText(/[#$]/).first().waitFor();
  await looked("a shell", ".xterm-rows", "shell");
  await page.keyboard.type("exit");
  await page.keyboard.press("Enter");
  await page.getByRole("alert").getByRole("link", { name: words.replay }).click();
  await looked("a replay", "main .xterm-rows", "replay");
  await go(page, "/sessions");
  await looked("sessions", "main tbody tr", "sessions");
  await page.getByRole("main").getByRole("tab").nth(1).click();
  await looked("commands", "main [role=tabpanel]:visible");
}

export async function everyPageIsForEverybody(browser) {
  await all(browser, "light-en");
  await all(browser, "dark-zh");
}

export async function everyPageFitsANarrowScreen(browser) {
  await all(browser, "narrow-en");
  const page = await enter(browser, "admin", "/now", LOOKS["narrow-en"]);
  await page.getByRole("button", { name: "Menu" }).click();
  await accessible(page, "the menu of a narrow screen");
  await page.getByRole("link", { name: "Fleet" }).click();
  await page.locator("main .heat a").first().waitFor();
  await leave(page);
}

export async function aPartThatDoesNotComeIsAskedForAgain(browser) {
  // Once: it is asked for again. Twice: all of the page is, as after another console was installed.
  for (const times of [1, 2]) {
    const page = await enter(browser, "admin", "/now");
    let left = times;
    await page.route(/assets\/fleet-.*\.js/, (route) =>
      left-- > 0 ? route.abort("failed") : route.continue(),
    );
    await page.getByRole("link", { name: "Fleet" }).click();
    await page.locator("main .heat a").first().waitFor();
    await leave(page);
  }
}
