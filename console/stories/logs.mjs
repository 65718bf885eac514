// What an App writes into files is read beside what it prints.
//
//   BERTH_IMAGE   an image with a shell and busybox

import assert from "node:assert/strict";
import { accessible, ask, comes, enter, leave, picture } from "./ground.mjs";

const APPS = "/apis/berth.dev/v1/namespaces/default/apps";
const SCRIPT = `echo said aloud; i=0; while :; do i=$((i+1));
  for f in orders errors; do echo $f line $i >> /var/log/writer/$f.log; done;
  busybox sleep 0.2; done`;
const WRITER = {
  apiVersion: "berth.dev/v1",
  kind: "App",
  metadata: { name: "writer", namespace: "default" },
  spec: {
    image: process.env.BERTH_IMAGE ?? "",
    command: ["/bin/sh", "-c", SCRIPT],
    logs: { directories: ["/var/log/writer"], quota: "64Mi" },
    terminationGracePeriodSeconds: 0,
  },
};
const WORDS = {
  en: { logs: "Logs", directories: "Log directories" },
  zh: { logs: "日志", directories: "日志目录" },
};

export async function whatAnAppWritesIntoFilesIsReadToo(browser) {
  const page = await enter(browser, "admin", "/apps/default/hello");
  await ask(page, "POST", APPS, WRITER);
  try {
    for (const language of ["en", "zh"]) {
      const other = await enter(browser, "admin", "/apps/default/writer", { language });
      const words = WORDS[language];
      await other.getByRole("tab", { name: words.logs }).click();
      const line = (text) => other.locator(".log div div", { hasText: text });
      await line("said aloud").first().waitFor({ timeout: 60_000 });
      await other.locator("label", { hasText: words.directories }).click();
      await line("/var/log/writer/orders.log orders line").first().waitFor({ timeout: 30_000 });
      assert.equal(await line("said aloud").count(), 0, "only what stands in files");
      await accessible(other, `log directories, ${language}`);
      if (language === "en") await chosen(other, line);
      await picture(other, `light-${language}-app-files`);
      await leave(other);
    }
  } finally {
    await ask(page, "DELETE", `${APPS}/writer`);
  }
  await leave(page);
}

async function chosen(page, line) {
  const file = page.getByRole("combobox", { name: "File" });
  await file.selectOption("/var/log/writer/errors.log");
  await line("errors line").first().waitFor();
  await line("orders line").first().waitFor({ state: "detached" });
  const last = () => page.locator(".log div div").last().innerText();
  const number = async () => Number(/line (\d+)$/.exec(await last())?.[1]);
  const before = await number();
  await comes(
    page,
    "what is written comes",
    (before) =>
      [...document.querySelectorAll(".log div div")].some(
        (one) => Number(/line (\d+)$/.exec(one.textContent)?.[1]) > before,
      ),
    before,
  );
  await page.getByRole("textbox", { name: "Search" }).fill("line 1");
  await line("errors line 1").first().waitFor();
  await line("line 2").first().waitFor({ state: "detached" });
}

const TOLD = 400;
const COUNTS = {
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name: "counts", namespace: "default" },
  spec: {
    terminationGracePeriodSeconds: 0,
    // The log is asked for before there is one.
    initContainers: [
      {
        name: "before",
        image: process.env.BERTH_IMAGE ?? "",
        command: ["/bin/sh", "-c", "exec busybox sleep 3"],
      },
    ],
    containers: [
      {
        name: "main",
        image: process.env.BERTH_IMAGE ?? "",
        command: [
          "/bin/sh",
          "-c",
          `i=0; while [ $i -lt ${TOLD} ]; do i=$((i+1)); echo "number $i"; busybox usleep 20000; done
          echo all told; exec busybox sleep 3600`,
        ],
      },
    ],
  },
};

export async function aLogThatBreaksIsTakenUpWhereItEnded(browser) {
  const page = await enter(browser, "admin", "/now");
  // Its first three streams end as those do whose network changes.
  await page.evaluate(() => {
    const [real, from] = [window.fetch, 1_500];
    window.broken = 0;
    window.fetch = async (path, given) => {
      const answer = await real(path, given);
      if (!String(path).includes("/log?") || !answer.ok || window.broken === 3) return answer;
      const until = Date.now() + from;
      const cut = new TransformStream({
        transform(piece, to) {
          if (Date.now() < until) return to.enqueue(piece);
          window.broken += 1;
          to.error(new TypeError("network error"));
        },
      });
      return new Response(answer.body.pipeThrough(cut), { status: answer.status });
    };
  });
  const path = "/api/v1/namespaces/default/pods";
  await ask(page, "POST", path, COUNTS);
  try {
    await page.evaluate(
      (to) => history.pushState(null, "", to),
      "/item/core/v1/pods/default/counts",
    );
    await page.getByRole("tab", { name: "Logs" }).click();
    await page.locator(".log div div", { hasText: "all told" }).waitFor();
    assert.equal(await page.evaluate(() => window.broken), 3);
    // Beside them it is said, in a line or two, why there was nothing to read before.
    await page.getByRole("textbox", { name: "Search" }).fill("number ");
    const said = page.getByRole("main").getByRole("status");
    await said.getByText(new RegExp(`^${TOLD} of `)).waitFor();
  } finally {
    await ask(page, "DELETE", `${path}/counts`);
  }
  await leave(page);
}
