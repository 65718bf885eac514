// Times as people say them, and time that passes.

import { useEffect, useState } from "react";
import { useTranslation } from "react-i18next";

/** Another number every so many milliseconds. */
export function useTurn(every: number): number {
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const clock = setInterval(() => setTurn((before) => before + 1), every);
    return () => clearInterval(clock);
  }, [every]);
  return turn;
}

/** `5s`, `12m`, `3h`, `9d`: how long ago. */
export function since(then: string): string {
  return elapsed(Date.now() - Date.parse(then));
}

/** As long as from one to the other; nothing where one of them is not known. */
export function between(from: string | undefined, to: string | undefined): string {
  return from && to ? elapsed(Date.parse(to) - Date.parse(from)) : "";
}

/** As long as that: `5s`, `12m`. */
export function elapsed(milliseconds: number): string {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}

/** Day and time of day, in the language that is chosen. */
export function useWhen(): (time: number) => string {
  const { i18n } = useTranslation();
  const format = new Intl.DateTimeFormat(i18n.language, {
    weekday: "short",
    day: "numeric",
    month: "short",
    hour: "2-digit",
    minute: "2-digit",
  });
  return (time) => format.format(time);
}
