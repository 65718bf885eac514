//! The API server: Kubernetes' API over a [`berth_store::Store`], for every kind the same code.
//!
//! ```text
//! tls ─▶ server: authentication ─▶ limits ─▶ rbac ─▶ verbs ─▶ rules ─▶ record ─▶ store
//!                  in-process client ─┘          └▶ subresources, kubelet (log, exec …)
//! ```
//!
//! What a kind looks like is berth-schema's to know; `rules` holds the little that Kubernetes does
//! for single kinds; everything else is generic over JSON values. The idea of one handler driven by
//! schemas is kube-apiserver's own for custom resources, here used for all.
//!
//! Refuses: aggregated API servers, conversion webhooks.

mod admission;
pub mod audit;
mod authentication;
mod bootstrap;
mod call;
mod connect;
mod discovery;
mod documents;
mod events;
mod follow;
mod in_process;
mod issuer;
mod kubelet;
mod limits;
mod media;
mod metrics;
mod metrics_api;
mod object;
mod openapi_protobuf;
mod path;
mod pki;
mod proxy;
mod rbac;
mod record;
mod respond;
mod reviews;
mod rules;
mod selector;
mod server;
mod status;
mod subresources;
mod tls;
mod tokens;
mod user;
mod verbs;
mod write;

use berth_schema::protobuf;

pub use connect::{ApiServer, Config, OpenError};
pub use issuer::Issuer;
pub use pki::{KeyPair, Pki, PkiError, RequestError, Sans, Usage};
pub use rules::service::ServiceRange;
pub use tls::TlsError;
pub use tokens::TokenError;
pub use user::User;
