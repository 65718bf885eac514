// Who is it: the log-in page, or the pages.

import {
  Alert,
  Button,
  Center,
  Loader,
  Paper,
  PasswordInput,
  Stack,
  TextInput,
  Title,
} from "@mantine/core";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useEffect, useState } from "react";
import { useTranslation } from "react-i18next";
import { type Person, Refused, logIn, onLeft, whoAmI } from "./api";
import { Frame } from "./frame";
import { forget } from "./live";
import { PROVIDER, Provider } from "./parts/provider";

const ME = ["session"];

export function Entry() {
  const { t } = useTranslation();
  const queries = useQueryClient();
  const me = useQuery({
    queryKey: ME,
    queryFn: whoAmI,
    staleTime: 60_000,
    refetchInterval: 300_000,
  });
  useEffect(() => onLeft(() => queries.setQueryData(ME, null)), [queries]);

  if (me.isPending) {
    return (
      <Center h="100vh">
        <Loader aria-label={t("loading")} />
      </Center>
    );
  }
  if (!me.data) return <LogIn entered={(person) => queries.setQueryData(ME, person)} />;
  return <Frame person={me.data} left={() => queries.setQueryData(ME, null)} />;
}

function LogIn({ entered }: { entered: (person: Person) => void }) {
  const { t } = useTranslation();
  const queries = useQueryClient();
  useEffect(() => {
    forget();
    // Who names people is nobody's own, and asked for before this is run.
    const stays: unknown[] = [ME[0], PROVIDER[0]];
    queries.removeQueries({ predicate: (query) => !stays.includes(query.queryKey[0]) });
  }, [queries]);
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [fault, setFault] = useState("");
  const [busy, setBusy] = useState(false);

  async function submit(event: FormEvent) {
    event.preventDefault();
    setBusy(true);
    try {
      entered(await logIn(name, password));
    } catch (error) {
      setFault(error instanceof Refused ? error.message : String(error));
      setBusy(false);
    }
  }

  return (
    <Center component="main" h="100vh" p="md">
      <Paper withBorder p="xl" w={360} maw="100%">
        <form onSubmit={submit}>
          <Stack>
            <Title order={1} size="h3">
              {t("logInTitle")}
            </Title>
            {fault && (
              <Alert color="red" role="alert">
                {fault}
              </Alert>
            )}
            <TextInput
              label={t("name")}
              autoComplete="username"
              value={name}
              onChange={(event) => setName(event.currentTarget.value)}
              required
              data-autofocus
            />
            <PasswordInput
              label={t("password")}
              autoComplete="current-password"
              value={password}
              onChange={(event) => setPassword(event.currentTarget.value)}
              required
            />
            <Button type="submit" loading={busy}>
              {t("logIn")}
            </Button>
            <Provider />
          </Stack>
        </form>
      </Paper>
    </Center>
  );
}
