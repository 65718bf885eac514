// Who gave an App how many instances, and by which rule.

import { accessible, ask, enter, leave, picture } from "./ground.mjs";

const HELLO = "/apis/berth.dev/v1/namespaces/default/apps/hello";
const WORDS = { en: "Scale", zh: "扩缩容" };

export async function whoScaledAnAppIsToldWithTheRule(browser) {
  const page = await enter(browser, "admin", "/apps/default/hello");
  await page.getByRole("tab", { name: "Scale" }).click();
  await page.getByText("No rule scales it").waitFor();
  await ask(page, "PATCH", HELLO, { spec: { replicas: 3 } });
  await page.locator("tbody tr", { hasText: "2 → 3" }).first().getByText("admin").waitFor();
  await ask(page, "PATCH", HELLO, { spec: { scale: { min: 1, max: 2, cpu: 50 } } });
  const row = page.locator("tbody tr", { hasText: "3 → 2" }).first();
  await row.getByText("autoscaler").waitFor({ timeout: 60_000 });
  await row.getByText("above Spec.MaxReplicas").waitFor();
  await page.getByRole("region", { name: "Rule, and what it measures" }).waitFor();
  await page.locator("dd", { hasText: "(1 – 2)" }).waitFor();
  await page.locator("dd", { hasText: "/ 50 %" }).waitFor();
  for (const language of ["en", "zh"]) {
    for (const scheme of ["light", "dark"]) {
      const other = await enter(browser, "admin", "/apps/default/hello", { language, scheme });
      await other.getByRole("tab", { name: WORDS[language] }).click();
      await other.locator("tbody tr", { hasText: "3 → 2" }).first().waitFor();
      await accessible(other, `a scale trail, ${scheme}, ${language}`);
      await picture(other, `${scheme}-${language}-app-scale`);
      await leave(other);
    }
  }
  await ask(page, "PATCH", HELLO, { spec: { scale: null, replicas: 2 } });
  await leave(page);
}
