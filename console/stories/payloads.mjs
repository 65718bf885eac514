// A script in every field that somebody can write and a page shows is text there, and does nothing.
//
// `hostile.mjs` has what a pod's own program writes; here are statuses, nodes, Apps, Releases,
// freezes, account requests, log-ins, paths, and what is typed in a shell.
//
//   BERTH_IMAGE   an image with /bin/sh

import assert from "node:assert/strict";
import { again, ask, comes, enter, go, leave } from "./ground.mjs";
import { harmless } from "./hostile.mjs";

const TEXT = "<img src=x onerror=window.taken=1><svg onload=window.taken=1>";
/** What a name may hold is no markup; what may hold anything holds this. */
const LINK = "javascript:window.taken=1";
const NAME = "payloads";
const POD = {
  metadata: { name: NAME, namespace: "default", annotations: { note: TEXT, link: LINK } },
  spec: {
    // Nobody places it, so what its status says is ours.
    schedulerName: "nobody",
    containers: [
      {
        name: "main",
        image: `example.invalid/${TEXT.replaceAll(" ", "")}`,
        args: [TEXT],
        env: [{ name: "NOTE", value: TEXT }],
        workingDir: `/${TEXT}`,
      },
    ],
  },
};
const ENDED = { exitCode: 1, reason: TEXT, message: TEXT };
const STATUS = {
  phase: "Failed",
  reason: TEXT,
  message: TEXT,
  conditions: [{ type: "example.dev/x", status: "False", reason: TEXT, message: TEXT }],
  containerStatuses: [
    {
      name: "main",
      image: TEXT,
      imageID: TEXT,
      ready: false,
      restartCount: 1,
      state: { waiting: { reason: TEXT, message: TEXT } },
      lastState: { terminated: ENDED },
    },
  ],
};
const NODE = {
  metadata: { name: NAME, annotations: { note: TEXT } },
  spec: { unschedulable: true },
};
const INFO = {
  ...Object.fromEntries(
    ["machineID", "systemUUID", "bootID", "kubeProxyVersion", "operatingSystem"].map((word) => [
      word,
      TEXT,
    ]),
  ),
  architecture: TEXT,
  containerRuntimeVersion: TEXT,
  kernelVersion: TEXT,
  kubeletVersion: TEXT,
  osImage: TEXT,
};
const NODE_STATUS = {
  conditions: [{ type: "Ready", status: "False", reason: TEXT, message: TEXT }],
  nodeInfo: INFO,
};
const APP = {
  apiVersion: "berth.dev/v1",
  kind: "App",
  metadata: {
    name: NAME,
    namespace: "default",
    annotations: {
      "berth.dev/commit": TEXT,
      "berth.dev/cause": TEXT,
      "berth.dev/freeze": `2020-01-01T00:00:00Z/2020-01-02T00:00:00Z ${TEXT}`,
    },
  },
  spec: {
    image: process.env.BERTH_IMAGE ?? "",
    replicas: 1,
    command: ["/bin/sh", "-c", "exec busybox sleep 3600"],
    env: { NOTE: TEXT },
    source: { repository: LINK, commit: TEXT, directory: TEXT },
    terminationGracePeriodSeconds: 0,
  },
};
const REQUEST = {
  apiVersion: "berth.dev/v1",
  kind: "AccountRequest",
  metadata: { name: NAME, annotations: { note: TEXT } },
  spec: { name: NAME, groups: [], reason: TEXT },
};
const CORE = "/api/v1";
const BERTH = "/apis/berth.dev/v1";
/** Where each is, and what is there besides. */
const MADE = [
  [`${CORE}/namespaces/default/pods`, POD, STATUS],
  [`${CORE}/nodes`, NODE, NODE_STATUS],
  [`${BERTH}/namespaces/default/apps`, APP],
  [`${BERTH}/accountrequests`, REQUEST],
];

/** A page, and what is searched for in it so that the line is in sight. */
const PAGES = [
  ["/now"],
  ["/workloads/core/v1/pods", NAME],
  ["/item/core/v1/pods/default/payloads"],
  [`/fleet/${NAME}`],
  ["/workloads/core/v1/nodes", NAME],
  [`/item/core/v1/nodes/-/${NAME}`],
  [`/item/berth.dev/v1/apps/default/${NAME}`],
  [`/releases/default/${NAME}-1`],
  ["/accounts"],
  ["/audit"],
];

export async function whatAnyFieldHoldsIsText(browser) {
  const page = await enter(browser, "admin", "/now");
  for (const [path, object, status] of MADE) {
    await ask(page, "POST", path, object);
    if (status) await ask(page, "PATCH", `${path}/${NAME}/status`, { status });
  }
  try {
    await again(() => page.evaluate(tried, TEXT));
    await typed(page);
    for (const [path, search] of PAGES) {
      await go(page, path);
      const field = page.getByRole("main").getByRole("textbox", { name: "Search" }).first();
      if (search) await field.fill(search);
      await shows(page, path);
    }
    await decided(page);
    await linked(page);
  } finally {
    for (const [path] of MADE) await ask(page, "DELETE", `${path}/${NAME}`);
  }
  await leave(page);
}

/** Waits until the page shows the text as text. */
async function shows(page, where) {
  await comes(page, `${where} shows it`, () => {
    const fields = [...document.querySelectorAll("main textarea")].map((one) => one.value);
    const main = document.querySelector("main")?.innerText ?? "";
    return [main, ...fields].some((text) => text.includes("onerror"));
  });
  await harmless(page, where);
}

/** A log-in by that name and a change at that path: both are in the audit. */
async function tried(text) {
  const me = await (await fetch("/session")).json();
  const headers = { "content-type": "application/json", "x-berth-csrf": me.csrf };
  const password = "no password of anybody's";
  const body = JSON.stringify({ name: text, password });
  await fetch("/session", { method: "POST", headers, body });
  const path = `/k8s/api/v1/namespaces/default/configmaps/${encodeURIComponent(text)}`;
  await fetch(path, { method: "DELETE", headers, body: "{}" });
}

/** What is typed in a shell is in its list of commands, and beside its replay. */
async function typed(page) {
  const path = "/k8s/api/v1/namespaces/default/pods?labelSelector=app.kubernetes.io/name%3Dhello";
  const first = async (path) => (await (await fetch(path)).json()).items[0].metadata.name;
  const pod = await again(() => page.evaluate(first, path));
  await go(page, `/shell/default/${pod}`);
  await page.getByRole("button", { name: "Open" }).click();
  const screen = page.locator(".xterm-rows");
  await screen.getByText(/[#$]/).first().waitFor();
  await page.keyboard.type(`echo '${TEXT}'`);
  await page.keyboard.press("Enter");
  await page.keyboard.type("exit");
  await page.keyboard.press("Enter");
  await page.getByRole("alert").getByRole("link", { name: "Replay" }).click();
  // So short a session may be over before it is looked at.
  await page.getByRole("button", { name: /Play|Pause/ }).waitFor();
  await shows(page, "a replay");
  await go(page, "/sessions");
  await page.getByRole("tab", { name: "Commands" }).click();
  await shows(page, "commands");
}

async function decided(page) {
  await go(page, "/accounts");
  await page.locator("main tbody tr", { hasText: NAME }).getByRole("button").click();
  await page.getByRole("dialog").getByText("onerror").waitFor();
  await harmless(page, "an account that is decided on");
}

/** A status that leads to a script leads nowhere. */
async function linked(page) {
  const told = async (route) => {
    const answer = await route.fetch();
    const app = await answer.json();
    app.status = { ...app.status, url: LINK };
    await route.fulfill({ response: answer, json: app });
  };
  await page.route(`**/apps/${NAME}`, told);
  await go(page, `/apps/default/${NAME}`);
  await page.getByRole("main").getByText(LINK).first().waitFor();
  assert.equal(await page.locator("main a", { hasText: LINK }).count(), 0, "it is no link");
  await page.getByRole("tab", { name: "Configuration" }).click();
  await shows(page, "an app's configuration");
  await page.unroute(`**/apps/${NAME}`, told);
}
