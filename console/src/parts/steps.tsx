// The steps of a release: when each came, and what was measured while it lasted.

import { Table, Text } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { useServed } from "../words/served";
import { between, since } from "./time";

export interface Step {
  kind: string;
  weight?: number;
  startedAt?: string;
  reachedAt?: string;
  endedAt?: string;
  checks?: Measured[];
  answers?: Answers;
}

/** What the balancer counted of the new instances meanwhile. */
interface Answers {
  requests: number;
  /** Per cent. */
  success: number;
  /** Milliseconds. */
  latency: number;
}

interface Measured {
  name: string;
  value?: number;
  good: number;
  bad: number;
  message?: string;
}

/** What is asked while a step lasts, and what is right. */
export interface Check {
  name: string;
  balancer?: string;
  query?: string;
  min?: number;
  max?: number;
}

export function Steps(given: { steps: Step[]; at: number; rules: Check[] }) {
  const { t } = useTranslation();
  const served = useServed();
  const { steps, at, rules } = given;
  if (steps.length === 0) return null;
  return (
    <Table.ScrollContainer minWidth={560}>
      <Table>
        <Table.Thead>
          <Table.Tr>
            {(["step", "begun", "toIt", "inIt", "measured"] as const).map((word) => (
              <Table.Th key={word}>{t(word)}</Table.Th>
            ))}
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {steps.map((step, index) => {
            const now = index === at && step.startedAt && !step.endedAt;
            const end = step.endedAt ?? (now ? new Date().toISOString() : undefined);
            return (
              <Table.Tr key={index} aria-current={now ? "step" : undefined}>
                <Table.Td>
                  <span className={step.endedAt ? "well" : now ? "waits" : undefined}>
                    {served("steps", step.kind)}
                    {step.weight === undefined ? "" : ` ${step.weight} %`}
                  </span>
                </Table.Td>
                <Table.Td>{step.startedAt ? since(step.startedAt) : ""}</Table.Td>
                <Table.Td>{between(step.startedAt, step.reachedAt ?? end)}</Table.Td>
                <Table.Td>{between(step.reachedAt, end)}</Table.Td>
                <Table.Td>
                  {step.answers && (
                    <Text size="sm">
                      {t("requests")}: {step.answers.requests} · {served("steps", "success")}:{" "}
                      {round(step.answers.success)} % · {served("steps", "latency")}:{" "}
                      {round(step.answers.latency)} ms
                    </Text>
                  )}
                  {step.checks?.map((check) => (
                    <Found
                      key={check.name}
                      found={check}
                      rule={rules.find((rule) => rule.name === check.name)}
                    />
                  ))}
                </Table.Td>
              </Table.Tr>
            );
          })}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  );
}

function Found({ found, rule }: { found: Measured; rule?: Check }) {
  const { t } = useTranslation();
  const served = useServed();
  const kind = rule?.balancer ?? found.name;
  const said = (value: number) => spoken(kind, value);
  const wanted = [
    rule?.min === undefined ? "" : `≥ ${said(rule.min)}`,
    rule?.max === undefined ? "" : `≤ ${said(rule.max)}`,
  ].filter(Boolean);
  const value = found.value === undefined ? (found.message ?? "–") : said(found.value);
  return (
    <Text size="sm" className={found.bad > 0 ? "ill" : undefined}>
      {served("steps", found.name)}: {value}
      {wanted.length > 0 && ` (${wanted.join(", ")})`} ·{" "}
      {t("answers", { good: found.good, bad: found.bad })}
    </Text>
  );
}

/** The balancer's success in per cent, its latency in milliseconds; another number as it is. */
function spoken(kind: string, value: number): string {
  if (kind === "success") return `${round(value)} %`;
  if (kind === "latency") return `${round(value)} ms`;
  return String(round(value));
}

function round(value: number): number {
  return Number(value.toPrecision(4));
}
