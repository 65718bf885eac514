// Requests, as an App's clients send them.

import { request } from "node:http";
import { again } from "./ground.mjs";

/** Asks the App through the balancer until told to stop. */
export async function knock(page, app) {
  const told = () =>
    page.evaluate(async (app) => {
      const path = `/k8s/apis/berth.dev/v1/namespaces/default/apps/${app}`;
      return (await (await fetch(path)).json()).status.url;
    }, app);
  const address = await again(told);
  const { host, port } = new URL(address);
  const clock = setInterval(() => {
    const asked = request({ host: "127.0.0.1", port, headers: { host } });
    asked.on("response", (answer) => answer.resume());
    asked.on("error", () => {});
    asked.end();
  }, 20);
  return () => clearInterval(clock);
}
