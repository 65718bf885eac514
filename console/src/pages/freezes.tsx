// When no release may start: now, next, and drawn over days.

import { Alert, Button, Group, SegmentedControl, Stack, Table, Text, Title } from "@mantine/core";
import { type CSSProperties, useState } from "react";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { type Rule, coming, shut, useFreezes, useWhose } from "../parts/freeze";
import { useTurn, useWhen } from "../parts/time";
import { useScope } from "../scope";

const LOOK_EVERY = 10_000;
const LENGTHS = ["7", "14", "28"];

export function Freezes() {
  const { t, i18n } = useTranslation();
  const { namespace } = useScope();
  const { rules, partly } = useFreezes(namespace);
  const [length, setLength] = useState("14");
  const [offset, setOffset] = useState(0);
  useTurn(LOOK_EVERY);
  const now = Date.now();
  const today = new Date(now);
  // Days by the calendar: where the clock is put forward, one has 23 hours.
  const days = Array.from(
    { length: Number(length) + 1 },
    (_, day) => new Date(today.getFullYear(), today.getMonth(), today.getDate() + offset + day),
  );
  const named = new Intl.DateTimeFormat(i18n.language, {
    day: "numeric",
    ...(length === "28" ? {} : { weekday: "short" }),
  });
  const step = Number(length);

  return (
    <Stack>
      <Title order={1} size="h3">
        {t("freezes")}
      </Title>
      {partly && <Alert color="yellow">{t("freezesPartly")}</Alert>}
      <InForce rules={rules} now={now} />
      <Group>
        <SegmentedControl
          aria-label={t("period")}
          data={LENGTHS.map((value) => ({ value, label: t("days", { count: Number(value) }) }))}
          value={length}
          onChange={setLength}
        />
        <Button.Group>
          <Button variant="default" onClick={() => setOffset(offset - step)}>
            {t("earlier")}
          </Button>
          <Button variant="default" onClick={() => setOffset(0)}>
            {t("today")}
          </Button>
          <Button variant="default" onClick={() => setOffset(offset + step)}>
            {t("later")}
          </Button>
        </Button.Group>
        {!rules.some((rule) => rule.of === "everything") && (
          <Link href="/new/core/v1/configmaps?freeze">{t("freezeEverything")}</Link>
        )}
      </Group>
      {rules.length > 0 && (
        <Table.ScrollContainer minWidth={860}>
          <Table className="calendar">
            <Table.Thead>
              <Table.Tr>
                <Table.Th>{t("freezeOf")}</Table.Th>
                <Table.Th>
                  <div className="days">
                    {days.slice(0, -1).map((day) => (
                      <span key={day.getTime()}>{named.format(day)}</span>
                    ))}
                  </div>
                </Table.Th>
                <Table.Th>{t("status")}</Table.Th>
                <Table.Th>{t("exceptions")}</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {rules.map((rule) => (
                <Table.Tr key={`${rule.of}/${rule.namespace}/${rule.name}`}>
                  <Table.Th scope="row">
                    <Whose rule={rule} />
                  </Table.Th>
                  <Table.Td>
                    <Drawn rule={rule} days={days} now={now} />
                  </Table.Td>
                  <Table.Td>
                    <State rule={rule} now={now} />
                  </Table.Td>
                  <Table.Td className="said">{rule.except.join(", ") || "–"}</Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      )}
      <Text size="xs" c="dimmed">
        {t("freezeHint", { zone: Intl.DateTimeFormat().resolvedOptions().timeZone })}
      </Text>
    </Stack>
  );
}

/** What is shut at this moment, or that nothing is. */
function InForce({ rules, now }: { rules: Rule[]; now: number }) {
  const { t } = useTranslation();
  const whose = useWhose();
  const closed = rules.filter((rule) => shut(rule, now));
  if (closed.length === 0) return <Alert color="green">{t("nothingFrozen")}</Alert>;
  return (
    <Alert color="yellow">
      <Text fw={600} size="sm">
        {t("frozenNow")}
      </Text>
      {closed.map(whose).join(", ")}
    </Alert>
  );
}

const PAGES: Record<Rule["of"], (rule: Rule) => string> = {
  everything: () => "/item/core/v1/configmaps/kube-system/berth-freeze",
  namespace: (rule) => `/item/core/v1/namespaces/-/${rule.name}`,
  app: (rule) => `/item/berth.dev/v1/apps/${rule.namespace}/${rule.name}`,
};

function Whose({ rule }: { rule: Rule }) {
  const said = useWhose()(rule);
  return <Link href={PAGES[rule.of](rule)}>{said}</Link>;
}

function State({ rule, now }: { rule: Rule; now: number }) {
  const { t } = useTranslation();
  const when = useWhen();
  const closed = shut(rule, now);
  const wrong = rule.windows.find((window) => window.wrong);
  if (wrong) return <span className="ill">{t("noWindow", { text: wrong.text })}</span>;
  if (closed) {
    const until = Number.isFinite(closed.until)
      ? t("frozenUntil", { until: when(closed.until) })
      : t("frozenAlways");
    return (
      <>
        <span className="waits">{until}</span>
        <Text size="sm">{closed.window.reason}</Text>
      </>
    );
  }
  const next = coming(rule, now);
  if (!next) return <Text size="sm">{t("freezeOver")}</Text>;
  return (
    <>
      <span className="well">{t("freezeNext", { from: when(next.from) })}</span>
      <Text size="sm">{next.window.reason}</Text>
    </>
  );
}

/** Spans of time as bars; who sees none of them is told them. */
function Drawn({ rule, days, now }: { rule: Rule; days: Date[]; now: number }) {
  const { t } = useTranslation();
  const when = useWhen();
  const [begin, end] = [days[0]?.getTime() ?? 0, days.at(-1)?.getTime() ?? 0];
  const share = (time: number) => ((time - begin) / (end - begin)) * 100;
  const spans = rule.windows.flatMap((window) =>
    window.spans(begin, end).map(([from, until]) => {
      const [first, last] = [Math.max(from, begin), Math.min(until, end)];
      const said = `${when(first)} – ${when(last)} ${window.reason}`.trim();
      return { first, last, said, reason: window.wrong ? window.text : window.reason };
    }),
  );
  const told = spans.map((span) => span.said).join("; ") || t("nothingFrozen");
  const style = { "--days": days.length - 1 } as CSSProperties;
  return (
    <div className="spans" role="img" aria-label={told} style={style}>
      {spans.map((span, index) => (
        <span
          key={index}
          title={span.said}
          style={{
            left: `${share(span.first)}%`,
            width: `${share(span.last) - share(span.first)}%`,
          }}
        >
          {span.reason}
        </span>
      ))}
      {begin <= now && now < end && <i style={{ left: `${share(now)}%` }} />}
    </div>
  );
}
