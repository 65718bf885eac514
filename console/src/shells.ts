// Terminals in containers: those that are open, and those that were recorded.

import { secret, send } from "./api";

export interface Session {
  id: string;
  account: string;
  address: string;
  namespace: string;
  pod: string;
  container: string;
  command: string;
  /** Of the container that was made for it; empty for the pod's own. */
  image: string;
  /** Milliseconds since 1970. */
  began: number;
  /** 0 while it goes on. */
  ended: number;
  ending: string;
  bytes: number;
}

export interface Command {
  shell: string;
  at: number;
  text: string;
  account: string;
  namespace: string;
  pod: string;
}

/** Why a session ended. */
export interface End {
  why: string;
  code?: number;
  by?: string;
  message?: string;
}

export async function sessions(
  query: URLSearchParams,
): Promise<{ items: Session[]; all: boolean }> {
  return (await send(`/shells?${query}`)).json();
}

export async function session(id: string): Promise<Session> {
  return (await send(`/shells/${id}`)).json();
}

export async function commands(query: URLSearchParams): Promise<Command[]> {
  return (await (await send(`/shells/commands?${query}`)).json()).items;
}

export async function recording(id: string): Promise<string> {
  return (await send(`/shells/${id}/recording`)).text();
}

export async function cutOff(id: string): Promise<void> {
  await send(`/shells/${id}`, { method: "DELETE" });
}

export interface Wanted {
  namespace: string;
  pod: string;
  container: string;
  command: string[];
  /** A container of this image is made beside the others. */
  image: string;
  profile: string;
}

export interface Listener {
  opened: (id: string) => void;
  waiting: (container: string) => void;
  shown: (text: Uint8Array) => void;
  ended: (end: End) => void;
}

/** Longer pastes go in several messages; the server takes 64 KiB. */
const PIECE = 32 * 1024;

/** One terminal's connection. */
export class Shell {
  private readonly socket: WebSocket;
  private over = false;

  constructor(wanted: Wanted, columns: number, rows: number, listener: Listener) {
    const query = new URLSearchParams({
      namespace: wanted.namespace,
      pod: wanted.pod,
      container: wanted.container,
      columns: String(columns),
      rows: String(rows),
    });
    for (const word of wanted.command) query.append("command", word);
    if (wanted.image) {
      query.set("image", wanted.image);
      query.set("profile", wanted.profile);
    }
    this.socket = new WebSocket(`wss://${location.host}/shell?${query}`, [
      "berth.shell",
      `csrf.${secret()}`,
    ]);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = (event: MessageEvent<string | ArrayBuffer>) => {
      if (typeof event.data !== "string") {
        listener.shown(new Uint8Array(event.data));
        return;
      }
      const said = JSON.parse(event.data);
      if (said.opened) listener.opened(said.opened);
      if (said.waiting) listener.waiting(said.waiting);
      if (said.ended) this.end(said.ended, listener);
    };
    this.socket.onclose = () => this.end({ why: "lost" }, listener);
  }

  keys(text: string) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    const bytes = new TextEncoder().encode(text);
    for (let from = 0; from < bytes.length; from += PIECE) {
      this.socket.send(bytes.subarray(from, from + PIECE));
    }
  }

  resize(columns: number, rows: number) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.send(JSON.stringify({ resize: { columns, rows } }));
  }

  close() {
    this.over = true;
    this.socket.close();
  }

  private end(end: End, listener: Listener) {
    if (this.over) return;
    this.over = true;
    listener.ended(end);
  }
}
