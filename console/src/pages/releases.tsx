// Releases, running and past, and when none may start.

import { Tabs } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { useLocation } from "wouter";
import { LiveTable } from "../parts/table";
import { listOf, useScope } from "../scope";
import { Freezes } from "./freezes";

const FREEZES = "/releases/freezes";

export default function Releases() {
  const { t } = useTranslation();
  const { namespace } = useScope();
  const [location, go] = useLocation();
  return (
    <>
      <Tabs
        value={location === FREEZES ? "freezes" : "releases"}
        onChange={(tab) => go(tab === "freezes" ? FREEZES : "/releases")}
        keepMounted={false}
      >
        <Tabs.List>
          <Tabs.Tab value="releases">{t("releases")}</Tabs.Tab>
          <Tabs.Tab value="freezes">{t("freezes")}</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="releases" pt="md">
          <LiveTable
            title={t("releases")}
            path={listOf("/apis/berth.dev/v1", "releases", namespace)}
            to={(row) => `/releases/${row.namespace}/${row.name}`}
            none={t("noReleases")}
          />
        </Tabs.Panel>
        <Tabs.Panel value="freezes" pt="md">
          <Freezes />
        </Tabs.Panel>
      </Tabs>
    </>
  );
}
