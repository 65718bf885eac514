// Releases, running and past.

import { useTranslation } from "react-i18next";
import { LiveTable } from "../parts/table";
import { listOf, useScope } from "../scope";

export default function Releases() {
  const { t } = useTranslation();
  const { namespace } = useScope();
  return (
    <LiveTable
      title={t("releases")}
      path={listOf("/apis/berth.dev/v1", "releases", namespace)}
      to={(row) => `/releases/${row.namespace}/${row.name}`}
      none={t("noReleases")}
    />
  );
}
