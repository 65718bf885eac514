// Ten thousand log-ins at once and more connections than one address may have: who is logged in goes
// on working meanwhile, and who knows a password gets in after it from elsewhere.
//
// They come from 127.0.0.2, so that this machine's own address is not slowed with them.

import assert from "node:assert/strict";
import http2 from "node:http2";
import https from "node:https";
import tls from "node:tls";
import { enter, leave, people, url } from "./ground.mjs";

const ELSEWHERE = "127.0.0.2";
const LOG_INS = 10_000;
/** As many as a connection may carry at once, and so many connections that all go together. */
const STREAMS = 100;
const IDLE = 1_000;
const QUIET = 3_000;
/** What one who is logged in waits at most, in the median, milliseconds: a page is still a page. */
const PATIENT = 1_000;

const { hostname, port } = new URL(url);
const to = { host: hostname, port: Number(port), rejectUnauthorized: false };

export async function aFloodOfLogInsSlowsNobodyElse(browser) {
  const cookie = await session();
  const asked = client(null);
  const quiet = { over: false };
  setTimeout(() => (quiet.over = true), QUIET);
  const alone = await timed(asked, cookie, quiet);

  const flood = { refused: 0, tried: 0, other: new Map() };
  const held = await crowd();
  const going = { over: false };
  const meanwhile = timed(asked, cookie, going);
  await Promise.all(Array.from({ length: LOG_INS / STREAMS }, (_, turn) => batch(turn, flood)));
  going.over = true;
  const during = await meanwhile;
  for (const one of held) one.destroy();
  asked.destroy();

  const [before, after] = [median(alone), median(during)];
  const share = (after / before).toFixed(1);
  console.log(
    `  ${flood.refused} of ${LOG_INS} log-ins were refused, ${flood.tried} passwords were looked at; ` +
      `another's request took ${before.toFixed(1)} ms before, ${after.toFixed(1)} meanwhile (${share})`,
  );
  assert.deepEqual([...flood.other], [], "nothing but refusals");
  assert.equal(flood.refused + flood.tried, LOG_INS, "each is answered");
  assert.ok(flood.tried < 500, `${flood.tried} passwords were looked at`);
  assert.ok(after < PATIENT, `another's request took ${after} ms`);
  await leave(await enter(browser, "admin", "/now"));
}

function client(from) {
  const connected = () => tls.connect({ ...to, localAddress: from, ALPNProtocols: ["h2"] });
  const session = http2.connect(url, from ? { createConnection: connected } : to);
  session.on("error", () => {});
  return session;
}

/** One connection with its share of the log-ins, all at once. */
async function batch(turn, flood) {
  const session = client(ELSEWHERE);
  const one = (number) =>
    new Promise((resolve) => {
      const head = { ":method": "POST", ":path": "/session", "content-type": "application/json" };
      const stream = session.request(head);
      const count = (what) => {
        if (what === 429) flood.refused += 1;
        else if (what === 401) flood.tried += 1;
        else flood.other.set(what, (flood.other.get(what) ?? 0) + 1);
        resolve();
      };
      let status = 0;
      stream.on("response", (head) => (status = head[":status"]));
      stream.on("error", (error) => count(error.code));
      stream.on("end", () => count(status));
      stream.resume();
      stream.end(JSON.stringify({ name: `user${turn}-${number}`, password: people.admin }));
    });
  await Promise.all(Array.from({ length: STREAMS }, (_, number) => one(number)));
  session.destroy();
}

/** Connections that say nothing: as many as stay, of more than one address may have. */
async function crowd() {
  const all = Array.from({ length: IDLE }, () => {
    const socket = tls.connect({ ...to, localAddress: "127.0.0.3", ALPNProtocols: ["h2"] });
    socket.on("error", () => {});
    return socket;
  });
  const settled = (socket) =>
    new Promise((resolve) => {
      socket.once("secureConnect", resolve);
      socket.once("close", resolve);
    });
  await Promise.all(all.map(settled));
  const open = all.filter((socket) => !socket.destroyed);
  assert.ok(open.length < IDLE, "one address has a share alone");
  return all;
}

/** How long requests of somebody who is logged in take, one after another until `told`, in ms. */
async function timed(session, cookie, told) {
  const samples = [];
  const ask = (path) =>
    new Promise((resolve, reject) => {
      const stream = session.request({ ":path": path, cookie });
      stream.on("response", (head) => {
        if (head[":status"] !== 200) reject(new Error(`${path}: ${head[":status"]}`));
      });
      stream.on("error", reject);
      stream.on("end", resolve);
      stream.resume();
    });
  while (!told.over) {
    for (const path of ["/session", "/k8s/api/v1/namespaces"]) {
      const begun = performance.now();
      await ask(path);
      samples.push(performance.now() - begun);
    }
  }
  return samples;
}

function median(samples) {
  return samples.toSorted((a, b) => a - b)[Math.floor(samples.length / 2)];
}

/** A cookie of somebody who logged in before. */
function session() {
  const body = JSON.stringify({ name: "admin", password: people.admin });
  const headers = { "content-type": "application/json" };
  return new Promise((resolve, reject) => {
    const options = { method: "POST", rejectUnauthorized: false, headers };
    const request = https.request(`${url}/session`, options, (answer) => {
      answer.resume();
      const cookie = answer.headers["set-cookie"]?.[0].split(";")[0];
      if (cookie) resolve(cookie);
      else reject(new Error(`nobody gets in: ${answer.statusCode}`));
    });
    request.on("error", reject);
    request.end(body);
  });
}
