// What is wrong with an object, read off the columns that its table has.

import { type Row, type Table, cell } from "../live";

const FINE = new Set(["Running", "Completed", "Succeeded"]);
const STARTING = new Set(["Pending", "ContainerCreating", "PodInitializing"]);
/** A pod may take so long to start, or to end past its grace, before it counts as broken: ms. */
const PATIENCE = 60_000;

export function podFault(table: Table, row: Row): string {
  const status = cell(table, row, "Status");
  // The time at which it is to be gone: its grace is in it.
  if (row.ending) return Date.now() - Date.parse(row.ending) > PATIENCE ? status : "";
  const age = Date.now() - Date.parse(row.created ?? "");
  if (STARTING.has(status) || status.startsWith("Init:")) return age > PATIENCE ? status : "";
  if (!FINE.has(status)) return status;
  const [ready, all] = cell(table, row, "Ready").split("/");
  if (status === "Running" && ready !== all && age > PATIENCE) return `${ready}/${all}`;
  return "";
}

/** A node that was told to take no more pods is as well as before. */
export function nodeFault(table: Table, row: Row): string {
  const status = cell(table, row, "Status");
  return status.split(",").includes("Ready") ? "" : status;
}

export function workloadFault(table: Table, row: Row): string {
  const ready = cell(table, row, "Ready");
  const [have, want] = ready.split("/");
  return want !== undefined && have !== want ? ready : "";
}

/** What its App's instances cannot do, as the App itself says. */
export function appFault(table: Table, row: Row): string {
  return cell(table, row, "Failing");
}

export function daemonFault(table: Table, row: Row): string {
  const [have, want] = [cell(table, row, "Ready"), cell(table, row, "Desired")];
  return have !== want ? `${have}/${want}` : "";
}

/** Before Kubernetes 1.31 a Job's table does not say that it failed. */
export function jobFault(table: Table, row: Row): string {
  const status = cell(table, row, "Status");
  return status.startsWith("Failed") ? status : "";
}

export function claimFault(table: Table, row: Row): string {
  const status = cell(table, row, "Status");
  const age = Date.now() - Date.parse(row.created ?? "");
  return status === "Lost" || (status === "Pending" && age > PATIENCE) ? status : "";
}

const WELL = /^(Running|Ready|Active|Succeeded|Completed?|Bound|Available|True|Established)$/;
const ILL = /Error|BackOff|Fail|Evicted|NotReady|Unknown|Invalid|Aborted|OOM|Warning|Lost|Never/;
const TOLD = new Set(["Status", "Phase", "Type"]);

/** How a cell under the column `name` is coloured: well, ill, on its way, or not at all. */
export function tone(name: string, value: unknown): string | undefined {
  if (!TOLD.has(name) || typeof value !== "string" || !value) return undefined;
  if (ILL.test(value)) return "ill";
  if (name === "Type") return undefined;
  return WELL.test(value) ? "well" : "waits";
}
