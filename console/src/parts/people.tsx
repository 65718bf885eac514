// Who may log in, for those who look after them: when they last did, and whether they still may.

import { Alert, Button, Group, Stack, Table, Text } from "@mantine/core";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { send } from "../api";
import { Dialog } from "./dialog";
import { Once } from "./once";
import { useWhen } from "./time";

const KEY = ["accounts"];
const EVERY = 10_000;

interface Account {
  name: string;
  groups: string[];
  disabled: boolean;
  provider: boolean;
  entered: number | null;
}

type Change = "disable" | "enable" | "password";

export function People() {
  const { t } = useTranslation();
  const when = useWhen();
  const [chosen, choose] = useState<Account | null>(null);
  const found = useQuery<{ items: Account[] }>({
    queryKey: KEY,
    queryFn: async () => (await send("/people")).json(),
    refetchInterval: EVERY,
  });
  return (
    <>
      {found.error && <Alert color="red">{found.error.message}</Alert>}
      <Table.ScrollContainer minWidth={640}>
        <Table>
          <Table.Thead>
            <Table.Tr>
              {(["name", "groups", "lastLogIn", "status"] as const).map((word) => (
                <Table.Th key={word}>{t(word)}</Table.Th>
              ))}
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {found.data?.items.map((one) => (
              <Table.Tr key={one.name}>
                <Table.Td>
                  {one.name}
                  <Text size="sm" c="dimmed">
                    {t(one.provider ? "byProvider" : "byPassword")}
                  </Text>
                </Table.Td>
                <Table.Td className="said">{one.groups.join(", ") || "–"}</Table.Td>
                <Table.Td>{one.entered ? when(one.entered) : "–"}</Table.Td>
                <Table.Td>
                  <span className={one.disabled ? "ill" : "well"}>
                    {t(one.disabled ? "disabled" : "mayLogIn")}
                  </span>
                  <Button ml="xs" size="compact-xs" variant="default" onClick={() => choose(one)}>
                    {t("edit")}
                  </Button>
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
      {chosen && <Edit key={chosen.name} one={chosen} close={() => choose(null)} />}
    </>
  );
}

function Edit({ one, close }: { one: Account; close: () => void }) {
  const { t } = useTranslation();
  const queries = useQueryClient();
  const [fault, setFault] = useState("");
  const [busy, setBusy] = useState(false);
  const [password, setPassword] = useState("");

  async function say(change: Change) {
    setBusy(true);
    setFault("");
    try {
      const path = `/people/${encodeURIComponent(one.name)}`;
      const headers = { "content-type": "application/json" };
      const body = JSON.stringify({ change });
      const answer = await (await send(path, { method: "POST", headers, body })).json();
      if (change === "password") setPassword(answer.password);
      else close();
    } catch (error) {
      setFault(error instanceof Error ? error.message : String(error));
    }
    setBusy(false);
    await queries.invalidateQueries({ queryKey: KEY });
  }

  const shown = password !== "";
  return (
    <Dialog name={one.name} once={shown} close={close}>
      {shown ? (
        <Once name={one.name} password={password} />
      ) : (
        <Stack>
          {fault && (
            <Alert color="red" role="alert">
              {fault}
            </Alert>
          )}
          <Text size="sm">
            {t("groups")}: {one.groups.join(", ") || "–"}
          </Text>
          <Text size="sm">{t("peopleHint")}</Text>
          <Group>
            <Button
              variant="default"
              disabled={busy}
              onClick={() => void say(one.disabled ? "enable" : "disable")}
            >
              {t(one.disabled ? "enable" : "disable")}
            </Button>
            {!one.provider && (
              <Button variant="default" disabled={busy} onClick={() => void say("password")}>
                {t("newPasswordFor")}
              </Button>
            )}
          </Group>
        </Stack>
      )}
    </Dialog>
  );
}
