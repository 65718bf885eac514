// What several pods print, or what a node collected of their log directories, as it comes. Lines are
// held in bounds: old ones go, long ones are cut.

import { Checkbox, Group, NativeSelect, Text, TextInput } from "@mantine/core";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useDeferredValue, useEffect, useMemo, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { HELD, type Source, read } from "./lines";

/** Letters of all of them: a page of long lines is no larger than one of many. */
const LETTERS = 8_000_000;
const LINE = 18;
/** How often what came is shown, milliseconds. */
const SHOW = 100;
/** Files that can be chosen. */
const FILES = 200;

/** With `files`, lines say in their second word which file they stand in, and one can be chosen. */
export function Logs({ sources, files = false }: { sources: Source[]; files?: boolean }) {
  const { t } = useTranslation();
  const [lines, setLines] = useState<string[]>([]);
  const [known, setKnown] = useState<string[]>([]);
  const [file, setFile] = useState("");
  const [search, setSearch] = useState("");
  const [follow, setFollow] = useState(true);
  const scroller = useRef<HTMLDivElement>(null);
  const wanted = useDeferredValue(search.toLowerCase());
  const key = sources.map((one) => one.path).join();

  useEffect(() => {
    const stop = new AbortController();
    let held: string[] = [];
    let letters = 0;
    let news = false;
    const paths = new Set<string>();
    const add = (line: string) => {
      held.push(line);
      letters += line.length;
      // Seldom, and then many: each time costs what is held.
      if (held.length > HELD * 1.2 || letters > LETTERS * 1.2) {
        let from = held.length;
        letters = 0;
        while (from > 0 && held.length - from < HELD && letters < LETTERS) {
          letters += held[--from]?.length ?? 0;
        }
        held = held.slice(from);
      }
      news = true;
      const path = files && fileOf(line);
      if (path && paths.size < FILES) paths.add(path);
    };
    const turn = setInterval(() => {
      if (news) setLines(held.slice(-HELD));
      if (news) setKnown((before) => (before.length < paths.size ? [...paths].sort() : before));
      news = false;
    }, SHOW);
    for (const source of sources) {
      const prefix = sources.length > 1 && source.name ? `${source.name} ` : "";
      void read(source, (line) => add(prefix + line), stop.signal);
    }
    return () => {
      clearInterval(turn);
      stop.abort();
      setLines([]);
      setKnown([]);
    };
    // `key` says what `sources` hold.
  }, [key, files]);

  const shown = useMemo(() => {
    const of = file ? lines.filter((line) => fileOf(line) === file) : lines;
    return wanted ? of.filter((line) => line.toLowerCase().includes(wanted)) : of;
  }, [lines, file, wanted]);
  const view = useVirtualizer({
    count: shown.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => LINE,
    overscan: 30,
  });
  useEffect(() => {
    if (follow && shown.length > 0) view.scrollToIndex(shown.length - 1);
  }, [shown, follow, view]);

  return (
    <>
      <Group mb="xs">
        <TextInput
          size="xs"
          aria-label={t("search")}
          placeholder={t("search")}
          value={search}
          onChange={(event) => setSearch(event.currentTarget.value)}
        />
        {files && (
          <NativeSelect
            size="xs"
            aria-label={t("file")}
            data={[
              { value: "", label: t("allFiles") },
              ...[...new Set([...known, ...(file ? [file] : [])])],
            ]}
            value={file}
            onChange={(event) => setFile(event.currentTarget.value)}
          />
        )}
        <Checkbox
          label={t("follow")}
          checked={follow}
          onChange={(event) => setFollow(event.currentTarget.checked)}
        />
        <Text size="sm" c="dimmed" role="status">
          {t("shown", { shown: shown.length, count: lines.length })}
        </Text>
      </Group>
      <div
        className="log"
        ref={scroller}
        tabIndex={0}
        role="log"
        aria-label={t("logs")}
        aria-live="off"
      >
        <div style={{ height: view.getTotalSize(), position: "relative" }}>
          {view.getVirtualItems().map((item) => (
            <div
              key={item.key}
              style={{ position: "absolute", top: 0, transform: `translateY(${item.start}px)` }}
            >
              {shown[item.index]}
            </div>
          ))}
        </div>
      </div>
    </>
  );
}

/** The second word; what is told of a source that does not come stands in no file. */
function fileOf(line: string): string {
  const path = line.split(" ", 2)[1] ?? "";
  return path.startsWith("/") ? path : "";
}
