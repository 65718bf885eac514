// YAML that is being changed: checked by a dry run, whose difference is looked at, then applied.

import { Alert, Button, Group, Stack, Textarea } from "@mantine/core";
import { dump, load } from "js-yaml";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { Diff } from "./diff";

export interface Item {
  metadata: { name: string; namespace?: string; managedFields?: unknown };
  spec?: { containers?: { name: string }[] };
}

interface Given {
  /** What the cluster holds; empty for what is new. */
  now: string;
  /** What is changed. */
  start: string;
  /** Sends what was written; what would be, or is, there afterwards. */
  send: (wanted: Item, dry: boolean) => Promise<Item>;
  applied: (item: Item) => void;
  cancel: () => void;
}

export function Editor({ now, start, send, applied, cancel }: Given) {
  const { t } = useTranslation();
  const [text, setText] = useState(start);
  const [checked, setChecked] = useState<string | null>(null);
  const [fault, setFault] = useState("");
  const [busy, setBusy] = useState(false);

  async function go(dry: boolean) {
    setFault("");
    setBusy(true);
    try {
      const result = await send(load(text) as Item, dry);
      if (dry) setChecked(written(result));
      else applied(result);
    } catch (error) {
      setFault(error instanceof Error ? error.message : String(error));
    } finally {
      setBusy(false);
    }
  }

  return (
    <Stack>
      {fault && (
        <Alert color="red" role="alert" className="said">
          {fault}
        </Alert>
      )}
      {checked !== null && <Diff before={now} after={checked} />}
      <Group>
        <Button size="xs" variant="default" loading={busy} onClick={() => void go(true)}>
          {t("check")}
        </Button>
        <Button size="xs" disabled={checked === null || busy} onClick={() => void go(false)}>
          {t("apply")}
        </Button>
        <Button size="xs" variant="default" onClick={cancel}>
          {t("cancel")}
        </Button>
      </Group>
      <YamlText
        text={text}
        change={(next) => {
          setText(next);
          // What was checked is not what would be applied.
          setChecked(null);
        }}
      />
    </Stack>
  );
}

/** YAML in a field, to be read alone where nothing takes the change. */
export function YamlText({ text, change }: { text: string; change?: (text: string) => void }) {
  return (
    <Textarea
      aria-label="YAML"
      value={text}
      readOnly={!change}
      onChange={(event) => change?.(event.currentTarget.value)}
      autosize
      minRows={10}
      maxRows={36}
      spellCheck={false}
      classNames={{ input: "yaml" }}
    />
  );
}

/**
 * Without who owns which field, which nobody edits; in one order, so that only what is different
 * differs.
 */
export function written(item: Item): string {
  const { managedFields: _, ...metadata } = item.metadata;
  return dump({ ...item, metadata }, { lineWidth: -1, noRefs: true, sortKeys: true });
}
