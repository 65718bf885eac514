// Where log lines come from. A stream that breaks is taken up where it ended.

import { Refused, stream } from "../api";

export interface Source {
  /** Of the API, with its query. */
  path: string;
  /** What its lines are named after where there are several. */
  name: string;
  /** The refusal after which it may come yet, and after how many milliseconds it is asked again. */
  wait: { status: number; for: number };
  /** Whether each line begins with its time, which is not shown. */
  timed: boolean;
}

/** Lines that a page holds. */
export const HELD = 20_000;
const LONG = 4_000;
const TAIL = 500;
/** A container that is being made, or a network that changed, is asked again after so many ms. */
const AGAIN = 500;
/** An App may write into its directories at any time. */
const SELDOM = 5_000;

/** What a container prints; a pod's only one, where none is named. */
export function printed(namespace: string, pod: string, container = ""): Source {
  const of = container ? `&container=${encodeURIComponent(container)}` : "";
  const log = `/api/v1/namespaces/${namespace}/pods/${pod}/log`;
  const path = `${log}?follow=true&timestamps=true${of}`;
  return { path, name: pod, wait: { status: 400, for: AGAIN }, timed: true };
}

/** What a node collected of an App's log directories: lines `POD PATH TEXT`. */
export function collected(namespace: string, app: string, node: string): Source {
  const on = node ? `&node=${encodeURIComponent(node)}` : "";
  const path = `/apis/berth.dev/v1/namespaces/${namespace}/apps/${app}/log?follow=true${on}`;
  return { path, name: "", wait: { status: 404, for: SELDOM }, timed: false };
}

/** Tells `add` each line until the source ends, is refused for good, or `signal` says so. */
export async function read(source: Source, add: (line: string) => void, signal: AbortSignal) {
  const place = new Place();
  let told = "";
  while (!signal.aborted) {
    let pause = AGAIN;
    try {
      const take = source.timed ? place.after(add) : add;
      await flow(source.path + place.query(), take, signal);
      return;
    } catch (error) {
      if (signal.aborted) return;
      const why = error instanceof Refused ? error.message : String(error);
      // A network that changed ends the stream; nothing is lost by it where it is taken up again.
      if (why !== told && (error instanceof Refused || !place.known())) add(`! ${why}`);
      told = why;
      // Whoever is refused for good stays so.
      if (error instanceof Refused) {
        if (error.status !== source.wait.status) return;
        pause = source.wait.for;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

/** How far a log was read, by the times that its lines begin with. */
class Place {
  private last = "";
  /** Lines of that very time. */
  private same = 0;

  known(): boolean {
    return this.last !== "";
  }

  /** What is asked for: the end of a log that was not read yet, else what may be new. */
  query(): string {
    if (!this.known()) return `&tailLines=${TAIL}`;
    // API servers go by whole seconds: what was read already comes again.
    return `&tailLines=${HELD}&sinceTime=${encodeURIComponent(this.last)}`;
  }

  /** Tells `add` the lines that were not read before, without their times. */
  after(add: (line: string) => void): (line: string) => void {
    let passed = !this.known();
    let again = this.same;
    return (line) => {
      const end = line.indexOf(" ");
      const at = line.slice(0, end);
      const time = TIME.exec(at);
      // Of the server itself: a file that it could not read.
      if (!time) return add(line);
      if (!passed) {
        const order = instant(time) - instant(TIME.exec(this.last));
        if (order < 0n || (order === 0n && again-- > 0)) return;
        passed = order > 0n;
      }
      this.same = at === this.last ? this.same + 1 : 1;
      this.last = at;
      add(line.slice(end + 1));
    };
  }
}

const TIME = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)$/;

/** Nanoseconds since 1970. */
function instant(time: RegExpExecArray | null): bigint {
  const [, whole = "", fraction = "", zone = ""] = time ?? [];
  const seconds = Date.parse(whole + zone);
  if (Number.isNaN(seconds)) return 0n;
  return BigInt(seconds) * 1_000_000n + BigInt(fraction.padEnd(9, "0"));
}

async function flow(path: string, add: (line: string) => void, signal: AbortSignal) {
  const answer = await stream(path, signal);
  const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const piece = await reader?.read();
    if (!piece || piece.done) break;
    const parts = (rest + piece.value).split("\n");
    rest = parts.pop() ?? "";
    for (const part of parts) add(printable(part));
    // A line without an end is not gathered for ever: what is too long would be cut anyway.
    if (rest.length > LONG) rest = rest.slice(0, LONG);
  }
  if (rest) add(printable(rest));
}

/** Colours and cursor movements mean nothing here, and may hide what was printed. */
function printable(line: string): string {
  const cut = line.length > LONG ? `${line.slice(0, LONG)} …` : line;
  return cut
    .replace(/\u001b\[[0-9;?]*[ -/]*[@-~]/g, "")
    .replace(/[\u0000-\u0008\u000b-\u001f\u007f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
}
