// A dialog about one thing, named after it.

import { CloseButton, Group, Modal, Title } from "@mantine/core";
import type { ReactNode } from "react";
import { useTranslation } from "react-i18next";

/** With `once` it shows what is shown this once, which does not go by a click beside it. */
export function Dialog({
  name,
  once,
  close,
  children,
}: {
  name: string;
  once: boolean;
  close: () => void;
  children: ReactNode;
}) {
  const { t } = useTranslation();
  return (
    <Modal.Root opened closeOnClickOutside={!once} closeOnEscape={!once} onClose={close}>
      <Modal.Overlay />
      {/* Without the kit's own head: a page has one banner. */}
      <Modal.Content aria-label={name}>
        <Modal.Body>
          <Group justify="space-between" mb="md">
            <Title order={2} size="h4">
              {name}
            </Title>
            <CloseButton aria-label={t("close")} onClick={close} />
          </Group>
          {children}
        </Modal.Body>
      </Modal.Content>
    </Modal.Root>
  );
}
