CREATE TABLE scalings (
  namespace TEXT NOT NULL,
  app TEXT NOT NULL,
  version TEXT NOT NULL,
  at BIGINT NOT NULL,
  count_before BIGINT NOT NULL,
  count_after BIGINT NOT NULL,
  who TEXT NOT NULL,
  why TEXT NOT NULL,
  PRIMARY KEY (namespace, app, version)
);
CREATE INDEX scalings_at ON scalings (namespace, app, at);
