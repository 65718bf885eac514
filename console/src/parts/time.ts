// Times as people say them.

/** `5s`, `12m`, `3h`, `9d`: how long ago. */
export function since(then: string): string {
  const seconds = Math.max(0, Math.floor((Date.now() - Date.parse(then)) / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}
