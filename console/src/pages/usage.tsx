// What was asked for, what was used, and what lay idle, over days.

import {
  Alert,
  Anchor,
  Group,
  Progress,
  SegmentedControl,
  Stack,
  Table,
  Text,
  Title,
} from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { send } from "../api";
import { useScope } from "../scope";

const DAY = 86_400_000;
const MOST = 500;

interface Resource {
  requested: number;
  used: number;
  p95: number;
  idle: number | null;
  requestedHours: number;
  usedHours: number;
}

interface Row {
  namespace: string;
  app: string;
  hours: number;
  cpu: Resource;
  memory: Resource;
}

export default function Usage() {
  const { t } = useTranslation();
  const { namespace } = useScope();
  const [by, setBy] = useState("app");
  const [days, setDays] = useState("7");
  // To the hour: a question a minute later is the same.
  const now = Math.floor(Date.now() / 3_600_000) * 3_600_000;
  const query = new URLSearchParams({
    by,
    namespace: by === "cluster" ? "" : namespace,
    from: String(now - Number(days) * DAY),
  }).toString();
  const found = useQuery({
    queryKey: ["usage", query],
    queryFn: async (): Promise<Row[]> => (await (await send(`/usage?${query}`)).json()).items,
    refetchInterval: 300_000,
  });
  const rows = found.data ?? [];

  return (
    <Stack>
      <Title order={1} size="h3">
        {t("usage")}
      </Title>
      <Group>
        <SegmentedControl
          aria-label={t("kind")}
          data={[
            { value: "app", label: t("apps") },
            { value: "namespace", label: t("namespace") },
            { value: "cluster", label: t("cluster") },
          ]}
          value={by}
          onChange={setBy}
        />
        <SegmentedControl
          aria-label={t("period")}
          data={["1", "7", "30", "90"].map((value) => ({
            value,
            label: t("days", { count: Number(value) }),
          }))}
          value={days}
          onChange={setDays}
        />
        <Anchor href={`/usage?${query}&format=csv`} download>
          {t("download")}
        </Anchor>
      </Group>
      {found.error && <Alert color="red">{found.error.message}</Alert>}
      {found.data && rows.length === 0 && <Text c="dimmed">{t("noUsage")}</Text>}
      {rows.length > 0 && (
        <Table.ScrollContainer minWidth={900}>
          <Table striped>
            <Table.Thead>
              <Table.Tr>
                <Table.Th>{t("namespace")}</Table.Th>
                <Table.Th>{t("name")}</Table.Th>
                {(["cpu", "memory"] as const).flatMap((what) => [
                  <Table.Th key={`${what}/requested`}>
                    {t(what)}: {t("requested")}
                  </Table.Th>,
                  <Table.Th key={`${what}/used`}>{t("used")}</Table.Th>,
                  <Table.Th key={`${what}/p95`}>p95</Table.Th>,
                  <Table.Th key={`${what}/idle`}>{t("idle")}</Table.Th>,
                ])}
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {rows.slice(0, MOST).map((row) => (
                <Table.Tr key={`${row.namespace}/${row.app}`}>
                  <Table.Td>{row.namespace || "–"}</Table.Td>
                  <Table.Td>{row.app || "–"}</Table.Td>
                  <Cells resource={row.cpu} unit="" />
                  <Cells resource={row.memory} unit=" GiB" />
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      )}
      {rows.length > MOST && (
        <Text size="sm">{t("shown", { shown: MOST, count: rows.length })}</Text>
      )}
      <Text size="xs" c="dimmed">
        {t("usageHint")}
      </Text>
    </Stack>
  );
}

function Cells({ resource, unit }: { resource: Resource; unit: string }) {
  const { t } = useTranslation();
  const idle = resource.idle === null ? null : Math.round(resource.idle * 100);
  return (
    <>
      <Table.Td>
        {resource.requested.toFixed(2)}
        {unit}
      </Table.Td>
      <Table.Td>
        {resource.used.toFixed(2)}
        {unit}
      </Table.Td>
      <Table.Td>
        {resource.p95.toFixed(2)}
        {unit}
      </Table.Td>
      <Table.Td>
        {idle === null ? (
          "–"
        ) : (
          <Group gap={6} wrap="nowrap">
            <Progress
              w={48}
              value={idle}
              color={idle > 75 ? "red" : idle > 50 ? "yellow" : "green"}
              aria-label={t("idle")}
            />
            {idle} %
          </Group>
        )}
      </Table.Td>
    </>
  );
}
