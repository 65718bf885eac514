CREATE TABLE tokens (
  name TEXT PRIMARY KEY,
  account TEXT NOT NULL REFERENCES accounts (name) ON DELETE CASCADE,
  digest TEXT NOT NULL UNIQUE,
  namespaces TEXT NOT NULL,
  verbs TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  used_at BIGINT NOT NULL DEFAULT 0
);
