// Lines over time. What is drawn is said in words beside it: the last value and the highest.

import "uplot/dist/uPlot.min.css";

import { Group, Text, useComputedColorScheme } from "@mantine/core";
import { useEffect, useId, useRef } from "react";
import { useTranslation } from "react-i18next";
import UPlot from "uplot";

export interface Line {
  label: string;
  /** As many as there are times. */
  values: (number | null)[];
}

interface Shown {
  title: string;
  /** Milliseconds since 1970. */
  times: number[];
  lines: Line[];
  said: (value: number) => string;
  height?: number;
  /** The axis ends at no less. */
  most?: number;
  /** Bytes: the axis counts in powers of two. */
  binary?: boolean;
}

const COLOURS = {
  light: { lines: ["#1864ab", "#b02a37", "#2b6e3f"], text: "#343a40", grid: "#e9ecef" },
  dark: { lines: ["#74c0fc", "#ffa8a8", "#8ce99a"], text: "#ced4da", grid: "#3b3b3b" },
};
/** Seconds that the time's axis is long at least. */
const LEAST = 60;
const POWERS = Array.from({ length: 34 }, (_, power) => 2 ** (power + 10));
const DASHES = [[], [6, 4], [2, 3]];

export default function Chart({ title, times, lines, said, height = 150, most, binary }: Shown) {
  const { t, i18n } = useTranslation();
  const scheme = useComputedColorScheme("light");
  const name = useId();
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<UPlot | null>(null);
  const colours = COLOURS[scheme];
  const words = lines.map((line) => ({ label: line.label, ...summed(line.values, said) }));
  const labels = lines.map((line) => line.label).join("\n");

  useEffect(() => {
    const box = place.current;
    if (!box) return;
    const format = new Intl.DateTimeFormat(i18n.language, {
      timeStyle: "medium",
      hourCycle: "h23",
    });
    const clock = (time: number) => format.format(time);
    const axis = { stroke: colours.text, grid: { stroke: colours.grid, width: 1 } };
    const made = new UPlot(
      {
        width: box.clientWidth,
        height,
        legend: { show: false },
        cursor: { drag: { x: false, y: false } },
        scales: {
          x: { range: (plot) => ends(plot.data[0]) },
          y: { range: (_, __, high) => [0, Math.max(high * 1.1, most ?? 0) || 1] },
        },
        axes: [
          { ...axis, space: 72, values: (_, ticks) => ticks.map((tick) => clock(tick * 1000)) },
          {
            ...axis,
            size: 76,
            values: (_, ticks) => ticks.map((tick) => said(tick)),
            ...(binary ? { incrs: POWERS } : {}),
          },
        ],
        series: [
          {},
          ...labels.split("\n").map((label, index) => ({
            label,
            stroke: colours.lines[index],
            dash: DASHES[index],
            width: 1.5,
            spanGaps: true,
            points: { show: (plot: UPlot) => (plot.data[0]?.length ?? 0) < 3 },
          })),
        ],
      },
      [[], ...labels.split("\n").map(() => [])] as UPlot.AlignedData,
      box,
    );
    plot.current = made;
    const watch = new ResizeObserver(() => made.setSize({ width: box.clientWidth, height }));
    watch.observe(box);
    return () => {
      watch.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [labels, scheme, height, most, said, binary, i18n.language]);
  useEffect(() => {
    const seconds = times.map((time) => time / 1000);
    plot.current?.setData([seconds, ...lines.map((line) => line.values)] as UPlot.AlignedData);
  });

  const all = words.map((one) => `${one.label}: ${one.last}, ${t("atMost")} ${one.highest}`);
  return (
    <figure className="chart" aria-labelledby={name}>
      <figcaption id={name}>{title}</figcaption>
      <Group gap="md">
        {words.map((one, index) => (
          <Text size="xs" key={one.label}>
            <svg width="18" height="8" aria-hidden="true">
              <line
                x1="0"
                x2="18"
                y1="4"
                y2="4"
                stroke={colours.lines[index]}
                strokeWidth="2"
                strokeDasharray={DASHES[index]?.join(" ")}
              />
            </svg>{" "}
            {one.label} <strong>{one.last}</strong> ({t("atMost")} {one.highest})
          </Text>
        ))}
      </Group>
      <div ref={place} role="img" aria-label={all.join("; ")} />
    </figure>
  );
}

/** One point alone would be drawn amid years. */
function ends(times: ArrayLike<number>): [number, number] {
  const last = times[times.length - 1] ?? 0;
  return [Math.min(times[0] ?? 0, last - LEAST), last];
}

function summed(values: (number | null)[], said: (value: number) => string) {
  const known = values.filter((value) => value !== null);
  const last = known.at(-1);
  if (last === undefined) return { last: "–", highest: "–" };
  return { last: said(last), highest: said(known.reduce((a, b) => Math.max(a, b))) };
}
