CREATE TABLE usage_turns (
  minute BIGINT PRIMARY KEY
);
CREATE TABLE usage_hours (
  hour BIGINT NOT NULL,
  scope TEXT NOT NULL,
  namespace TEXT NOT NULL,
  app TEXT NOT NULL,
  writer TEXT NOT NULL,
  samples BIGINT NOT NULL,
  cpu_requested BIGINT NOT NULL,
  cpu_used BIGINT NOT NULL,
  cpu_spread TEXT NOT NULL,
  memory_requested BIGINT NOT NULL,
  memory_used BIGINT NOT NULL,
  memory_spread TEXT NOT NULL,
  PRIMARY KEY (scope, hour, namespace, app, writer)
);
