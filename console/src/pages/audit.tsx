// Who did what through the console.

import {
  Alert,
  Anchor,
  Button,
  Group,
  NativeSelect,
  Stack,
  Table,
  TextInput,
  Title,
} from "@mantine/core";
import { useInfiniteQuery } from "@tanstack/react-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { type Act, acts } from "../api";
import { Field } from "../parts/field";

const PAGE = 200;
/** What acts are called: methods of the API, and what is done here besides. */
const VERBS = [
  ...["POST", "PUT", "PATCH", "DELETE", "login", "logout"],
  ...["shell", "debug", "cut", "approve", "deny", "take back"],
];
const HOURS = ["1", "24", "168", "720"];
const HOUR = 3_600_000;

export default function Audit() {
  const { t } = useTranslation();
  const [account, setAccount] = useState("");
  const [path, setPath] = useState("");
  const [verb, setVerb] = useState("");
  const [namespace, setNamespace] = useState("");
  const [from, setFrom] = useState("");
  const [to, setTo] = useState("");
  const wanted = new URLSearchParams({ account, path, verb, namespace });
  if (time(from)) wanted.set("from", time(from));
  if (time(to)) wanted.set("to", time(to));
  const asked = wanted.toString();
  const found = useInfiniteQuery({
    queryKey: ["acts", asked],
    queryFn: ({ pageParam }) => {
      const query = new URLSearchParams(asked);
      if (pageParam) query.set("before", pageParam);
      return acts(query);
    },
    initialPageParam: "",
    getNextPageParam: (last: Act[]) => (last.length < PAGE ? undefined : last.at(-1)?.id),
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
        <Field label={t("namespace")} value={namespace} set={setNamespace} />
        <NativeSelect
          label={t("verb")}
          data={[{ value: "", label: t("everything") }, ...VERBS]}
          value={verb}
          onChange={(event) => setVerb(event.currentTarget.value)}
        />
        <Moment label={t("from")} value={from} set={setFrom} />
        <Moment label={t("to")} value={to} set={setTo} />
        <NativeSelect
          label={t("period")}
          data={[
            { value: "", label: "–" },
            ...HOURS.map((value) => ({ value, label: t("hours", { count: Number(value) }) })),
          ]}
          value=""
          onChange={(event) => {
            const hours = Number(event.currentTarget.value);
            setFrom(hours ? local(Date.now() - hours * HOUR) : "");
            setTo("");
          }}
        />
        <Anchor href={`/acts?${asked}&format=csv`} download>
          {t("download")}
        </Anchor>
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
            {rows.map((act) => (
              <Table.Tr key={act.id}>
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

function Moment(given: { label: string; value: string; set: (value: string) => void }) {
  const { label, value, set } = given;
  return (
    <TextInput
      type="datetime-local"
      label={label}
      value={value}
      onChange={(event) => set(event.currentTarget.value)}
    />
  );
}

/** Milliseconds since 1970, of what a field for a time of day here says. */
function time(text: string): string {
  const at = Date.parse(text);
  return Number.isNaN(at) ? "" : String(at);
}

/** As such a field wants it. */
function local(at: number): string {
  const here = at - new Date(at).getTimezoneOffset() * 60_000;
  return new Date(here).toISOString().slice(0, 16);
}
