//! The directory: cluster names to addresses.
//!
//! ```text
//! API ──reflectors──▶ Zone (answers prepared) ──swap──▶ one thread a core: recvmmsg → zone → sendmmsg
//!                                                            │ not ours
//!                                                            ▼
//!                                                 forward: cache, upstreams      tcp: both, by stream
//! ```
//!
//! # What it does
//! Answers the names of the Kubernetes DNS specification 1.1 from memory and forwards all others.
//! Answers are made when Services or EndpointSlices change, not when they are asked for: for a name
//! of the cluster nothing is allocated and no lock is taken per query.
//!
//! # Guarantees
//! With every API server away it goes on answering what it knew; a snapshot on disk carries that
//! over a restart of its own. A query never makes it panic (`wire` is tested with rubbish).
//!
//! # What it refuses
//! Zone transfers, updates, DNSSEC signing, IPv6 addresses of its own. Pod names by address are
//! answered for every address (CoreDNS' `pods insecure`).

mod answer;
mod follow;
mod forward;
mod health;
mod resolve;
mod snapshot;
mod tcp;
mod udp;
mod wire;
mod zone;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use berth_daemon::{Ready, Tasks};

pub use forward::Upstreams;
pub use zone::{Records, Zone};

/// What the server is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where queries come in, UDP and TCP; shared with other processes by SO_REUSEPORT.
    pub listen: SocketAddr,
    /// Where health checks come in, HTTP.
    pub health: SocketAddr,
    /// What cluster names end in: `cluster.local`.
    pub domain: String,
    /// Whom to ask for all other names.
    pub upstreams: Upstreams,
    /// Where the last known names are kept for a start without the API.
    pub snapshot: Option<PathBuf>,
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket could not be opened.
    #[error("listening on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The domain is no DNS name.
    #[error("the domain {domain:?} is no DNS name")]
    Domain {
        /// What was given.
        domain: String,
    },
}

/// The zone that answers now. Readers clone the pointer once a batch.
#[derive(Clone)]
pub(crate) struct Current(Arc<RwLock<Arc<Zone>>>);

impl Current {
    fn new(zone: Zone) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(zone))))
    }

    /// The zone as of now.
    pub(crate) fn load(&self) -> Arc<Zone> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub(crate) fn store(&self, zone: Zone) {
        let zone = Arc::new(zone);
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = zone;
    }
}

/// Answers until `tasks` is told to stop.
///
/// # Errors
/// When a socket cannot be opened or the domain is no name. Sources that are away are no error:
/// they are waited for.
pub fn run(config: Config, client: kube::Client, tasks: &Tasks) -> Result<(), StartError> {
    let domain = wire::Name::parse(&config.domain)
        .ok_or_else(|| StartError::Domain { domain: config.domain.clone() })?;
    let ready = Ready::default();
    let known = config.snapshot.as_deref().and_then(snapshot::read);
    ready.set(known.is_some());
    let current = Current::new(Zone::build(&known.unwrap_or_default(), &domain));

    health::serve(config.health, ready.clone(), tasks)?;
    let forwarder = forward::Forwarder::start(config.upstreams.clone(), tasks);
    udp::serve(config.listen, &current, &forwarder, tasks)?;
    tcp::serve(config.listen, &current, &forwarder, tasks)?;
    follow::start(client, domain, config.snapshot, current, ready, tasks);
    Ok(())
}
