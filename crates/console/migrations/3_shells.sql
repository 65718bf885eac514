CREATE TABLE shells (
  id TEXT PRIMARY KEY,
  account TEXT NOT NULL,
  address TEXT NOT NULL,
  namespace TEXT NOT NULL,
  pod TEXT NOT NULL,
  container TEXT NOT NULL,
  command TEXT NOT NULL,
  image TEXT NOT NULL,
  began_at BIGINT NOT NULL,
  seen_at BIGINT NOT NULL,
  ended_at BIGINT NOT NULL DEFAULT 0,
  ending TEXT NOT NULL DEFAULT '',
  bytes BIGINT NOT NULL DEFAULT 0,
  cut_by TEXT NOT NULL DEFAULT ''
);
CREATE INDEX shells_by_time ON shells (began_at);
CREATE INDEX shells_by_account ON shells (account, began_at);
CREATE TABLE shell_pieces (
  shell TEXT NOT NULL REFERENCES shells (id) ON DELETE CASCADE,
  number BIGINT NOT NULL,
  content TEXT NOT NULL,
  PRIMARY KEY (shell, number)
);
CREATE TABLE shell_commands (
  shell TEXT NOT NULL REFERENCES shells (id) ON DELETE CASCADE,
  number BIGINT NOT NULL,
  at BIGINT NOT NULL,
  content TEXT NOT NULL,
  PRIMARY KEY (shell, number)
);
CREATE INDEX shell_commands_by_time ON shell_commands (at);
