// Kubernetes' quantities as numbers; numbers and images as people read them.

const UNITS: Record<string, number> = {
  n: 1e-9,
  u: 1e-6,
  m: 1e-3,
  "": 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
};

/** Cores or bytes; 0 for what is no quantity. */
export function quantity(text: string | undefined): number {
  const parts = /^([+-]?[\d.]+(?:[eE][+-]?\d+)?)([a-zA-Z]*)$/.exec(text ?? "");
  const unit = UNITS[parts?.[2] ?? ""];
  return parts && unit !== undefined ? Number(parts[1]) * unit : 0;
}

export function bytes(count: number): string {
  if (count >= 2 ** 30) return `${(count / 2 ** 30).toFixed(1)} GiB`;
  if (count >= 2 ** 20) return `${Math.round(count / 2 ** 20)} MiB`;
  return `${Math.round(count / 2 ** 10)} KiB`;
}

export function cores(count: number): string {
  return count >= 10 ? count.toFixed(0) : count.toFixed(2);
}

/** Cores, few of them as thousandths, as Kubernetes writes them: 20m. */
export function small(count: number): string {
  return count > 0 && count < 0.1 ? `${Math.max(1, Math.round(count * 1000))}m` : cores(count);
}

/** An image with as much of its digest as tells it from others. */
export function image(reference: string): string {
  return reference.replace(/@sha256:([0-9a-f]{12})[0-9a-f]+$/, "@$1");
}
