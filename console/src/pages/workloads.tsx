// Any kind of object as a table.

import { Button, Select } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { Link, useLocation } from "wouter";
import { base, useKinds } from "../parts/kinds";
import { LiveTable } from "../parts/table";
import { listOf, useScope } from "../scope";

interface Params {
  group?: string;
  version?: string;
  resource?: string;
}

export default function Workloads({ params }: { params: Params }) {
  const { t } = useTranslation();
  const [, go] = useLocation();
  const { namespace } = useScope();
  const kinds = useKinds();
  const { group = "core", version = "v1", resource = "pods" } = params;
  const known = kinds.data?.find((one) => one.group === group && one.resource === resource);
  const scope = known && !known.namespaced ? "" : namespace;
  const choices = (kinds.data ?? []).map((one) => ({
    value: `${one.group}/${one.version}/${one.resource}`,
    label: one.group === "core" ? one.kind : `${one.kind} (${one.group})`,
  }));
  return (
    <LiveTable
      key={`${group}/${resource}`}
      title={known?.kind ?? resource}
      path={listOf(base(group, version), resource, scope)}
      to={(row) => `/item/${group}/${version}/${resource}/${row.namespace || "-"}/${row.name}`}
      extra={
        <>
          <Button
            component={Link}
            href={`/new/${group}/${version}/${resource}`}
            size="xs"
            variant="default"
          >
            {t("make")}
          </Button>
          <Select
            size="xs"
            w={260}
            aria-label={t("kind")}
            data={choices}
            value={`${group}/${version}/${resource}`}
            searchable
            limit={100}
            onChange={(next) => next && go(`/workloads/${next}`)}
          />
        </>
      }
    />
  );
}
