// A line to type in.

import { TextInput } from "@mantine/core";

export function Field(given: { label: string; value: string; set: (value: string) => void }) {
  const { label, value, set } = given;
  return (
    <TextInput label={label} value={value} onChange={(event) => set(event.currentTarget.value)} />
  );
}
