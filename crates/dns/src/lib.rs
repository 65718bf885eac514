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
//! Refuses: zone transfers, dynamic updates, DNSSEC signing, other classes than IN.
//!
//! Source: Kubernetes DNS-Based Service Discovery 1.1; RFC 1035, 2308, 6891, 7766.

mod answer;
mod facts;
mod follow;
mod forward;
mod health;
mod name;
mod query;
mod resolv;
mod serve;
mod snapshot;
mod zone;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use berth_daemon::{Ready, Tasks};

pub use resolv::upstreams;

/// What the DNS server needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// UDP and TCP. Other processes may listen there too: the kernel spreads the queries.
    pub listen: SocketAddr,
    /// `GET /` answers 200 here once names are known, 503 before.
    pub health: SocketAddr,
    /// The cluster's domain, such as `cluster.local`.
    pub domain: String,
    /// Servers asked for all other names, in this order.
    pub upstreams: Vec<SocketAddr>,
    /// Where what is known is kept for the next start; `None` for nowhere.
    pub snapshot: Option<PathBuf>,
    /// Threads that answer over UDP; `None` for one a core.
    pub threads: Option<usize>,
}

impl Config {
    /// The defaults: `cluster.local`, one thread a core, no snapshot.
    pub fn new(listen: SocketAddr, health: SocketAddr, upstreams: Vec<SocketAddr>) -> Self {
        let domain = "cluster.local".to_owned();
        Self { listen, health, domain, upstreams, snapshot: None, threads: None }
    }
}

/// What can keep the server from starting.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The domain is no domain name.
    #[error("domain {domain:?} is no domain name; such as cluster.local is one")]
    Domain {
        /// As given.
        domain: String,
    },
    /// A port could not be opened.
    #[error("listen on {address} ({protocol})")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// `UDP`, `TCP` or `health`.
        protocol: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("start a thread")]
    Thread(#[source] std::io::Error),
}

/// Starts the server in `tasks` and returns once its ports are open.
///
/// # Errors
/// When the domain is none, or a port cannot be opened.
pub async fn run(config: Config, client: kube::Client, tasks: &Tasks) -> Result<(), StartError> {
    let domain = name::Domain::parse(&config.domain)
        .ok_or_else(|| StartError::Domain { domain: config.domain.clone() })?;
    let ready = Ready::default();
    let known = match &config.snapshot {
        Some(path) => snapshot::load(path).await,
        None => None,
    };
    ready.set(known.is_some());
    let facts = known.unwrap_or_default();
    let zone = Arc::new(zone::Current::new(zone::Zone::build(&domain, &facts)));
    let forward = Arc::new(forward::Forward::new(config.upstreams.clone(), Arc::clone(&zone)));

    health::serve(config.health, ready.clone(), tasks).await?;
    serve::tcp(config.listen, Arc::clone(&zone), Arc::clone(&forward), tasks)?;
    serve::udp(config.listen, config.threads, Arc::clone(&zone), forward, tasks)?;
    follow::start(client, follow::Target { domain, zone, ready, snapshot: config.snapshot }, tasks);
    Ok(())
}
