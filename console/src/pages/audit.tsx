// Who did what through the console.

import { Alert, Button, Group, Stack, Table, Title } from "@mantine/core";
import { useInfiniteQuery } from "@tanstack/react-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { type Act, acts } from "../api";
import { Field } from "../parts/field";

const PAGE = 200;

export default function Audit() {
  const { t } = useTranslation();
  const [account, setAccount] = useState("");
  const [path, setPath] = useState("");
  const found = useInfiniteQuery({
    queryKey: ["acts", account, path],
    queryFn: ({ pageParam }) => {
      const query = new URLSearchParams({ account, path });
      if (pageParam) query.set("before", String(pageParam));
      return acts(query);
    },
    initialPageParam: 0,
    getNextPageParam: (last: Act[]) => (last.length < PAGE ? undefined : last.at(-1)?.at),
    retry: false,
  });
  const rows = found.data?.pages.flat() ?? [];

  return (
    <Stack>
      <Title order={1} size="h3">
        {t("audit")}
      </Title>
      {found.error && <Alert color="red">{found.error.message}</Alert>}
      <Group align="end">
        <Field label={t("person")} value={account} set={setAccount} />
        <Field label={t("path")} value={path} set={setPath} />
        <Button variant="default" disabled={rows.length === 0} onClick={() => save(rows)}>
          {t("download")}
        </Button>
      </Group>
      <Table.ScrollContainer minWidth={720}>
        <Table striped>
          <Table.Thead>
            <Table.Tr>
              {(["time", "person", "address", "verb", "path", "result", "took"] as const).map(
                (word) => (
                  <Table.Th key={word}>{t(word)}</Table.Th>
                ),
              )}
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {rows.map((act, index) => (
              <Table.Tr key={`${act.at}/${index}`}>
                <Table.Td>{new Date(act.at).toLocaleString()}</Table.Td>
                <Table.Td>{act.account}</Table.Td>
                <Table.Td>{act.address}</Table.Td>
                <Table.Td>{act.verb}</Table.Td>
                <Table.Td style={{ overflowWrap: "anywhere" }}>{act.path}</Table.Td>
                <Table.Td>{act.status}</Table.Td>
                <Table.Td>{act.milliseconds} ms</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
      {found.hasNextPage && (
        <Button variant="default" onClick={() => void found.fetchNextPage()}>
          {t("older")}
        </Button>
      )}
    </Stack>
  );
}

function save(rows: Act[]) {
  const head = ["at", "account", "address", "verb", "path", "status", "milliseconds"] as const;
  const lines = rows.map((act) =>
    head.map((key) => field(key === "at" ? new Date(act.at).toISOString() : act[key])).join(","),
  );
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([[head.join(","), ...lines].join("\r\n")]));
  link.download = "berth-audit.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

/** RFC 4180; what a spreadsheet would take for a formula is told to be text. */
function field(value: string | number): string {
  const text = String(value);
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
