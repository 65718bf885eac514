// Two texts, line by line: what goes and what comes.

import { Text } from "@mantine/core";
import { useTranslation } from "react-i18next";

type Step = { mark: " " | "+" | "-"; line: string };

/** Around a change so many lines are shown. */
const AROUND = 3;
/** Above this, the whole of both is shown: the table would not fit into memory. */
const MANY = 4_000;

export function Diff({ before, after }: { before: string; after: string }) {
  const { t } = useTranslation();
  const steps = compare(before.split("\n"), after.split("\n"));
  if (steps.every((step) => step.mark === " ")) return <Text>{t("noDifference")}</Text>;
  const near = steps.map((_, index) =>
    steps
      .slice(Math.max(0, index - AROUND), index + AROUND + 1)
      .some((neighbour) => neighbour.mark !== " "),
  );
  return (
    <div className="diff" tabIndex={0} role="region" aria-label="diff">
      {steps.map((step, index) =>
        near[index] ? (
          <div
            key={index}
            className={step.mark === "+" ? "added" : step.mark === "-" ? "removed" : undefined}
          >
            {step.mark} {step.line}
          </div>
        ) : near[index - 1] ? (
          <div key={index}>⋯</div>
        ) : null,
      )}
    </div>
  );
}

/** The longest common subsequence, after what both begin and end with. */
export function compare(before: string[], after: string[]): Step[] {
  let head = 0;
  while (head < before.length && head < after.length && before[head] === after[head]) head++;
  let tail = 0;
  while (
    tail < before.length - head &&
    tail < after.length - head &&
    before[before.length - 1 - tail] === after[after.length - 1 - tail]
  ) {
    tail++;
  }
  const same = (line: string): Step => ({ mark: " ", line });
  const a = before.slice(head, before.length - tail);
  const b = after.slice(head, after.length - tail);
  return [
    ...before.slice(0, head).map(same),
    ...middle(a, b),
    ...before.slice(before.length - tail).map(same),
  ];
}

function middle(a: string[], b: string[]): Step[] {
  const gone = (line: string): Step => ({ mark: "-", line });
  const come = (line: string): Step => ({ mark: "+", line });
  if (a.length + b.length > MANY) return [...a.map(gone), ...b.map(come)];
  const width = b.length + 1;
  const longest = new Uint16Array((a.length + 1) * width);
  const at = (i: number, j: number) => longest[i * width + j] ?? 0;
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      longest[i * width + j] =
        a[i] === b[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
    }
  }
  const steps: Step[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    const left = a[i];
    const right = b[j];
    if (left !== undefined && left === right) {
      steps.push({ mark: " ", line: left });
      i++;
      j++;
    } else if (right === undefined || (left !== undefined && at(i + 1, j) >= at(i, j + 1))) {
      steps.push(gone(left ?? ""));
      i++;
    } else {
      steps.push(come(right));
      j++;
    }
  }
  return steps;
}
