//! The cluster's DNS: names of Services and pods to addresses, everything else by forwarding.
//!
//! ```text
//!  API server ──watch──▶ follow ──Facts──▶ Zone (immutable, every answer prepared)
//!                           │                │ swapped as a whole
//!                           ▼                ▼
//!                     snapshot file    udp: one thread a core ─┬─▶ answer from the zone
//!                                      tcp                     └─▶ forward ─▶ upstreams, cache
//! ```
//!
//! Answers from the zone allocate nothing. When the API server is away, what was known is answered
//! on; with a snapshot file, after a restart too.
//!
//! Refuses: dynamic updates, DNSSEC signing, other classes than IN.
//!
//! Source: Kubernetes DNS-Based Service Discovery 1.1; RFC 1035, 2308, 6891, 7766.

mod answer;
mod asked;
mod balancers;
mod checks;
mod config;
mod control;
mod counts;
mod facts;
mod files;
mod follow;
mod forward;
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod known;
mod metrics;
mod name;
mod objects;
mod own;
mod query;
mod query_client;
mod query_log;
mod resolv;
mod serve;
mod served;
mod server;
mod snapshot;
mod top;
mod transfer;
mod written;
mod xdp;
mod zone;

pub use checks::{Check, Healthy};
pub use config::{Cluster, Config, Site, StartError, ZoneFile, check};
pub use control::{Reload, Request, ask};
pub use counts::Totals;
pub use own::{cookie_secret, secret};
pub use query_client::{AskError, Said, Shown, query};
pub use query_log::QueryLog;
pub use resolv::upstreams;
pub use serve::tls::{CertificateError, Tls};
pub use server::{Server, run, run_for};
pub use transfer::{RulesError, Secondary, Transfers, TsigKey};
pub use written::ZoneError;
pub use xdp::{Counted, Mode, Xdp, XdpError};
pub use zone::file::Problem;
pub use zone::policy::{Order, Wanted};
