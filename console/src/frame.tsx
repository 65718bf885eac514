// What is around every page: where one can go, which namespace, who one is.

import {
  ActionIcon,
  Anchor,
  AppShell,
  Autocomplete,
  Burger,
  Button,
  Group,
  NavLink,
  Text,
  Title,
  useComputedColorScheme,
  useMantineColorScheme,
} from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import {
  IconActivity,
  IconApps,
  IconChartBar,
  IconLanguage,
  IconListDetails,
  IconMoon,
  IconRocket,
  IconServer2,
  IconShieldCheck,
  IconSun,
  IconTerminal2,
  IconUserCircle,
  IconUsers,
} from "@tabler/icons-react";
import { Suspense, useMemo, useState } from "react";
import { useTranslation } from "react-i18next";
import { Link, Redirect, Route, Switch, useLocation } from "wouter";
import { type Person, logOut } from "./api";
import { choose } from "./i18n";
import { useLive } from "./live";
import { Now } from "./pages/now";
import { later } from "./parts/later";
import { ScopeContext } from "./scope";

const Apps = later(() => import("./pages/apps"));
const App = later(() => import("./pages/app"));
const Releases = later(() => import("./pages/releases"));
const Release = later(() => import("./pages/release"));
const Fleet = later(() => import("./pages/fleet"));
const NodePage = later(() => import("./pages/node"));
const Workloads = later(() => import("./pages/workloads"));
const Item = later(() => import("./pages/item"));
const New = later(() => import("./pages/new"));
const Audit = later(() => import("./pages/audit"));
const ShellPage = later(() => import("./pages/shell"));
const Accounts = later(() => import("./pages/accounts"));
const Me = later(() => import("./pages/me"));
const Sessions = later(() => import("./pages/sessions"));
const Usage = later(() => import("./pages/usage"));
const Replay = later(() => import("./pages/replay"));

const PAGES = [
  { path: "/now", word: "now", icon: IconActivity },
  { path: "/apps", word: "apps", icon: IconApps },
  { path: "/releases", word: "releases", icon: IconRocket },
  { path: "/fleet", word: "fleet", icon: IconServer2 },
  { path: "/workloads", word: "workloads", icon: IconListDetails },
  { path: "/report", word: "usage", icon: IconChartBar },
  { path: "/audit", word: "audit", icon: IconShieldCheck },
  { path: "/sessions", word: "sessions", icon: IconTerminal2 },
  { path: "/accounts", word: "accounts", icon: IconUsers },
] as const;

const KEPT = "berth.namespace";

export function Frame({ person, left }: { person: Person; left: () => void }) {
  const { t, i18n } = useTranslation();
  const [opened, menu] = useDisclosure();
  const [location] = useLocation();
  const [namespace, setNamespace] = useState(localStorage.getItem(KEPT) ?? "");
  const { setColorScheme } = useMantineColorScheme();
  const dark = useComputedColorScheme("light") === "dark";
  const namespaces = useLive("/api/v1/namespaces");
  const scope = useMemo(
    () => ({
      namespace,
      choose: (next: string) => {
        localStorage.setItem(KEPT, next);
        setNamespace(next);
      },
    }),
    [namespace],
  );

  return (
    <ScopeContext.Provider value={scope}>
      <AppShell
        header={{ height: 52 }}
        navbar={{ width: 190, breakpoint: "sm", collapsed: { mobile: !opened } }}
        padding="md"
      >
        <AppShell.Header px="md">
          <Group h="100%" justify="space-between" wrap="nowrap">
            <Group gap="sm" wrap="nowrap" style={{ flex: "1 1 auto", minWidth: 0 }}>
              <Burger
                opened={opened}
                onClick={menu.toggle}
                hiddenFrom="sm"
                size="sm"
                aria-label={t("menu")}
              />
              <Text fw={700} visibleFrom="xs">
                Berth
              </Text>
              <Namespace
                key={namespace}
                chosen={namespace}
                names={namespaces.rows.map((row) => row.name)}
                choose={scope.choose}
              />
            </Group>
            <Group gap="xs" wrap="nowrap" style={{ flex: "none" }}>
              <ActionIcon
                variant="subtle"
                aria-label={t("language")}
                onClick={() => choose(i18n.language === "zh" ? "en" : "zh")}
              >
                <IconLanguage size={18} />
              </ActionIcon>
              <ActionIcon
                variant="subtle"
                aria-label={t("theme")}
                onClick={() => setColorScheme(dark ? "light" : "dark")}
              >
                {dark ? <IconSun size={18} /> : <IconMoon size={18} />}
              </ActionIcon>
              <ActionIcon
                variant="subtle"
                component={Link}
                href="/me"
                aria-label={t("own")}
                hiddenFrom="sm"
              >
                <IconUserCircle size={18} />
              </ActionIcon>
              <Anchor component={Link} href="/me" size="sm" visibleFrom="sm" title={t("own")}>
                {person.name}
              </Anchor>
              <Button
                size="compact-sm"
                variant="default"
                onClick={() => void logOut().finally(left)}
              >
                {t("logOut")}
              </Button>
            </Group>
          </Group>
        </AppShell.Header>
        <AppShell.Navbar p="xs">
          {PAGES.map((page) => (
            <NavLink
              key={page.path}
              component={Link}
              href={page.path}
              label={t(page.word)}
              leftSection={<page.icon size={18} />}
              active={location.startsWith(page.path)}
              onClick={menu.close}
            />
          ))}
        </AppShell.Navbar>
        <AppShell.Main>
          <Suspense fallback={<Text>{t("loading")}</Text>}>
            <Switch>
              <Route path="/now" component={Now} />
              <Route path="/apps" component={Apps} />
              <Route path="/apps/:namespace/:name" component={App} />
              <Route path="/releases" component={Releases} />
              <Route path="/releases/freezes" component={Releases} />
              <Route path="/releases/:namespace/:name" component={Release} />
              <Route path="/fleet" component={Fleet} />
              <Route path="/fleet/:name" component={NodePage} />
              <Route path="/workloads/:group?/:version?/:resource?" component={Workloads} />
              <Route path="/item/*" component={Item} />
              <Route path="/new/:group/:version/:resource" component={New} />
              <Route path="/audit" component={Audit} />
              <Route path="/accounts" component={Accounts} />
              <Route path="/me" component={Me} />
              <Route path="/shell/:namespace/:pod/:container?" component={ShellPage} />
              <Route path="/report" component={Usage} />
              <Route path="/sessions" component={Sessions} />
              <Route path="/sessions/:id" component={Replay} />
              <Route path="/">
                <Redirect to="/now" replace />
              </Route>
              <Route>
                <Title order={1} size="h3">
                  {t("notFound")}
                </Title>
              </Route>
            </Switch>
          </Suspense>
        </AppShell.Main>
      </AppShell>
    </ScopeContext.Provider>
  );
}

/** Who may not list namespaces types the name of theirs. */
function Namespace(given: { chosen: string; names: string[]; choose: (name: string) => void }) {
  const { t } = useTranslation();
  const [typed, setTyped] = useState(given.chosen);
  return (
    <Autocomplete
      size="xs"
      style={{ flex: "0 1 190px", minWidth: 80 }}
      aria-label={t("namespace")}
      placeholder={t("allNamespaces")}
      data={given.names}
      value={typed}
      limit={100}
      clearable
      clearButtonProps={{ "aria-label": t("allNamespaces") }}
      onChange={(text) => {
        setTyped(text);
        if (text === "" || given.names.includes(text)) given.choose(text);
      }}
      onKeyDown={(event) => {
        if (event.key === "Enter") given.choose(typed);
      }}
    />
  );
}
