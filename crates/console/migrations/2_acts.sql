CREATE TABLE acts (
  id TEXT PRIMARY KEY,
  at BIGINT NOT NULL,
  account TEXT NOT NULL,
  address TEXT NOT NULL,
  verb TEXT NOT NULL,
  path TEXT NOT NULL,
  status BIGINT NOT NULL,
  milliseconds BIGINT NOT NULL
);
CREATE INDEX acts_by_time ON acts (at);
CREATE INDEX acts_by_account ON acts (account, at);
