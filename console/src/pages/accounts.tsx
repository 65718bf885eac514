// Who asked for an account, and what came of it; who may, decides.

import { Alert, Button, Group, Stack, Table, Tabs, Text, Textarea, Title } from "@mantine/core";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { get, send } from "../api";
import { Dialog } from "../parts/dialog";
import { Once } from "../parts/once";
import { People } from "../parts/people";
import { since, useWhen } from "../parts/time";

const LIST = "/apis/berth.dev/v1/accountrequests";
const KEY = ["accountrequests"];
const EVERY = 5_000;
const MOST = 500;

interface Asked {
  metadata: { name: string; generation?: number; creationTimestamp: string };
  spec: {
    name: string;
    login?: "password" | "provider";
    groups?: string[];
    roles?: { namespace: string; role: string }[];
    reason?: string;
  };
  status?: {
    phase?: "Pending" | "Approved" | "Denied";
    by?: string;
    at?: string;
    message?: string;
    observedGeneration?: number;
  };
}

interface Made {
  account: string;
  password: string | null;
}

export default function Accounts() {
  const { t } = useTranslation();
  return (
    <Stack>
      <Title order={1} size="h3">
        {t("accounts")}
      </Title>
      <Tabs defaultValue="requests" keepMounted={false}>
        <Tabs.List>
          <Tabs.Tab value="requests">{t("accountRequests")}</Tabs.Tab>
          <Tabs.Tab value="people">{t("people")}</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="requests" pt="md">
          <Requests />
        </Tabs.Panel>
        <Tabs.Panel value="people" pt="md">
          <People />
        </Tabs.Panel>
      </Tabs>
    </Stack>
  );
}

function Requests() {
  const { t } = useTranslation();
  const [chosen, choose] = useState<Asked | null>(null);
  const found = useQuery({
    queryKey: KEY,
    queryFn: () => get<{ items: Asked[] }>(`${LIST}?limit=${MOST}`),
    refetchInterval: EVERY,
  });
  const rows = [...(found.data?.items ?? [])].sort(before);

  return (
    <Stack>
      <Group justify="flex-end">
        <Link href="/new/berth.dev/v1/accountrequests">{t("askAccount")}</Link>
      </Group>
      {found.error && <Alert color="red">{found.error.message}</Alert>}
      <Table.ScrollContainer minWidth={900}>
        <Table>
          <Table.Thead>
            <Table.Tr>
              {(["name", "groups", "roles", "cause", "status", "age"] as const).map((word) => (
                <Table.Th key={word}>{t(word)}</Table.Th>
              ))}
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {rows.map((one) => (
              <Table.Tr key={one.metadata.name}>
                <Table.Td>
                  <Link href={`/item/berth.dev/v1/accountrequests/-/${one.metadata.name}`}>
                    {one.spec.name}
                  </Link>
                  <Text size="sm" c="dimmed">
                    {t(one.spec.login === "provider" ? "byProvider" : "byPassword")}
                  </Text>
                </Table.Td>
                <Table.Td className="said">{one.spec.groups?.join(", ") || "–"}</Table.Td>
                <Table.Td className="said">{roles(one) || "–"}</Table.Td>
                <Table.Td className="said">{one.spec.reason}</Table.Td>
                <Table.Td className="said">
                  <State one={one} />
                  {open(one) && (
                    <Button ml="xs" size="compact-xs" variant="default" onClick={() => choose(one)}>
                      {t("decide")}
                    </Button>
                  )}
                </Table.Td>
                <Table.Td>{since(one.metadata.creationTimestamp)}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
      {found.data && rows.length === 0 && <Text c="dimmed">{t("noRequests")}</Text>}
      <Text size="xs" c="dimmed">
        {t("accountsHint")}
      </Text>
      {chosen && <Decide key={chosen.metadata.name} one={chosen} close={() => choose(null)} />}
    </Stack>
  );
}

/** What waits comes first, then the latest. */
function before(a: Asked, b: Asked): number {
  if (open(a) !== open(b)) return open(a) ? -1 : 1;
  return b.metadata.creationTimestamp.localeCompare(a.metadata.creationTimestamp);
}

/** Whether somebody has yet to decide on it as it is now. */
function open({ metadata, status }: Asked): boolean {
  const phase = status?.phase ?? "Pending";
  return phase === "Pending" || status?.observedGeneration !== metadata.generation;
}

function roles({ spec }: Asked): string {
  return (spec.roles ?? []).map((one) => `${one.namespace}: ${one.role}`).join(", ");
}

function State({ one }: { one: Asked }) {
  const { t } = useTranslation();
  const when = useWhen();
  const { phase = "Pending", by = "", at = "", message = "" } = one.status ?? {};
  const tones = { Pending: "waits", Approved: "well", Denied: "ill" };
  const words = { Pending: "pending", Approved: "approved", Denied: "denied" } as const;
  return (
    <>
      <span className={tones[phase]}>{t(words[phase])}</span>
      {by && at && phase !== "Pending" && (
        <Text size="sm">
          {by}, {when(Date.parse(at))}
        </Text>
      )}
      {message && <Text size="sm">{message}</Text>}
      {phase !== "Pending" && open(one) && <Text size="sm">{t("changedSince")}</Text>}
    </>
  );
}

function Decide({ one, close }: { one: Asked; close: () => void }) {
  const { t } = useTranslation();
  const queries = useQueryClient();
  const [why, setWhy] = useState("");
  const [fault, setFault] = useState("");
  const [busy, setBusy] = useState(false);
  const [made, setMade] = useState<Made | null>(null);

  async function decide(decision: "approve" | "deny") {
    setBusy(true);
    setFault("");
    try {
      const path = `/accounts/requests/${encodeURIComponent(one.metadata.name)}`;
      const headers = { "content-type": "application/json" };
      const body = JSON.stringify({ decision, why });
      const answer = await (await send(path, { method: "POST", headers, body })).json();
      if (decision === "approve" && answer.password) setMade(answer);
      else close();
    } catch (error) {
      setFault(error instanceof Error ? error.message : String(error));
    }
    setBusy(false);
    await queries.invalidateQueries({ queryKey: KEY });
  }

  return (
    <Dialog name={one.spec.name} once={made !== null} close={close}>
      {made ? (
        <Once name={made.account} password={made.password ?? ""} />
      ) : (
        <Stack>
          {fault && <Alert color="red">{fault}</Alert>}
          <Text size="sm">{one.spec.reason}</Text>
          <Text size="sm">
            {t("groups")}: {one.spec.groups?.join(", ") || "–"}
          </Text>
          <Text size="sm">
            {t("roles")}: {roles(one) || "–"}
          </Text>
          {one.status?.phase !== "Approved" && (
            <Textarea
              label={t("whyDenied")}
              value={why}
              maxLength={1000}
              autosize
              onChange={(event) => setWhy(event.currentTarget.value)}
            />
          )}
          <Group>
            <Button disabled={busy} onClick={() => void decide("approve")}>
              {t("approve")}
            </Button>
            {one.status?.phase !== "Approved" && (
              <Button disabled={busy} variant="default" onClick={() => void decide("deny")}>
                {t("deny")}
              </Button>
            )}
          </Group>
        </Stack>
      )}
    </Dialog>
  );
}
