// One object: as YAML, changed after a dry run has shown the difference; a pod's logs.

import { Alert, Button, Group, Stack, Tabs, Text, Title } from "@mantine/core";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { change, get } from "../api";
import { Editor, type Item, YamlText, written } from "../parts/editor";
import { base } from "../parts/kinds";
import { printed } from "../parts/lines";
import { Logs } from "../parts/logs";

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
                <Logs sources={[printed(namespace, name, one.name)]} />
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
  // As it was when the change was begun: what others change meanwhile is a conflict, not lost.
  const [begun, setBegun] = useState<string | null>(null);
  const [done, setDone] = useState(false);
  const now = written(item);
  if (begun !== null) {
    return (
      <Editor
        now={now}
        start={begun}
        send={(wanted, dry) => {
          const query = `?fieldValidation=Strict${dry ? "&dryRun=All" : ""}`;
          return change<Item>("PUT", path + query, wanted);
        }}
        applied={(result) => {
          queries.setQueryData(["item", path], result);
          setBegun(null);
          setDone(true);
        }}
        cancel={() => setBegun(null)}
      />
    );
  }
  return (
    <Stack>
      {done && (
        <Alert color="green" role="status">
          {t("applied")}
        </Alert>
      )}
      <Group>
        <Button
          size="xs"
          onClick={() => {
            setDone(false);
            setBegun(now);
          }}
        >
          {t("edit")}
        </Button>
      </Group>
      <YamlText text={now} />
    </Stack>
  );
}
