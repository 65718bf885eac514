// What is wrong with an object, read off the columns that its table has.

import { type Row, type Table, cell } from "../live";

const FINE = new Set(["Running", "Completed", "Succeeded", "Terminating"]);
const STARTING = new Set(["Pending", "ContainerCreating", "PodInitializing"]);
/** A pod may take so long to start before it counts as broken, milliseconds. */
const PATIENCE = 60_000;

export function podFault(table: Table, row: Row): string {
  const status = cell(table, row, "Status");
  const age = Date.now() - Date.parse(row.created ?? "");
  if (STARTING.has(status) || status.startsWith("Init:")) return age > PATIENCE ? status : "";
  if (!FINE.has(status)) return status;
  const [ready, all] = cell(table, row, "Ready").split("/");
  if (status === "Running" && ready !== all && age > PATIENCE) return `${ready}/${all}`;
  return "";
}

export function nodeFault(table: Table, row: Row): string {
  const status = cell(table, row, "Status");
  return status === "Ready" ? "" : status;
}

export function workloadFault(table: Table, row: Row): string {
  const ready = cell(table, row, "Ready");
  const [have, want] = ready.split("/");
  return want !== undefined && have !== want ? ready : "";
}
