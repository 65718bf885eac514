// A field a node, coloured by how much of it is used or promised; thousands of them at once, of
// which those in sight are drawn.

import { Group, SegmentedControl, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useLayoutEffect, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { type NodeLoad, nodeLoads } from "../api";
import { bytes, cores } from "./quantity";

/** The server asks once for all who look. */
const EVERY = 15_000;
const FIELD = { width: 96, height: 34 };

type What = "cpu" | "memory";
type Which = "used" | "requested";

export function useNodeLoads() {
  return useQuery({
    queryKey: ["loads", "nodes"],
    queryFn: nodeLoads,
    refetchInterval: EVERY,
    retry: false,
  });
}

export function Heat() {
  const { t } = useTranslation();
  const [which, setWhich] = useState<Which>("used");
  const [what, setWhat] = useState<What>("cpu");
  const found = useNodeLoads();
  const nodes = found.data ?? [];
  if (nodes.length === 0) return null;
  const choice = <T extends string>(label: string, data: T[], value: T, set: (one: T) => void) => (
    <SegmentedControl
      size="xs"
      aria-label={label}
      data={data.map((one) => ({ value: one, label: t(one) }))}
      value={value}
      onChange={(one) => set(one as T)}
    />
  );
  const amounts = nodes.flatMap((node) => node[which] ?? []);
  const sum = amounts.reduce((all, one) => all + one[what], 0);
  const whole = nodes.reduce((all, node) => all + node.allocatable[what], 0);
  return (
    <section aria-label={t("capacity")}>
      <Group justify="space-between" mb="xs">
        <Title order={2} size="h4">
          {t("capacity")}
        </Title>
        <Group gap="xs">
          <Text size="sm" c="dimmed">
            {said(what, sum)} / {said(what, whole)}
          </Text>
          {choice(t("show"), ["used", "requested"], which, setWhich)}
          {choice(t("show"), ["cpu", "memory"], what, setWhat)}
        </Group>
      </Group>
      <Fields nodes={nodes} which={which} what={what} />
    </section>
  );
}

function Fields({ nodes, which, what }: { nodes: NodeLoad[]; which: Which; what: What }) {
  const { t } = useTranslation();
  const scroller = useRef<HTMLDivElement>(null);
  const [across, setAcross] = useState(1);
  useLayoutEffect(() => {
    const element = scroller.current;
    if (!element) return undefined;
    const fit = () => setAcross(Math.max(1, Math.floor(element.clientWidth / FIELD.width)));
    const watch = new ResizeObserver(fit);
    watch.observe(element);
    fit();
    return () => watch.disconnect();
  }, []);
  const lines = useVirtualizer({
    count: Math.ceil(nodes.length / across),
    getScrollElement: () => scroller.current,
    estimateSize: () => FIELD.height,
    overscan: 6,
  });
  return (
    <div className="heat" ref={scroller} tabIndex={0} role="group" aria-label={t("nodes")}>
      <div style={{ height: lines.getTotalSize(), position: "relative" }}>
        {lines.getVirtualItems().map((line) => (
          <div
            key={line.index}
            className="heatline"
            style={{
              gridTemplateColumns: `repeat(${across}, 1fr)`,
              transform: `translateY(${line.start}px)`,
            }}
          >
            {nodes.slice(line.index * across, (line.index + 1) * across).map((node) => (
              <Field key={node.name} node={node} which={which} what={what} />
            ))}
          </div>
        ))}
      </div>
    </div>
  );
}

function Field({ node, which, what }: { node: NodeLoad; which: Which; what: What }) {
  const { t } = useTranslation();
  const amount = node[which]?.[what];
  const whole = node.allocatable[what];
  const share = amount === undefined || whole === 0 ? null : amount / whole;
  const hue = Math.round(130 - 130 * Math.min(1, share ?? 0));
  const title = (["cpu", "memory"] as const).map((one) => {
    const used = node.used ? said(one, node.used[one]) : "–";
    const [asked, all] = [said(one, node.requested[one]), said(one, node.allocatable[one])];
    return `${t(one)}: ${used} ${t("used")}, ${asked} ${t("requested")} / ${all}`;
  });
  return (
    <Link
      href={`/fleet/${node.name}`}
      title={`${node.name}\n${title.join("\n")}\n${t("pods")}: ${node.pods}`}
      style={{ background: share === null ? "#d0d4d8" : `hsl(${hue} 65% 72%)` }}
    >
      {node.name} {share === null ? "–" : `${Math.round(share * 100)} %`}
    </Link>
  );
}

/** Of millicores or bytes. */
export function said(what: What, amount: number): string {
  return what === "cpu" ? cores(amount / 1000) : bytes(amount);
}
