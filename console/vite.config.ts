import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// `npm run dev` shows the page of the sources against a console that runs (`berth console serve`).
const behind = { target: "https://127.0.0.1:8444", secure: false, changeOrigin: true };

export default defineConfig({
  plugins: [react()],
  build: { target: "es2023", assetsInlineLimit: 0 },
  server: {
    proxy: {
      "^/session($|[?])": behind,
      "/live": behind,
      "/acts": behind,
      "^/shell($|[?])": { ...behind, ws: true },
      "^/shells($|[?/])": behind,
      "^/usage[?/]": behind,
      "^/components$": behind,
      "^/load/": behind,
      "^/trends[?]": behind,
      "^/scalings[?]": behind,
      "/k8s": behind,
    },
  },
});
