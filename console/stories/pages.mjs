// Each page, in both languages and both colours, wide and narrow.

import { accessible, comes, enter, go, leave, picture } from "./ground.mjs";

const NARROW = { width: 390, height: 780 };

/** A path, what has come when the page is there, and its picture's name. */
const PAGES = [
  ["/now", "main h1", "now"],
  ["/apps", "main a[href='/apps/default/hello']", "apps"],
  ["/apps/default/hello", "main tbody tr", "app"],
  ["/releases", "main [role=row] + [role=rowgroup] [role=row]", "releases"],
  ["/fleet", "main .heat a", "fleet"],
  ["/fleet/NODE", "main [role=rowgroup] [role=row]", "node"],
  ["/workloads", "main [role=rowgroup] [role=row]", "workloads"],
  ["/workloads/apps/v1/deployments", "main [role=rowgroup] [role=row]", ""],
  ["/item/apps/v1/deployments/default/hello", "main textarea", "item"],
  ["/new/berth.dev/v1/apps", "main textarea", ""],
  ["/audit", "main tbody tr", "audit"],
  ["/report", "main h1", "usage"],
  ["/sessions", "main h1", "sessions"],
  ["/accounts", "main h1", "accounts"],
  ["/nowhere", "main h1", ""],
];

async function all(browser, name, given) {
  const page = await enter(browser, "admin", "/now", given);
  await go(page, "/fleet");
  const node = await page.locator("main [role=rowgroup] a").first().innerText();
  for (const [path, there, shown] of PAGES) {
    await go(page, path.replace("NODE", node));
    await page.locator(there).first().waitFor();
    // Loaders are of pages that are not there yet.
    await comes(page, `${path} has loaded`, () => !document.querySelector(".mantine-Loader-root"));
    await accessible(page, `${path}, ${name}`);
    if (shown) await picture(page, `${name}-${shown}`);
  }
  if (name === "light-en") {
    await tabs(page);
    await release(page);
  }
  await leave(page);
}

async function tabs(page) {
  await go(page, "/apps/default/hello");
  for (const [tab, there] of [
    ["Logs", ".log div div"],
    ["Releases", "main [role=rowgroup] [role=row]"],
    ["Events", "main [role=rowgroup] [role=row]"],
    ["Configuration", "main pre"],
  ]) {
    await page.getByRole("tab", { name: tab }).click();
    await page.locator(there).first().waitFor();
    await accessible(page, `an app's ${tab}`);
    await picture(page, `light-en-app-${tab.toLowerCase()}`);
  }
}

async function release(page) {
  await go(page, "/releases");
  await page.locator("main [role=rowgroup] a").first().click();
  await page.locator("main tbody tr").first().waitFor();
  await accessible(page, "a release");
  await picture(page, "light-en-release");
}

export async function everyPageIsForEverybody(browser) {
  for (const language of ["en", "zh"]) {
    for (const scheme of ["light", "dark"]) {
      await all(browser, `${scheme}-${language}`, { language, scheme });
    }
  }
}

export async function everyPageFitsANarrowScreen(browser) {
  await all(browser, "narrow-en", { viewport: NARROW });
  const page = await enter(browser, "admin", "/now", { viewport: NARROW });
  await page.getByRole("button", { name: "Menu" }).click();
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
