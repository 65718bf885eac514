// One release: its steps with their times and what was measured, and what people can do about it.

import { Alert, Button, Group, Stack, Text, Title } from "@mantine/core";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { change, get } from "../api";
import { useLive } from "../live";
import { tone } from "../parts/health";
import { image } from "../parts/quantity";
import { type Check, type Step, Steps } from "../parts/steps";
import { useServed } from "../words/served";

const COMMIT = "berth.dev/commit";
const CAUSE = "berth.dev/cause";
const AUTHOR = "berth.dev/author";
/** What is no matter of a version, so it stays when an older one comes back. */
const STAYS = ["replicas", "scale", "strategy", "drift"];
const OVER = new Set(["Aborted", "Succeeded", "Superseded"]);
const MERGE = "application/merge-patch+json";

interface Release {
  metadata: { name: string };
  spec: {
    app: string;
    revision: number;
    image: string;
    commit?: string;
    author?: string;
    cause?: string;
    strategy?: { type?: string; checks?: Check[] };
    appSpec: Record<string, unknown>;
    paused?: boolean;
  };
  status?: { phase?: string; message?: string; notes?: string[]; step?: number; steps?: Step[] };
}

interface App {
  metadata: { annotations?: Record<string, string> };
  spec: Record<string, unknown>;
}

export default function ReleasePage({ params }: { params: { namespace: string; name: string } }) {
  const { t } = useTranslation();
  const { namespace, name } = params;
  const list = `/apis/berth.dev/v1/namespaces/${namespace}/releases`;
  const path = `${list}/${name}`;
  const queries = useQueryClient();
  const found = useQuery({ queryKey: ["item", path], queryFn: () => get<Release>(path) });
  // The table is watched anyway: when its row changes, so has the release.
  const row = useLive(list).rows.find((one) => one.name === name);
  useEffect(() => {
    void queries.invalidateQueries({ queryKey: ["item", path] });
  }, [row, path, queries]);
  const release = found.data;

  return (
    <Stack>
      <Title order={1} size="h3">
        {release
          ? t("releaseOf", { revision: release.spec.revision, app: release.spec.app })
          : name}
      </Title>
      {found.error && (
        <Alert color="red" role="alert">
          {found.error.message}
        </Alert>
      )}
      {release && (
        <>
          <Facts release={release} namespace={namespace} />
          <Wishes release={release} path={path} namespace={namespace} />
          <Steps
            steps={release.status?.steps ?? []}
            at={release.status?.step ?? 0}
            rules={release.spec.strategy?.checks ?? []}
          />
          <Link href={`/item/berth.dev/v1/releases/${namespace}/${name}`}>YAML</Link>
        </>
      )}
    </Stack>
  );
}

function Facts({ release, namespace }: { release: Release; namespace: string }) {
  const { t } = useTranslation();
  const served = useServed();
  const { spec, status } = release;
  const phase = status?.phase ?? "Waiting";
  const facts = [
    [t("status"), <span className={tone("Phase", phase)}>{served("states", phase)}</span>],
    [t("app"), <Link href={`/apps/${namespace}/${spec.app}`}>{spec.app}</Link>],
    [t("image"), <span title={spec.image}>{image(spec.image)}</span>],
    [t("strategy"), served("steps", spec.strategy?.type ?? "")],
    [t("commit"), spec.commit],
    [t("person"), spec.author],
    [t("cause"), spec.cause],
  ] as const;
  return (
    <>
      {status?.message && (
        <Alert color={OVER.has(phase) ? "gray" : "yellow"}>{status.message}</Alert>
      )}
      {status?.notes?.map((note) => (
        <Text size="sm" key={note}>
          {note}
        </Text>
      ))}
      <dl className="facts">
        {facts.map(
          ([word, fact]) =>
            fact && (
              <div key={word}>
                <dt>{word}</dt>
                <dd>{fact}</dd>
              </div>
            ),
        )}
      </dl>
    </>
  );
}

function Wishes(given: { release: Release; path: string; namespace: string }) {
  const { t } = useTranslation();
  const { release, path, namespace } = given;
  const queries = useQueryClient();
  const [fault, setFault] = useState("");
  const [busy, setBusy] = useState(false);
  const { spec, status } = release;
  const phase = status?.phase ?? "Waiting";
  const step = status?.steps?.[status.step ?? 0];

  async function wish(what: () => Promise<unknown>) {
    setFault("");
    setBusy(true);
    try {
      await what();
      await queries.invalidateQueries({ queryKey: ["item", path] });
    } catch (error) {
      setFault(error instanceof Error ? error.message : String(error));
    } finally {
      setBusy(false);
    }
  }
  const say = (wanted: object) => () => change("PATCH", path, { spec: wanted }, MERGE);
  const button = (word: string, color: string | undefined, what: () => Promise<unknown>) => (
    <Button
      size="xs"
      variant={color ? "outline" : "default"}
      color={color}
      disabled={busy}
      onClick={() => void wish(what)}
    >
      {word}
    </Button>
  );

  return (
    <>
      {fault && (
        <Alert color="red" role="alert">
          {fault}
        </Alert>
      )}
      <Group gap="xs">
        {!OVER.has(phase) && (
          <>
            {button(
              t("promote"),
              undefined,
              say({ promoted: (status?.step ?? 0) + 1, paused: false }),
            )}
            {spec.paused
              ? button(t("resume"), undefined, say({ paused: false }))
              : button(t("pause"), undefined, say({ paused: true }))}
            {/* Once the main workload takes a version on, the way back is a release of its own. */}
            {step?.kind !== "finish" && button(t("abort"), "red.9", say({ abort: true }))}
          </>
        )}
        {phase === "Succeeded" &&
          button(t("rollBack"), undefined, () => rollBack(release, namespace))}
      </Group>
    </>
  );
}

/** Writes this version's spec into the App; what comes of it is an ordinary release. */
async function rollBack({ spec }: Release, namespace: string) {
  const path = `/apis/berth.dev/v1/namespaces/${namespace}/apps/${spec.app}`;
  const app = await get<App>(path);
  const wanted = { ...spec.appSpec };
  for (const key of STAYS) {
    if (key in app.spec) wanted[key] = app.spec[key];
    else delete wanted[key];
  }
  const annotations = { ...app.metadata.annotations };
  // Its author is who does this, as the API server has it.
  delete annotations[AUTHOR];
  delete annotations[COMMIT];
  if (spec.commit) annotations[COMMIT] = spec.commit;
  annotations[CAUSE] = `rollback to ${spec.revision}`;
  await change("PUT", path, { ...app, metadata: { ...app.metadata, annotations }, spec: wanted });
}
