// What the page costs and how fast it follows: one line of JSON, for `./dev bench console`.
//
//   BERTH_CONSOLE, BERTH_PEOPLE, CHROMIUM   as for the stories
//   BERTH_API, BERTH_PKI                    the API's address, and the directory of admin.crt
//   BERTH_IMAGE                             an image with /bin/sh and busybox
//   BERTH_CONSOLE_PID                       the console's process, whose time is counted

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import http2 from "node:http2";
import https from "node:https";
import { comes, enter, go, people, start, url, visit } from "./ground.mjs";
import { linesShown } from "./lines.mjs";

const PODS = 20_000;
const CONSOLES = 200;
const CHANGES_PER_SECOND = 20;
const COUNTED = 20_000;
/** As many as fit into a line. */
const KEYS = 60;

const pki = process.env.BERTH_PKI;
const agent = new https.Agent({
  keepAlive: true,
  maxSockets: 8,
  ca: readFileSync(`${pki}/ca.crt`),
  cert: readFileSync(`${pki}/admin.crt`),
  key: readFileSync(`${pki}/admin.key`),
});

/** A request to the API itself, past the console. */
function api(method, path, body) {
  return new Promise((resolve, reject) => {
    const kind = method === "PATCH" ? "application/merge-patch+json" : "application/json";
    const options = { method, agent, headers: { "content-type": kind } };
    const request = https.request(process.env.BERTH_API + path, options, (answer) => {
      let text = "";
      answer.on("data", (piece) => (text += piece));
      answer.on("end", () => {
        if (answer.statusCode < 300) resolve(text);
        else reject(new Error(`${method} ${path}: ${answer.statusCode} ${text.slice(0, 300)}`));
      });
    });
    request.on("error", reject);
    request.end(body && JSON.stringify(body));
  });
}

/** Eight at a time. */
async function many(count, one) {
  let next = 0;
  const worker = async () => {
    while (next < count) await one(next++);
  };
  await Promise.all(Array.from({ length: 8 }, worker));
}

function pod(name, namespace, rest = {}) {
  const containers = [{ name: "main", image: process.env.BERTH_IMAGE, ...rest }];
  // Nobody schedules them: they are there to be looked at.
  const spec = rest.command ? { containers } : { schedulerName: "nobody", containers };
  return { metadata: { name, namespace, labels: { app: `app-${name.length}` } }, spec };
}

/** From the click on a link to what is broken and how much there is; nothing of it was kept. */
async function paint(browser) {
  const samples = [];
  let kib = 0;
  for (let turn = 0; turn < 5; turn++) {
    const page = await enter(browser, "admin", "/now");
    const storage = await page.context().storageState();
    await page.context().close();
    // Another browser with the cookie alone: no file is in its cache.
    const fresh = await visit(browser);
    await fresh.context().addCookies(storage.cookies);
    await fresh.addInitScript(() => {
      const seen = () => {
        const known = [...document.querySelectorAll("main .count")];
        if (known.length > 0 && known.every((one) => /\d/.test(one.textContent))) {
          requestAnimationFrame(() => setTimeout(() => (window.painted = performance.now())));
        } else requestAnimationFrame(seen);
      };
      requestAnimationFrame(seen);
    });
    await go(fresh, "/now");
    await comes(fresh, "the page is there", () => window.painted > 0);
    const got = await fresh.evaluate(() => ({
      painted: window.painted,
      bytes: performance
        .getEntriesByType("resource")
        .filter((one) => new URL(one.name).pathname.endsWith(".js"))
        .reduce((sum, one) => sum + one.encodedBodySize, 0),
    }));
    samples.push(got.painted);
    kib = Math.max(kib, got.bytes / 1024);
    await fresh.context().close();
  }
  return { paint_ms: samples, javascript_kib: kib };
}

/** The longest time between two frames while `what` goes on. */
async function longest(page, what) {
  await page.evaluate(() => {
    window.longest = 0;
    let before = performance.now();
    const frame = (now) => {
      window.longest = Math.max(window.longest, now - before);
      before = now;
      window.frame = requestAnimationFrame(frame);
    };
    window.frame = requestAnimationFrame((now) => {
      before = now;
      window.frame = requestAnimationFrame(frame);
    });
  });
  await what();
  return page.evaluate(() => {
    cancelAnimationFrame(window.frame);
    return window.longest;
  });
}

async function allAreListed(page) {
  await comes(
    page,
    "all pods are listed",
    (count) => {
      const said = document.querySelector("main [role=status]")?.textContent ?? "";
      // While some are filtered out it says "so many / of so many".
      return !said.includes("/") && Number(said.replace(/\D/g, "")) >= count;
    },
    PODS,
  );
}

async function lists(browser) {
  const page = await enter(browser, "admin", "/workloads/core/v1/configmaps");
  const idle = await longest(page, () => page.waitForTimeout(1_000));
  const begun = performance.now();
  const listed = await longest(page, async () => {
    await page.evaluate(() => {
      history.pushState(null, "", "/workloads/core/v1/pods");
    });
    await allAreListed(page);
  });
  const list_ms = performance.now() - begun;
  const filtered = await longest(page, async () => {
    await page
      .getByRole("textbox", { name: "Search" })
      .pressSequentially("pod-1999", { delay: 40 });
    // A row's text runs on into its counts, so that of pod-1999 is like it too.
    await page
      .locator("main [role=rowgroup] [role=row]", { hasText: "pod-19990" })
      .nth(1)
      .waitFor();
    await page.getByRole("textbox", { name: "Search" }).fill("");
    await allAreListed(page);
  });
  await page.locator("main .table").hover();
  const scrolled = await longest(page, async () => {
    for (let turn = 0; turn < 120; turn++) {
      await page.mouse.wheel(0, turn % 40 === 39 ? 100_000 : 400);
      await page.waitForTimeout(16);
    }
  });
  await page.context().close();
  return { list_ms, frames_ms: { idle, listed, filtered, scrolled } };
}

/** From the start of a change, past the console, to the frame that shows it. */
async function latency(browser) {
  const page = await enter(browser, "admin", "/workloads/core/v1/pods");
  await page.getByRole("combobox", { name: "Namespace" }).fill("busy");
  await page.keyboard.press("Enter");
  const row = page.locator("main [role=row]", { hasText: "busy-0" }).first();
  await row.waitFor();
  const samples = [];
  for (let turn = 0; turn < 30; turn++) {
    const phase = turn % 2 === 0 ? "Failed" : "Pending";
    const shown = page.evaluate(
      (phase) =>
        new Promise((resolve) => {
          const look = () => {
            const rows = [...document.querySelectorAll("main [role=row]")];
            const mine = rows.find((one) => one.textContent.includes("busy-0"));
            if (mine?.textContent.includes(phase)) resolve(Date.now());
            else requestAnimationFrame(look);
          };
          look();
        }),
      phase,
    );
    const begun = Date.now();
    await api("PATCH", "/api/v1/namespaces/busy/pods/busy-0/status", { status: { phase } });
    samples.push((await shown) - begun);
  }
  await page.context().close();
  return { change_ms: samples };
}

/** Lines that a pod prints, as the page shows them. */
async function lines(browser) {
  const given = pod("talks", "default", { command: [] });
  const told = await linesShown(browser, given, longest, uptime);
  await api("DELETE", "/api/v1/namespaces/default/pods/talks?gracePeriodSeconds=0");
  return told;
}

/** How long the machine runs, seconds: to the hundredth. */
function uptime() {
  return Number(readFileSync("/proc/uptime", "utf8").split(" ", 1)[0]);
}

/** From a key until it stands on the page in a shell, the container's own echo among it. */
async function echo(browser) {
  // Before: a pod's interface that comes breaks what a browser on its machine is loading.
  const page = await enter(browser, "admin", "/now");
  await api("POST", "/api/v1/namespaces/default/pods", {
    ...pod("echoes", "default", { command: ["/bin/sh", "-c", "exec busybox sleep 3600"] }),
  });
  const path = "/api/v1/namespaces/default/pods/echoes";
  while (JSON.parse(await api("GET", path)).status.phase !== "Running") {
    await page.waitForTimeout(200);
  }
  await page.evaluate(() => history.pushState(null, "", "/shell/default/echoes"));
  await page.getByRole("button", { name: "Open" }).click();
  await page.locator(".xterm-rows").getByText(/[#$]/).first().waitFor();
  await page.evaluate(() => {
    window.echoes = [];
    const rows = document.querySelector(".xterm-rows");
    const shown = () => rows.textContent.split("q").length;
    let [begun, before] = [0, Infinity];
    addEventListener("keydown", () => ([begun, before] = [performance.now(), shown()]), true);
    // The terminal writes within a frame, so what it has written is about to be painted.
    new MutationObserver(() => {
      if (shown() <= before) return;
      window.echoes.push(performance.now() - begun);
      before = Infinity;
    }).observe(rows, { childList: true, subtree: true, characterData: true });
  });
  for (let key = 1; key <= KEYS; key++) {
    await page.keyboard.press("q");
    await comes(page, `key ${key} is echoed`, (key) => window.echoes.length === key, key);
  }
  const samples = await page.evaluate(() => window.echoes);
  await page.context().close();
  await api("DELETE", `${path}?gracePeriodSeconds=0`);
  return { echo_ms: samples };
}

/** As a browser does it: over one connection, the six lists of the page Now. */
async function consoles() {
  const cookie = await new Promise((resolve, reject) => {
    const options = {
      method: "POST",
      rejectUnauthorized: false,
      headers: { "content-type": "application/json" },
    };
    const request = https.request(`${url}/session`, options, (answer) => {
      answer.resume();
      resolve(answer.headers["set-cookie"]?.[0].split(";")[0]);
    });
    request.on("error", reject);
    request.end(JSON.stringify({ name: "admin", password: people.admin }));
  });
  const space = "namespaces/busy";
  const lists = [
    "/api/v1/namespaces",
    "/api/v1/nodes",
    `/apis/apps/v1/${space}/deployments`,
    `/apis/apps/v1/${space}/statefulsets`,
    `/api/v1/${space}/pods`,
    `/api/v1/${space}/events`,
  ];
  const sessions = [];
  let bytes = 0;
  for (let turn = 0; turn < CONSOLES; turn++) {
    const session = http2.connect(url, { rejectUnauthorized: false });
    sessions.push(session);
    await Promise.all(
      lists.map(
        (path) =>
          new Promise((resolve, reject) => {
            const stream = session.request({
              ":path": `/live?path=${encodeURIComponent(path)}`,
              cookie,
            });
            stream.on("response", (head) => {
              if (head[":status"] === 200) resolve();
              else reject(new Error(`${path}: ${head[":status"]}`));
            });
            stream.on("data", (piece) => (bytes += piece.length));
            stream.on("error", reject);
          }),
      ),
    );
  }
  let [turn, asked, failed] = [0, 0, null];
  const changes = setInterval(() => {
    const phase = turn % 2 === 0 ? "Failed" : "Pending";
    const path = `/api/v1/namespaces/busy/pods/busy-${turn++ % 50}/status`;
    api("PATCH", path, { status: { phase } }).catch((error) => (failed = error));
  }, 1_000 / CHANGES_PER_SECOND);
  // What the page asks for again and again: who did what, every half minute.
  const asks = setInterval(() => {
    const session = sessions[asked++ % CONSOLES];
    const stream = session.request({ ":path": "/acts?", cookie });
    stream.on("data", (piece) => (bytes += piece.length));
    stream.on("error", (error) => (failed = error));
  }, 30_000 / CONSOLES);
  const pause = (length) => new Promise((resolve) => setTimeout(resolve, length));
  await pause(5_000);
  const [before, had, begun] = [spent(), bytes, performance.now()];
  await pause(COUNTED);
  const seconds = (performance.now() - begun) / 1000;
  const percent = ((spent() - before) / seconds) * 100;
  const rate = (bytes - had) / seconds / CONSOLES;
  clearInterval(changes);
  clearInterval(asks);
  for (const session of sessions) session.destroy();
  if (failed) throw failed;
  return { consoles_cpu_percent: percent, bytes_per_second_each: rate };
}

/** The console's processor time so far, seconds. */
function spent() {
  const stat = readFileSync(`/proc/${process.env.BERTH_CONSOLE_PID}/stat`, "utf8");
  const words = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(words[11]) + Number(words[12])) / ticks;
}
const ticks = Number(execFileSync("getconf", ["CLK_TCK"]).toString());

async function all(browser) {
  for (const name of ["busy", "many"]) {
    await api("POST", "/api/v1/namespaces", { metadata: { name } });
  }
  await many(50, (at) => api("POST", "/api/v1/namespaces/busy/pods", pod(`busy-${at}`, "busy")));
  const first = { ...(await paint(browser)), ...(await latency(browser)) };
  const live = { ...(await echo(browser)), lines: await lines(browser) };
  const then = { ...live, ...(await consoles()) };
  await many(PODS, (at) => api("POST", "/api/v1/namespaces/many/pods", pod(`pod-${at}`, "many")));
  return { ...first, ...then, ...(await lists(browser)) };
}

const browser = await start();
try {
  console.log(JSON.stringify(await all(browser)));
} finally {
  await browser.close();
  agent.destroy();
}
