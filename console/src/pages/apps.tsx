// All apps: health, version, replicas.

import { Button } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { Link } from "wouter";
import { LiveTable } from "../parts/table";
import { listOf, useScope } from "../scope";

export default function Apps() {
  const { t } = useTranslation();
  const { namespace } = useScope();
  return (
    <LiveTable
      title={t("apps")}
      path={listOf("/apis/berth.dev/v1", "apps", namespace)}
      to={(row) => `/apps/${row.namespace}/${row.name}`}
      none={t("noApps")}
      extra={
        <Button component={Link} href="/new/berth.dev/v1/apps" size="xs">
          {t("make")}
        </Button>
      }
    />
  );
}
