// A password that was chosen for somebody: shown once, to be handed over.

import { Button, Code, CopyButton, Group, Stack, Text } from "@mantine/core";
import { useTranslation } from "react-i18next";

export function Once({ name, password }: { name: string; password: string }) {
  const { t } = useTranslation();
  return (
    <Stack>
      <Text size="sm">{t("passwordOnce", { name })}</Text>
      <Group>
        <Code>{password}</Code>
        <CopyButton value={password}>
          {({ copied, copy }) => (
            <Button size="compact-sm" variant="default" onClick={copy}>
              {t(copied ? "copied" : "copy")}
            </Button>
          )}
        </CopyButton>
      </Group>
    </Stack>
  );
}
