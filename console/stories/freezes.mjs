// When nothing may be released: drawn, told, and obeyed.

import assert from "node:assert/strict";
import { accessible, ask, enter, go, leave, picture } from "./ground.mjs";

/** A Friday evening. */
const FRIDAY = new Date("2026-11-20T18:30:00Z");
const HELLO = "/apis/berth.dev/v1/namespaces/default/apps/hello";
const MAPS = "/api/v1/namespaces/kube-system/configmaps";

export async function whatIsFrozenIsDrawnAndObeyed(browser) {
  const page = await enter(browser, "admin", "/releases");
  await page.getByRole("tab", { name: "Releases" }).focus();
  await page.keyboard.press("ArrowRight");
  await page.getByText("Nothing is frozen.").waitFor();
  await accessible(page, "no freezes");

  await annotate(page, "/api/v1/namespaces/default", {
    "berth.dev/freeze": "Fri@18:00/Mon@09:00 weekend; Mon@09:00/Mon@10:00 stand-up",
    "berth.dev/freeze-except": "default/spared, by:ann",
  });
  await annotate(page, HELLO, { "berth.dev/freeze": "tomorrow/never" });
  const windows = "2026-11-11T00:00:00+08:00/2026-11-12T00:00:00+08:00 promotion day";
  const map = { metadata: { name: "berth-freeze" }, data: { windows } };
  await ask(page, "POST", MAPS, map);

  for (const language of ["en", "zh"]) {
    for (const scheme of ["light", "dark"]) {
      const other = await enter(browser, "admin", "/now", { language, scheme });
      await other.clock.setFixedTime(FRIDAY);
      await go(other, "/releases/freezes");
      await other.locator("tbody tr", { hasText: "weekend" }).waitFor();
      await accessible(other, `freezes, ${scheme}, ${language}`);
      await picture(other, `${scheme}-${language}-freezes`);
      if (language === "en" && scheme === "light") await drawn(other);
      await leave(other);
    }
  }

  await annotate(page, "/api/v1/namespaces/default", {
    "berth.dev/freeze": null,
    "berth.dev/freeze-except": null,
  });

  // What the page shows as frozen, no release passes.
  await ask(page, "PATCH", `${MAPS}/berth-freeze`, { data: { windows: "always promotion day" } });
  await ask(page, "PATCH", HELLO, { spec: { env: { FROZEN: String(Date.now()) } } });
  await go(page, "/apps/default/hello");
  await page.getByText("frozen until somebody lifts it promotion day").waitFor();
  await page.getByRole("tab", { name: "Releases" }).click();
  const row = page.locator("main [role=row]", { hasText: "Waiting" });
  await row.waitFor();
  await row.getByRole("link").click();
  await page.getByRole("alert").getByText("tomorrow/never").waitFor();
  await annotate(page, HELLO, { "berth.dev/freeze": null });
  await page.getByRole("alert").getByText("everything: promotion day").waitFor();
  await ask(page, "DELETE", `${MAPS}/berth-freeze`);
  await page.locator("dd .well", { hasText: "Succeeded" }).waitFor();
  await leave(page);
}

async function drawn(page) {
  const row = page.locator("tbody tr", { hasText: "Namespace default" });
  // The two windows take turns: what counts is when the second ends.
  const until = await page.evaluate(() =>
    new Intl.DateTimeFormat("en", {
      weekday: "short",
      day: "numeric",
      month: "short",
      hour: "2-digit",
      minute: "2-digit",
    }).format(new Date("2026-11-23T10:00:00Z")),
  );
  const said = await row.innerText();
  assert.match(said, new RegExp(`frozen until ${until}`));
  assert.match(said, /default\/spared, by:ann/);
  assert.equal(await row.locator(".spans span").count(), 4, "two weekends, two Mondays");
  assert.match(
    (await row.getByRole("img").getAttribute("aria-label")) ?? "",
    /weekend; .*stand-up/,
  );
  const wrong = page.locator("tbody tr", { hasText: "default/hello" });
  await wrong.getByText("`tomorrow/never` is no window").waitFor();
  const over = page.locator("tbody tr", { hasText: "Everything" });
  assert.match(await over.innerText(), /over/);
  assert.equal(await over.locator(".spans span").count(), 0);
  await page.getByRole("button", { name: "Earlier" }).press("Enter");
  await over.locator(".spans span", { hasText: "promotion day" }).waitFor();
  await page.getByText("28 days").click();
  await accessible(page, "freezes of four weeks");
}

function annotate(page, path, annotations) {
  return ask(page, "PATCH", path, { metadata: { annotations } });
}
