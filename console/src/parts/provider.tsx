// The way in through an OpenID Connect provider, where the console knows one.

import { Button } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import { send } from "../api";

export const PROVIDER = ["oidc"];

export function Provider() {
  const { t } = useTranslation();
  const about = useQuery({
    queryKey: PROVIDER,
    queryFn: async (): Promise<string | null> =>
      (await (await send("/oidc/about")).json()).issuer ?? null,
    staleTime: Infinity,
    retry: false,
  });
  if (!about.data) return null;
  const host = about.data.replace(/^https:\/\//, "");
  return (
    <Button component="a" href="/oidc" variant="default">
      {t("logInWith", { host })}
    </Button>
  );
}
