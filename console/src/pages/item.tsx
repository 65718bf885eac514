// One object: as YAML, changed after a dry run has shown the difference; a pod's logs.

import { Alert, Button, Group, Stack, Tabs, Text, Textarea, Title } from "@mantine/core";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { dump, load } from "js-yaml";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { change, get } from "../api";
import { Diff } from "../parts/diff";
import { base } from "../parts/kinds";
import { Logs } from "../parts/logs";

interface Item {
  metadata: { name: string; managedFields?: unknown };
  spec?: { containers?: { name: string }[] };
}

export default function ItemPage({ params }: { params: { "*"?: string } }) {
  const { t } = useTranslation();
  const [group = "core", version = "v1", resource = "", space = "-", ...rest] = (
    params["*"] ?? ""
  ).split("/");
  const namespace = space === "-" ? "" : space;
  const name = rest.join("/");
  const inside = namespace ? `namespaces/${namespace}/` : "";
  const path = `${base(group, version)}/${inside}${resource}/${name}`;
  const item = useQuery({ queryKey: ["item", path], queryFn: () => get<Item>(path) });
  const pod = group === "core" && resource === "pods";
  const containers = item.data?.spec?.containers ?? [];

  return (
    <Stack>
      <Group justify="space-between">
        <Title order={1} size="h3">
          {name}
        </Title>
        {pod && <Link href={`/shell/${namespace}/${name}`}>{t("shell")}</Link>}
      </Group>
      {item.error && <Alert color="red">{item.error.message}</Alert>}
      {item.isPending && <Text>{t("loading")}</Text>}
      {item.data && (
        <Tabs defaultValue="yaml" keepMounted={false}>
          <Tabs.List>
            <Tabs.Tab value="yaml">YAML</Tabs.Tab>
            {pod &&
              containers.map((one) => (
                <Tabs.Tab key={one.name} value={`log/${one.name}`}>
                  {t("logs")}: {one.name}
                </Tabs.Tab>
              ))}
          </Tabs.List>
          <Tabs.Panel value="yaml" pt="md">
            <Yaml key={path} path={path} item={item.data} />
          </Tabs.Panel>
          {pod &&
            containers.map((one) => (
              <Tabs.Panel key={one.name} value={`log/${one.name}`} pt="md">
                <Logs sources={[{ namespace, pod: name, container: one.name }]} />
              </Tabs.Panel>
            ))}
        </Tabs>
      )}
    </Stack>
  );
}

function Yaml({ path, item }: { path: string; item: Item }) {
  const { t } = useTranslation();
  const queries = useQueryClient();
  const [edited, setEdited] = useState<string | null>(null);
  const [checked, setChecked] = useState<string | null>(null);
  const [fault, setFault] = useState("");
  const [done, setDone] = useState(false);
  const now = written(item);

  async function send(dry: boolean) {
    setFault("");
    setDone(false);
    try {
      const wanted = load(edited ?? now);
      const query = dry ? "?dryRun=All&fieldValidation=Strict" : "?fieldValidation=Strict";
      const result = await change<Item>("PUT", path + query, wanted);
      if (dry) {
        setChecked(written(result));
      } else {
        queries.setQueryData(["item", path], result);
        setEdited(null);
        setChecked(null);
        setDone(true);
      }
    } catch (error) {
      setFault(error instanceof Error ? error.message : String(error));
    }
  }

  return (
    <Stack>
      {fault && (
        <Alert color="red" role="alert">
          {fault}
        </Alert>
      )}
      {done && <Alert color="green">{t("applied")}</Alert>}
      {checked !== null && <Diff before={now} after={checked} />}
      <Group>
        {edited === null ? (
          <Button size="xs" onClick={() => setEdited(now)}>
            {t("edit")}
          </Button>
        ) : (
          <>
            <Button size="xs" variant="default" onClick={() => void send(true)}>
              {t("check")}
            </Button>
            <Button size="xs" disabled={checked === null} onClick={() => void send(false)}>
              {t("apply")}
            </Button>
            <Button
              size="xs"
              variant="default"
              onClick={() => {
                setEdited(null);
                setChecked(null);
                setFault("");
              }}
            >
              {t("cancel")}
            </Button>
          </>
        )}
      </Group>
      <Textarea
        aria-label="YAML"
        value={edited ?? now}
        readOnly={edited === null}
        onChange={(event) => {
          setEdited(event.currentTarget.value);
          setChecked(null);
        }}
        autosize
        minRows={10}
        maxRows={36}
        spellCheck={false}
        styles={{ input: { fontFamily: "var(--mantine-font-family-monospace)", fontSize: 12 } }}
      />
    </Stack>
  );
}

/** Without who owns which field, which nobody edits. */
function written(item: Item): string {
  const { managedFields: _, ...metadata } = item.metadata;
  return dump({ ...item, metadata }, { lineWidth: -1, noRefs: true });
}
