import "@mantine/core/styles.css";
import "./i18n";
import "./page.css";

import { MantineProvider, createTheme } from "@mantine/core";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Refused } from "./api";
import { Entry } from "./entry";

const CHOICES = {
  withScrollArea: false,
  styles: { options: { maxHeight: 240, overflowY: "auto" as const } },
};
const theme = createTheme({
  fontFamily: "system-ui, 'Segoe UI', 'PingFang SC', 'Noto Sans CJK SC', sans-serif",
  fontFamilyMonospace: "ui-monospace, 'SF Mono', Menlo, Consolas, monospace",
  primaryShade: { light: 8, dark: 8 },
  defaultRadius: "sm",
  components: {
    // All that a page shows stands in one of its regions, what opens in it too.
    Combobox: { defaultProps: { withinPortal: false } },
    // Choices are scrolled by arrow keys from their field, so it is they that scroll.
    Select: { defaultProps: CHOICES },
    Autocomplete: { defaultProps: CHOICES },
    // Who has no mouse scrolls a table that has no link in it.
    TableScrollContainer: {
      defaultProps: { scrollAreaProps: { viewportProps: { tabIndex: 0 } } },
    },
  },
});

const queries = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 10_000,
      // What was refused stays refused.
      retry: (count, error) => !(error instanceof Refused && error.status < 500) && count < 3,
    },
  },
});

const root = document.getElementById("root");
if (root) {
  createRoot(root).render(
    <StrictMode>
      <MantineProvider theme={theme} defaultColorScheme="auto">
        <QueryClientProvider client={queries}>
          <Entry />
        </QueryClientProvider>
      </MantineProvider>
    </StrictMode>,
  );
}
