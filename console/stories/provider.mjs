// An OpenID Connect provider of a company's own: whoever types a name there is that person, and on
// the platform team.
//
//   BERTH_PROVIDER   {"port": N, "certificate": FILE, "key": FILE, "secret": "…"}

import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import { url } from "./ground.mjs";

export const told = JSON.parse(process.env.BERTH_PROVIDER ?? "null");

/** Serves it; ends with what is returned. */
export async function provide() {
  const { default: Provider } = await import("oidc-provider");
  const provider = new Provider(`https://localhost:${told.port}`, {
    clients: [
      {
        client_id: "berth",
        client_secret: told.secret,
        redirect_uris: [`${url}/oidc/callback`],
      },
    ],
    scopes: ["openid", "profile", "email", "groups"],
    claims: { groups: ["groups"], profile: ["preferred_username"] },
    // The console asks nothing but the ID token.
    conformIdTokenClaims: false,
    pkce: { required: () => true },
    cookies: { keys: ["of a test"] },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, preferred_username: id, groups: ["platform", "berth:admins"] }),
    }),
  });
  const files = { cert: readFileSync(told.certificate), key: readFileSync(told.key) };
  const server = createServer(files, provider.callback());
  await new Promise((resolve, reject) => {
    server.on("error", reject);
    server.listen(told.port, "127.0.0.1", resolve);
  });
  return () => {
    server.closeAllConnections();
    server.close();
  };
}
