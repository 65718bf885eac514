// Requests to the console's server: the session, and the Kubernetes API as the person logged in.

import { refusal } from "./words/served";

export interface Person {
  name: string;
  groups: string[];
  csrf: string;
}

/** What the API server says when it refuses. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly reason: string,
    message: string,
  ) {
    super(message);
  }
}

let csrf = "";
const leavers = new Set<() => void>();

/** What a request that changes something shows beside the cookie. */
export function secret(): string {
  return csrf;
}

/** Calls `left` when a request finds that nobody is logged in any more. */
export function onLeft(left: () => void): () => void {
  leavers.add(left);
  return () => leavers.delete(left);
}

/** How often what only reads is asked for, and how many milliseconds lie between. */
const TURNS = 3;
const PAUSE = 250;

/**
 * Browsers let go of all they were told to fetch when an interface of the machine comes or goes, as
 * those of pods do where the console runs: what only reads is asked for again.
 */
async function fetched(path: string, init: RequestInit): Promise<Response> {
  const reads = (init.method ?? "GET") === "GET";
  for (let turn = 1; ; turn++) {
    try {
      return await fetch(path, init);
    } catch (error) {
      if (!reads || turn === TURNS || init.signal?.aborted) throw error;
      await new Promise((done) => setTimeout(done, PAUSE));
    }
  }
}

export async function send(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (init.method && init.method !== "GET") headers.set("x-berth-csrf", csrf);
  const answer = await fetched(path, { ...init, headers, credentials: "same-origin" });
  if (answer.ok) return answer;
  const text = await answer.text();
  let reason = answer.statusText;
  let message = text;
  try {
    const status = JSON.parse(text);
    reason = status.reason ?? reason;
    message = status.message ?? message;
  } catch {
    // Not every refusal is a Status: its text is shown.
  }
  if (answer.status === 401 && path !== "/session") for (const left of leavers) left();
  throw new Refused(answer.status, reason, refusal(message));
}

const JSON_BODY = { "content-type": "application/json" };

export async function whoAmI(): Promise<Person | null> {
  try {
    return know(await (await send("/session")).json());
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return null;
    throw error;
  }
}

export async function logIn(name: string, password: string): Promise<Person> {
  const body = JSON.stringify({ name, password });
  const answer = await send("/session", { method: "POST", headers: JSON_BODY, body });
  return know(await answer.json());
}

export async function logOut(): Promise<void> {
  await send("/session", { method: "DELETE" });
}

function know(person: Person): Person {
  csrf = person.csrf;
  return person;
}

/** GET of the Kubernetes API. */
export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  const headers = { accept: "application/json" };
  return (await send(`/k8s${path}`, { headers, signal })).json();
}

/** GET of what comes in pieces. */
export async function stream(path: string, signal: AbortSignal): Promise<Response> {
  return send(`/k8s${path}`, { signal });
}

/** PUT, POST, PATCH or DELETE of the Kubernetes API. */
export async function change<T>(
  method: "PUT" | "POST" | "DELETE" | "PATCH",
  path: string,
  body?: unknown,
  kind = "application/json",
): Promise<T> {
  const text = body === undefined ? undefined : JSON.stringify(body);
  const headers = { accept: "application/json", "content-type": kind };
  return (await send(`/k8s${path}`, { method, headers, body: text })).json();
}

export interface Act {
  /** Its place among all. */
  id: string;
  at: number;
  account: string;
  address: string;
  verb: string;
  path: string;
  status: number;
  milliseconds: number;
}

export async function acts(query: URLSearchParams): Promise<Act[]> {
  return (await (await send(`/acts?${query}`)).json()).items;
}

/** A part of the cluster, as the console's server finds it. */
export interface Component {
  name: string;
  kind: "process" | "nodes" | "leader" | "Deployment" | "DaemonSet";
  namespace: string;
  well: boolean;
  /** How many of how many, a version, or who leads. */
  said: string;
}

export async function components(): Promise<Component[]> {
  return (await (await send("/components")).json()).items;
}

/** Millicores and bytes. */
export interface Amount {
  cpu: number;
  memory: number;
}

export interface AppLoad {
  namespace: string;
  app: string;
  requested: Amount;
  used: Amount | null;
}

export async function appLoads(namespace: string): Promise<AppLoad[]> {
  const query = new URLSearchParams({ namespace });
  return (await (await send(`/load/apps?${query}`)).json()).items;
}

export interface NodeLoad {
  name: string;
  allocatable: Amount;
  requested: Amount;
  pods: number;
  used: Amount | null;
}

export async function nodeLoads(): Promise<NodeLoad[]> {
  return (await (await send("/load/nodes")).json()).items;
}
