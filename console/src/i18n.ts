// Words in the person's language: as chosen, else as the browser says.

import i18next from "i18next";
import { initReactI18next } from "react-i18next";
import en from "./words/en";
import zh from "./words/zh";

const KEPT = "berth.language";
const kept = localStorage.getItem(KEPT);
const language = kept ?? (navigator.language.startsWith("zh") ? "zh" : "en");

void i18next.use(initReactI18next).init({
  lng: language,
  fallbackLng: "en",
  resources: { en: { translation: en }, zh: { translation: zh } },
  // React escapes what it shows.
  interpolation: { escapeValue: false },
});
document.documentElement.lang = language;

export function choose(next: "en" | "zh"): void {
  localStorage.setItem(KEPT, next);
  document.documentElement.lang = next;
  void i18next.changeLanguage(next);
}
