// Terminals that are open, those that were, and what was typed in them.

import { Alert, Button, Group, Stack, Table, Tabs, Title } from "@mantine/core";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useDeferredValue, useState } from "react";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { Field } from "../parts/field";
import { bytes } from "../parts/quantity";
import { since } from "../parts/time";
import { useScope } from "../scope";
import { type Session, commands, cutOff, sessions } from "../shells";

const EVERY = 5_000;

export default function Sessions() {
  const { t } = useTranslation();
  const { namespace } = useScope();
  const [account, setAccount] = useState("");
  const [text, setText] = useState("");
  const who = useDeferredValue(account.trim());
  const what = useDeferredValue(text.trim());

  return (
    <Stack>
      <Title order={1} size="h3">
        {t("sessions")}
      </Title>
      <Group align="end">
        <Field label={t("person")} value={account} set={setAccount} />
        <Field label={t("command")} value={text} set={setText} />
      </Group>
      <Tabs defaultValue="sessions" keepMounted={false}>
        <Tabs.List>
          <Tabs.Tab value="sessions">{t("sessions")}</Tabs.Tab>
          <Tabs.Tab value="commands">{t("commands")}</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="sessions" pt="md">
          <All account={who} namespace={namespace} />
        </Tabs.Panel>
        <Tabs.Panel value="commands" pt="md">
          <Typed account={who} namespace={namespace} text={what} />
        </Tabs.Panel>
      </Tabs>
    </Stack>
  );
}

function All({ account, namespace }: { account: string; namespace: string }) {
  const { t } = useTranslation();
  const queries = useQueryClient();
  const [fault, setFault] = useState("");
  const found = useQuery({
    queryKey: ["shells", account, namespace],
    queryFn: () => sessions(new URLSearchParams({ account, namespace })),
    refetchInterval: EVERY,
  });

  async function end(one: Session) {
    setFault("");
    try {
      await cutOff(one.id);
    } catch (error) {
      setFault(error instanceof Error ? error.message : String(error));
    }
    await queries.invalidateQueries({ queryKey: ["shells"] });
  }

  const rows = found.data?.items ?? [];
  return (
    <>
      {(found.error || fault) && <Alert color="red">{fault || found.error?.message}</Alert>}
      <Table.ScrollContainer minWidth={820}>
        <Table striped>
          <Table.Thead>
            <Table.Tr>
              {(
                ["began", "person", "address", "namespace", "pods", "container", "command"] as const
              ).map((word) => (
                <Table.Th key={word}>{t(word)}</Table.Th>
              ))}
              <Table.Th>{t("result")}</Table.Th>
              <Table.Th colSpan={2}>{t("recording")}</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {rows.map((one) => (
              <Table.Tr key={one.id}>
                <Table.Td>{new Date(one.began).toLocaleString()}</Table.Td>
                <Table.Td>{one.account}</Table.Td>
                <Table.Td>{one.address}</Table.Td>
                <Table.Td>{one.namespace}</Table.Td>
                <Table.Td>{one.pod}</Table.Td>
                <Table.Td style={{ overflowWrap: "anywhere" }}>
                  {one.container} {one.image}
                </Table.Td>
                <Table.Td style={{ overflowWrap: "anywhere" }}>{one.command || "sh"}</Table.Td>
                <Table.Td>
                  {one.ended > 0 ? (
                    one.ending
                  ) : (
                    <Group gap="xs" wrap="nowrap">
                      <span className="well">
                        {t("live")} {since(new Date(one.began).toISOString())}
                      </span>
                      <Button size="compact-xs" variant="default" onClick={() => void end(one)}>
                        {t("cutOff")}
                      </Button>
                    </Group>
                  )}
                </Table.Td>
                <Table.Td>
                  <Link href={`/sessions/${one.id}`}>{t("replay")}</Link>
                </Table.Td>
                <Table.Td>{bytes(one.bytes)}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
    </>
  );
}

function Typed(given: { account: string; namespace: string; text: string }) {
  const { t } = useTranslation();
  const found = useQuery({
    queryKey: ["typed", given.account, given.namespace, given.text],
    queryFn: () => commands(new URLSearchParams(given)),
  });
  return (
    <>
      {found.error && <Alert color="red">{found.error.message}</Alert>}
      <Table.ScrollContainer minWidth={640}>
        <Table striped>
          <Table.Thead>
            <Table.Tr>
              {(["time", "person", "namespace", "pods", "command"] as const).map((word) => (
                <Table.Th key={word}>{t(word)}</Table.Th>
              ))}
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {(found.data ?? []).map((one, index) => (
              <Table.Tr key={`${one.shell}/${one.at}/${index}`}>
                <Table.Td>{new Date(one.at).toLocaleString()}</Table.Td>
                <Table.Td>{one.account}</Table.Td>
                <Table.Td>{one.namespace}</Table.Td>
                <Table.Td>{one.pod}</Table.Td>
                <Table.Td style={{ overflowWrap: "anywhere" }}>
                  <Link href={`/sessions/${one.shell}`}>
                    <code>{one.text}</code>
                  </Link>
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
    </>
  );
}
