// Shows a recorded session as it was: an asciicast, version 2.

import type { Terminal } from "@xterm/xterm";

export interface Mark {
  at: number;
  text: string;
}

type Happened = [at: number, code: string, text: string];

/** A pause longer than this is cut to it, seconds. */
const PAUSE = 1.5;

export class Cast {
  readonly columns: number;
  readonly rows: number;
  readonly marks: Mark[] = [];
  readonly events: Happened[] = [];
  readonly length: number;

  /** Throws when `text` is no asciicast. */
  constructor(text: string) {
    const [head = "", ...lines] = text.split("\n");
    const header = JSON.parse(head);
    if (header.version !== 2) throw new Error(`asciicast ${header.version}`);
    this.columns = header.width;
    this.rows = header.height;
    let last = 0;
    let cut = 0;
    for (const line of lines) {
      if (!line) continue;
      const [at, code, what] = JSON.parse(line) as Happened;
      cut += Math.max(0, at - last - PAUSE);
      last = at;
      const when = at - cut;
      if (code === "m") this.marks.push({ at: when, text: what });
      else this.events.push([when, code, what]);
    }
    this.length = this.events.at(-1)?.[0] ?? 0;
  }
}

/** Plays `cast` on `screen`. */
export class Player {
  at = 0;
  playing = false;
  speed = 1;
  private next = 0;
  private frame = 0;
  private last = 0;

  constructor(
    private readonly cast: Cast,
    private readonly screen: Terminal,
    /** Called when the place or the state changed. */
    private readonly moved: () => void,
  ) {
    screen.resize(cast.columns, cast.rows);
  }

  play() {
    if (this.playing) return;
    if (this.at >= this.cast.length) this.seek(0);
    this.playing = true;
    this.last = performance.now();
    this.frame = requestAnimationFrame(this.turn);
    this.moved();
  }

  pause() {
    cancelAnimationFrame(this.frame);
    this.playing = false;
    this.moved();
  }

  /** To a place in seconds, forwards or backwards. */
  seek(at: number) {
    if (at < this.at) {
      // Behind what waits to be shown, which a reset at once would not take back.
      const { columns, rows } = this.cast;
      this.screen.write("\u001bc", () => this.screen.resize(columns, rows));
      this.next = 0;
    }
    this.at = Math.max(0, Math.min(at, this.cast.length));
    this.show();
    this.moved();
  }

  private readonly turn = (now: number) => {
    this.at = Math.min(this.at + ((now - this.last) / 1000) * this.speed, this.cast.length);
    this.last = now;
    this.show();
    if (this.at >= this.cast.length) this.playing = false;
    else this.frame = requestAnimationFrame(this.turn);
    this.moved();
  };

  /** What has happened up to now and was not shown, in one piece between changes of size. */
  private show() {
    let text = "";
    for (;;) {
      const event = this.cast.events[this.next];
      if (!event || event[0] > this.at) break;
      this.next += 1;
      if (event[1] === "o") {
        text += event[2];
      } else if (event[1] === "r") {
        const [columns, rows] = event[2].split("x").map(Number);
        this.screen.write(text);
        text = "";
        if (columns && rows) this.screen.write("", () => this.screen.resize(columns, rows));
      }
    }
    if (text) this.screen.write(text);
  }
}
