// A terminal that only shows. The server has taken out what would act or answer; what is refused
// here is refused twice.

import "@xterm/xterm/css/xterm.css";

import { FitAddon } from "@xterm/addon-fit";
import { type ITheme, Terminal } from "@xterm/xterm";

const DARK: ITheme = { background: "#1a1b1e", foreground: "#e9ecef", cursor: "#e9ecef" };
const LIGHT: ITheme = {
  background: "#ffffff",
  foreground: "#212529",
  cursor: "#212529",
  selectionBackground: "#a5d8ff",
  // The usual ones cannot be read on white.
  black: "#212529",
  red: "#c92a2a",
  green: "#2b8a3e",
  yellow: "#846200",
  blue: "#1864ab",
  magenta: "#862e9c",
  cyan: "#0b7285",
  white: "#495057",
  brightBlack: "#495057",
  brightRed: "#c92a2a",
  brightGreen: "#2b8a3e",
  brightYellow: "#846200",
  brightBlue: "#1864ab",
  brightMagenta: "#862e9c",
  brightCyan: "#0b7285",
  brightWhite: "#212529",
};
const SCROLLBACK = 10_000;
/** Operating-system commands: titles, colours, links, the clipboard, notifications. */
const COMMANDS = [
  0, 1, 2, 4, 7, 8, 9, 10, 11, 12, 22, 50, 52, 104, 110, 111, 112, 133, 633, 777, 1337,
];

/** A terminal inside `element`. */
export function terminal(element: HTMLElement, dark: boolean, typed: boolean): Terminal {
  const made = new Terminal({
    theme: theme(dark),
    fontFamily: "ui-monospace, 'SF Mono', Menlo, Consolas, monospace",
    fontSize: 13,
    scrollback: SCROLLBACK,
    disableStdin: !typed,
    allowProposedApi: false,
    linkHandler: { activate: () => {} },
  });
  const nothing = () => true;
  for (const command of COMMANDS) made.parser.registerOscHandler(command, nothing);
  for (const final of ["c", "n", "t"]) {
    for (const prefix of [undefined, "?", ">", "="]) {
      made.parser.registerCsiHandler({ prefix, final }, nothing);
    }
  }
  for (const prefix of [undefined, "?"]) {
    made.parser.registerCsiHandler({ prefix, intermediates: "$", final: "p" }, nothing);
  }
  made.parser.registerDcsHandler({ intermediates: "$", final: "q" }, nothing);
  made.open(element);
  return made;
}

export function theme(dark: boolean): ITheme {
  return dark ? DARK : LIGHT;
}

/** Keeps the terminal as large as what holds it, until the answer is called. */
export function fit(shown: Terminal, element: HTMLElement): () => void {
  const addon = new FitAddon();
  shown.loadAddon(addon);
  addon.fit();
  const observer = new ResizeObserver(() => addon.fit());
  observer.observe(element);
  return () => observer.disconnect();
}
