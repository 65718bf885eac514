// A terminal in a container of a pod, or in one that is made beside them to look into the pod.

import {
  Alert,
  Anchor,
  Button,
  Checkbox,
  Group,
  Select,
  Stack,
  Text,
  TextInput,
  Title,
  useComputedColorScheme,
} from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { type FormEvent, useEffect, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { get, send } from "../api";
import { fit, terminal } from "../parts/terminal";
import { type End, Shell, type Wanted } from "../shells";

interface Pod {
  spec: { containers: { name: string }[] };
}

export default function ShellPage({
  params,
}: {
  params: { namespace: string; pod: string; container?: string };
}) {
  const { t } = useTranslation();
  const { namespace, pod } = params;
  const [container, setContainer] = useState(params.container ?? "");
  const [command, setCommand] = useState("");
  const [beside, setBeside] = useState(false);
  const [named, setImage] = useState<string | null>(null);
  const [profile, setProfile] = useState("general");
  const [wanted, setWanted] = useState<Wanted | null>(null);
  const [count, setCount] = useState(0);
  const path = `/api/v1/namespaces/${namespace}/pods/${pod}`;
  const found = useQuery({ queryKey: ["item", path], queryFn: () => get<Pod>(path) });
  const offered = useQuery({
    queryKey: ["shell", "about"],
    queryFn: async (): Promise<{ image: string | null }> => (await send("/shell/about")).json(),
  });
  const image = named ?? offered.data?.image ?? "";
  const names = found.data?.spec.containers.map((one) => one.name) ?? [];

  function open(event: FormEvent) {
    event.preventDefault();
    setWanted({
      namespace,
      pod,
      container: container || (names[0] ?? ""),
      command: words(command),
      image: beside ? image.trim() : "",
      profile,
    });
    setCount(count + 1);
  }

  return (
    <Stack gap="sm">
      <Title order={1} size="h3">
        {t("shell")}: {pod}
      </Title>
      {found.error && <Alert color="red">{found.error.message}</Alert>}
      <form onSubmit={open}>
        <Group align="end">
          <Select
            label={t("container")}
            data={names}
            value={container || (names[0] ?? null)}
            onChange={(name) => setContainer(name ?? "")}
            allowDeselect={false}
          />
          <TextInput
            label={t("command")}
            placeholder="sh"
            value={command}
            onChange={(event) => setCommand(event.currentTarget.value)}
          />
          <Button type="submit" disabled={names.length === 0 || (beside && !image.trim())}>
            {wanted ? t("openAgain") : t("open")}
          </Button>
        </Group>
        <Checkbox
          mt="xs"
          label={t("debugBeside")}
          checked={beside}
          onChange={(event) => setBeside(event.currentTarget.checked)}
        />
        {beside && (
          <Group align="end" mt="xs">
            <TextInput
              label={t("debugImage")}
              description={t("debugHint")}
              value={image}
              onChange={(event) => setImage(event.currentTarget.value)}
              w={420}
              maw="100%"
            />
            <Select
              label={t("profile")}
              data={[
                { value: "general", label: t("profileGeneral") },
                { value: "network", label: t("profileNetwork") },
                { value: "plain", label: t("profilePlain") },
              ]}
              value={profile}
              onChange={(chosen) => setProfile(chosen ?? "general")}
              allowDeselect={false}
            />
          </Group>
        )}
      </form>
      <Text size="xs" c="dimmed">
        {t("recordedNotice")}
      </Text>
      {wanted && <Screen key={count} wanted={wanted} />}
    </Stack>
  );
}

function Screen({ wanted }: { wanted: Wanted }) {
  const { t } = useTranslation();
  const dark = useComputedColorScheme("light") === "dark";
  const place = useRef<HTMLDivElement>(null);
  const [waiting, setWaiting] = useState(t("connecting"));
  const [end, setEnd] = useState<End | null>(null);
  const [id, setId] = useState("");

  useEffect(() => {
    const element = place.current;
    if (!element) return;
    const screen = terminal(element, dark, true);
    const still = fit(screen, element);
    const shell = new Shell(wanted, screen.cols, screen.rows, {
      opened: (opened) => {
        setWaiting("");
        setId(opened);
        screen.focus();
      },
      waiting: (container) => setWaiting(t("startingContainer", { container })),
      shown: (text) => screen.write(text),
      ended: (how) => {
        setWaiting("");
        setEnd(how);
        screen.options.disableStdin = true;
      },
    });
    screen.onData((keys) => shell.keys(keys));
    screen.onResize(({ cols, rows }) => shell.resize(cols, rows));
    return () => {
      still();
      shell.close();
      screen.dispose();
    };
    // A terminal is opened once; another look does not open another.
  }, [wanted]);

  return (
    <>
      {waiting && <Text role="status">{waiting}</Text>}
      {end && (
        <Alert color={end.why === "exit" && end.code === 0 ? "green" : "yellow"} role="alert">
          {said(end, t)}{" "}
          {id && (
            <Anchor component={Link} href={`/sessions/${id}`} c="inherit" underline="always">
              {t("replay")}
            </Anchor>
          )}
        </Alert>
      )}
      <div className="screen" ref={place} />
    </>
  );
}

type Translate = ReturnType<typeof useTranslation>["t"];

function said(end: End, t: Translate): string {
  switch (end.why) {
    case "exit":
      return t("endExit", { code: end.code });
    case "cut":
      return t("endCut", { by: end.by });
    case "refused":
      return end.message ?? t("refused");
    case "idle":
      return t("endIdle");
    case "long":
      return t("endLong");
    case "full":
      return t("endFull");
    case "rights":
      return t("endRights");
    case "unrecorded":
      return t("endUnrecorded");
    default:
      return t("endLost");
  }
}

/** A command's words, with quotes as a shell takes them. */
function words(text: string): string[] {
  const found = text.match(/'[^']*'|"(?:\\.|[^"\\])*"|\S+/g) ?? [];
  return found.map((word) => {
    if (word.startsWith("'") && word.endsWith("'") && word.length > 1) return word.slice(1, -1);
    if (word.startsWith('"') && word.endsWith('"') && word.length > 1) {
      return word.slice(1, -1).replace(/\\(.)/g, "$1");
    }
    return word;
  });
}
