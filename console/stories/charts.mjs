// What an App uses and answers, over time.

import assert from "node:assert/strict";
import { accessible, comes, enter, leave, picture } from "./ground.mjs";
import { knock } from "./knock.mjs";

const WORDS = { en: "Charts", zh: "图表" };

export async function whatAnAppUsesAndAnswersIsDrawn(browser) {
  for (const language of ["en", "zh"]) {
    for (const scheme of ["light", "dark"]) {
      const page = await enter(browser, "admin", "/apps/default/hello", { language, scheme });
      await page.getByRole("tab", { name: WORDS[language] }).click();
      await page.locator("figure canvas").first().waitFor();
      if (language === "en" && scheme === "light") await drawn(page);
      await accessible(page, `charts, ${scheme}, ${language}`);
      await picture(page, `${scheme}-${language}-app-charts`);
      await leave(page);
    }
  }
}

async function drawn(page) {
  const stop = await knock(page, "hello");
  await says(page, "CPU", /cores: [\d.]+m?, at most/);
  await says(page, "Memory", /RSS: [1-9]\d* \w+.*RSS \+ 0\.4 × cache: [1-9].*working set: [1-9]/);
  await says(page, "Requests", /a second: (?!0\.0)\d/);
  await says(page, "Success", /answers below 500: 100 %/);
  await says(page, "Latency", /on average: \d+(\.\d)? ms/);
  // What is drawn is really there.
  const inked = await page.evaluate(() =>
    [...document.querySelectorAll("figure canvas")].map((canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return data.some((byte, index) => index % 4 === 3 && byte > 0);
    }),
  );
  assert.deepEqual(inked, [true, true, true, true, true]);
  const both = await requests(page);
  const instances = page.getByRole("combobox", { name: "Instances" });
  await instances.focus();
  await page.keyboard.press("ArrowDown");
  await page.waitForFunction((both) => {
    const figures = [...document.querySelectorAll("figure")];
    const own = figures.find((one) => one.querySelector("figcaption")?.textContent === "Requests");
    const said = own?.querySelector("[role=img]")?.ariaLabel ?? "";
    return Number.parseFloat(/at most ([\d.]+)/.exec(said)?.[1] ?? "NaN") < both;
  }, both);
  stop();
  await page.getByRole("tab", { name: "Instances" }).click();
  await page
    .locator("tbody tr td:nth-child(6)", { hasText: /[1-9]\d* [KM]iB/ })
    .first()
    .waitFor();
}

/** The chart's words for who sees none of it. */
async function says(page, title, what) {
  const chart = page.getByRole("figure", { name: title, exact: true }).getByRole("img");
  await comes(
    page,
    `${title} says ${what}`,
    ([title, what]) =>
      [...document.querySelectorAll("figure")].some(
        (figure) =>
          figure.querySelector("figcaption")?.textContent === title &&
          new RegExp(what).test(figure.querySelector("[role=img]")?.ariaLabel ?? ""),
      ),
    [title, what.source],
  ).catch(async (error) => {
    throw new Error(`${error.message}: ${await chart.getAttribute("aria-label")}`);
  });
}

async function requests(page) {
  const chart = page.getByRole("figure", { name: "Requests", exact: true }).getByRole("img");
  const said = (await chart.getAttribute("aria-label")) ?? "";
  return Number.parseFloat(/at most ([\d.]+)/.exec(said)?.[1] ?? "NaN");
}
