CREATE TABLE usage_minutes (
  minute BIGINT PRIMARY KEY,
  cpu_requested BIGINT NOT NULL,
  cpu_used BIGINT NOT NULL,
  memory_requested BIGINT NOT NULL,
  memory_used BIGINT NOT NULL
);
