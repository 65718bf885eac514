// What is one's own: the password, where one is logged in, and tokens that act as oneself.

import { Alert, Button, Group, PasswordInput, Stack, Table, Text, Title } from "@mantine/core";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { useTranslation } from "react-i18next";
import { send } from "../api";
import { useWhen } from "../parts/time";

const KEY = ["me"];
const EVERY = 30_000;
const SHORTEST = 12;

interface Token {
  name: string;
  scope: { namespaces: string[]; verbs: string[] };
  expires: number;
  used: number;
}

interface Own {
  account: { name: string; groups: string[]; provider: boolean } | null;
  sessions: {
    session: { id: string; address: string; begun: number; used: number };
    here: boolean;
  }[];
  tokens: Token[];
}

export default function Me() {
  const { t } = useTranslation();
  const found = useQuery<Own>({
    queryKey: KEY,
    queryFn: async () => (await send("/own")).json(),
    refetchInterval: EVERY,
  });
  const { account, sessions = [], tokens = [] } = found.data ?? {};
  return (
    <Stack>
      <Group>
        <Title order={1} size="h3">
          {account?.name ?? t("own")}
        </Title>
        <Text size="sm" c="dimmed">
          {account?.groups.join(", ")}
        </Text>
      </Group>
      {found.error && <Alert color="red">{found.error.message}</Alert>}
      {account?.provider && <Text size="sm">{t("noPassword")}</Text>}
      {account && !account.provider && <Password name={account.name} />}
      <Places sessions={sessions} />
      <Tokens tokens={tokens} />
    </Stack>
  );
}

function Password({ name }: { name: string }) {
  const { t } = useTranslation();
  const queries = useQueryClient();
  const [old, setOld] = useState("");
  const [next, setNext] = useState("");
  const [again, setAgain] = useState("");
  const [busy, setBusy] = useState(false);
  const [fault, setFault] = useState("");
  const [done, setDone] = useState(false);
  const differs = again !== "" && again !== next;

  async function submit(event: FormEvent) {
    event.preventDefault();
    setBusy(true);
    setFault("");
    setDone(false);
    try {
      const headers = { "content-type": "application/json" };
      const body = JSON.stringify({ old, new: next });
      await send("/own/password", { method: "POST", headers, body });
      for (const clear of [setOld, setNext, setAgain]) clear("");
      setDone(true);
    } catch (error) {
      setFault(error instanceof Error ? error.message : String(error));
    }
    setBusy(false);
    await queries.invalidateQueries({ queryKey: KEY });
  }

  return (
    <form onSubmit={submit}>
      <Stack maw={360} gap="sm">
        <Title order={2} size="h4">
          {t("anotherPassword")}
        </Title>
        {fault && (
          <Alert color="red" role="alert">
            {fault}
          </Alert>
        )}
        {done && (
          <Alert color="green" role="status">
            {t("passwordChanged")}
          </Alert>
        )}
        {/* For those who let their browser remember it. */}
        <input hidden readOnly autoComplete="username" value={name} />
        <PasswordInput
          label={t("oldPassword")}
          autoComplete="current-password"
          value={old}
          onChange={(event) => setOld(event.currentTarget.value)}
          required
        />
        <PasswordInput
          label={t("newPassword")}
          description={t("passwordLength")}
          autoComplete="new-password"
          value={next}
          minLength={SHORTEST}
          onChange={(event) => setNext(event.currentTarget.value)}
          required
        />
        <PasswordInput
          label={t("newPasswordAgain")}
          autoComplete="new-password"
          value={again}
          error={differs && t("notTheSame")}
          onChange={(event) => setAgain(event.currentTarget.value)}
          required
        />
        <Group>
          <Button type="submit" loading={busy} disabled={next === "" || again !== next}>
            {t("changePassword")}
          </Button>
        </Group>
      </Stack>
    </form>
  );
}

function Places({ sessions }: { sessions: Own["sessions"] }) {
  const { t } = useTranslation();
  const when = useWhen();
  const queries = useQueryClient();
  const [fault, setFault] = useState("");

  async function end(id: string) {
    setFault("");
    try {
      await send(`/own/sessions/${encodeURIComponent(id)}`, { method: "DELETE" });
    } catch (error) {
      setFault(error instanceof Error ? error.message : String(error));
    }
    await queries.invalidateQueries({ queryKey: KEY });
  }

  return (
    <section aria-label={t("loggedIn")}>
      <Title order={2} size="h4" mb="xs">
        {t("loggedIn")}
      </Title>
      {fault && (
        <Alert color="red" role="alert">
          {fault}
        </Alert>
      )}
      <Table.ScrollContainer minWidth={480}>
        <Table>
          <Table.Thead>
            <Table.Tr>
              {(["address", "begun", "lastUsed", "status"] as const).map((word) => (
                <Table.Th key={word}>{t(word)}</Table.Th>
              ))}
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {sessions.map(({ session, here }) => (
              <Table.Tr key={session.id}>
                <Table.Td>{session.address || "–"}</Table.Td>
                <Table.Td>{when(session.begun)}</Table.Td>
                <Table.Td>{when(session.used)}</Table.Td>
                <Table.Td>
                  {here ? (
                    <span className="well">{t("here")}</span>
                  ) : (
                    <Button
                      size="compact-xs"
                      variant="default"
                      onClick={() => void end(session.id)}
                    >
                      {t("endSession")}
                    </Button>
                  )}
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
    </section>
  );
}

function Tokens({ tokens }: { tokens: Token[] }) {
  const { t } = useTranslation();
  const when = useWhen();
  return (
    <section aria-label={t("tokens")}>
      <Title order={2} size="h4" mb="xs">
        {t("tokens")}
      </Title>
      {tokens.length === 0 && <Text c="dimmed">{t("noTokens")}</Text>}
      {tokens.length > 0 && (
        <Table.ScrollContainer minWidth={640}>
          <Table>
            <Table.Thead>
              <Table.Tr>
                {(["name", "namespace", "verbs", "expires", "lastUsed"] as const).map((word) => (
                  <Table.Th key={word}>{t(word)}</Table.Th>
                ))}
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {tokens.map((token) => (
                <Table.Tr key={token.name}>
                  <Table.Td>{token.name}</Table.Td>
                  <Table.Td className="said">
                    {token.scope.namespaces.join(", ") || t("allNamespaces")}
                  </Table.Td>
                  <Table.Td className="said">{token.scope.verbs.join(", ")}</Table.Td>
                  <Table.Td>{when(token.expires)}</Table.Td>
                  <Table.Td>{token.used ? when(token.used) : "–"}</Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      )}
      <Text size="xs" c="dimmed">
        {t("tokensHint")}
      </Text>
    </section>
  );
}
