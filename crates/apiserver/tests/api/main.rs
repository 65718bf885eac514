//! The API server over a real store: through its in-process client, and through kubectl over TLS.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml lets only test functions, not what they call

mod access;
mod audit;
mod crd;
mod crd_rules;
mod documents;
mod fairness;
mod hostile;
mod kubectl;
mod limits;
mod list;
mod node;
mod node_authorizer;
mod patch;
mod pod_security;
mod pods;
mod policies;
mod protobuf;
mod proxy;
mod quota;
mod raw;
mod reviews;
mod server;
mod services;
mod slim;
mod watch;
mod webhooks;
mod write;
