// A new object, as YAML: checked by a dry run, then made.

import { Stack, Title } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { useLocation, useSearch } from "wouter";
import { change } from "../api";
import { Editor, type Item } from "../parts/editor";
import { base, useKinds } from "../parts/kinds";
import { useScope } from "../scope";

interface Params {
  group?: string;
  version?: string;
  resource?: string;
}

/** What keeps everything from being released, every weekend; for people to change. */
const FREEZE = [
  "  name: berth-freeze",
  "  namespace: kube-system",
  "data:",
  "  windows: Fri@18:00/Mon@09:00 weekend",
  "  except: ''",
];

const ACCOUNT = [
  "spec:",
  "  name: ''",
  "  login: password # or provider: groups are told by it then",
  "  groups: []",
  "  roles:",
  "  - {namespace: default, role: developer} # viewer, developer, operator, admin",
  "  reason: ''",
];

export default function New({ params }: { params: Params }) {
  const { t } = useTranslation();
  const [, go] = useLocation();
  const { namespace } = useScope();
  const kinds = useKinds();
  const search = useSearch();
  const { group = "core", version = "v1", resource = "" } = params;
  const kind = kinds.data?.find((one) => one.group === group && one.resource === resource);
  if (!kind) {
    return (
      <Title order={1} size="h3">
        {kinds.isPending ? t("loading") : t("notFound")}
      </Title>
    );
  }
  const freeze = search === "freeze" && resource === "configmaps";
  const list = `/workloads/${group}/${version}/${resource}`;
  const app = kind.group === "berth.dev" && kind.kind === "App";
  const account = kind.group === "berth.dev" && kind.kind === "AccountRequest";
  const named = [
    "  name: ''",
    ...(kind.namespaced ? [`  namespace: ${namespace || "default"}`] : []),
  ];
  const lines = [
    `apiVersion: ${group === "core" ? version : `${group}/${version}`}`,
    `kind: ${kind.kind}`,
    "metadata:",
    ...(freeze ? FREEZE : named),
    ...(app ? ["spec:", "  image: ''", "  port: 8080", "  replicas: 2"] : []),
    ...(account ? ACCOUNT : []),
    "",
  ];

  function send(wanted: Item, dry: boolean) {
    const inside = kind?.namespaced
      ? `namespaces/${wanted.metadata.namespace || namespace || "default"}/`
      : "";
    const query = `?fieldValidation=Strict${dry ? "&dryRun=All" : ""}`;
    return change<Item>("POST", `${base(group, version)}/${inside}${resource}${query}`, wanted);
  }

  function made({ metadata }: Item) {
    if (account) return go("/accounts");
    const space = metadata.namespace || "-";
    go(
      app
        ? `/apps/${space}/${metadata.name}`
        : `/item/${group}/${version}/${resource}/${space}/${metadata.name}`,
    );
  }

  return (
    <Stack>
      <Title order={1} size="h3">
        {t("newKind", { kind: kind.kind })}
      </Title>
      <Editor
        now=""
        start={lines.join("\n")}
        send={send}
        applied={made}
        cancel={() => go(app ? "/apps" : account ? "/accounts" : list)}
      />
    </Stack>
  );
}
