CREATE TABLE accounts (
  name TEXT PRIMARY KEY,
  password TEXT NOT NULL,
  member_of TEXT NOT NULL,
  disabled BIGINT NOT NULL DEFAULT 0,
  created_at BIGINT NOT NULL
);
CREATE TABLE sessions (
  id TEXT PRIMARY KEY,
  account TEXT NOT NULL REFERENCES accounts (name) ON DELETE CASCADE,
  token TEXT NOT NULL UNIQUE,
  previous_token TEXT,
  csrf TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  rotated_at BIGINT NOT NULL,
  used_at BIGINT NOT NULL
);
CREATE INDEX sessions_by_previous ON sessions (previous_token);
CREATE INDEX sessions_by_account ON sessions (account);
