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
mod asked;
mod config;
mod control;
mod counts;
mod facts;
mod files;
mod follow;
mod forward;
mod health;
mod known;
mod name;
mod objects;
mod own;
mod query;
mod query_client;
mod resolv;
mod serve;
mod snapshot;
mod written;
mod xdp;
mod zone;

use std::sync::Arc;

use berth_daemon::{Ready, Tasks};

pub use config::{Cluster, Config, Site, StartError, ZoneFile, check};
pub use control::{Request, ask};
pub use counts::Totals;
pub use query_client::{AskError, Said, Shown, query};
pub use resolv::upstreams;
pub use written::ZoneError;
pub use xdp::{Counted, Mode, Xdp, XdpError};
pub use zone::file::Problem;
pub use zone::policy::{Order, Wanted};

/// Starts the server in `tasks` for the cluster of `client`, and returns once its ports are open.
///
/// # Errors
/// When the configuration cannot be right, or a port cannot be opened.
pub async fn run(config: Config, client: kube::Client, tasks: &Tasks) -> Result<(), StartError> {
    let cluster = Cluster { client, site: None, snapshot: config.snapshot.clone() };
    run_for(config, vec![cluster], tasks).await
}

/// [`run`], for any number of clusters; for none it answers from zone files and forwards.
///
/// # Errors
/// When the configuration cannot be right, or a port cannot be opened.
pub async fn run_for(
    config: Config,
    clusters: Vec<Cluster>,
    tasks: &Tasks,
) -> Result<(), StartError> {
    let config::Valid { domains, policies, own, sites, routes } = config.read()?;
    let ready = Ready::default();
    let mut known = Vec::new();
    let mut known_all = true;
    for cluster in &clusters {
        let facts = match &cluster.snapshot {
            Some(path) => snapshot::load(path).await,
            None => None,
        };
        known_all &= facts.is_some();
        let site = match &cluster.site {
            Some(site) => *sites.get(site).ok_or_else(|| StartError::Site {
                site: site.clone(),
                what: "a cluster is there, and no networks are said to be",
            })?,
            None => 0,
        };
        known.push((facts.unwrap_or_default(), site));
    }
    ready.set(known_all);
    let zone = Arc::new(zone::Current::default());
    let served = if clusters.is_empty() { vec![] } else { domains.clone() };
    let written = Arc::new(written::Written::new(policies.clone(), served, Arc::clone(&zone)));
    let files = files::Files::load(config.zones.clone(), Arc::clone(&written)).await?;
    let all = zone::Clusters::new(domains, policies, known);
    let known = Arc::new(known::Clusters::new(all, Arc::clone(&zone)));
    let forward = forward::Forward::new(routes, Arc::clone(&zone), config.answers, config.longest);
    let forward = Arc::new(forward);
    let own = Arc::new(own);
    let reload = tokio::sync::watch::Sender::new(0);

    health::serve(config.health, ready.clone(), tasks).await?;
    serve::tcp(config.listen, Arc::clone(&zone), Arc::clone(&forward), Arc::clone(&own), tasks)?;
    let shared = (Arc::clone(&zone), Arc::clone(&forward));
    let bounds = (config.answers, config.rate);
    let counts = serve::udp(config.listen, config.threads, shared, own, bounds, tasks)?;
    if let Some(wanted) = &config.xdp {
        // After the sockets: what the kernel passes up must find them.
        xdp::start(wanted, config.listen, config.rate, Arc::clone(&zone), tasks)?;
    }
    if let Some(path) = &config.control {
        control::serve(path, control::State { zone, forward, counts }, tasks)?;
    }
    files.follow(reload.subscribe(), tasks);
    let waited = Arc::new(follow::Waited::new(clusters.len(), ready));
    for (number, Cluster { client, snapshot, .. }) in clusters.into_iter().enumerate() {
        let (clusters, waited) = (Arc::clone(&known), Arc::clone(&waited));
        let changed = tokio::sync::watch::Sender::new(0);
        if let Some(path) = snapshot {
            let (clusters, changes) = (Arc::clone(&known), changed.subscribe());
            follow::snapshots(clusters, number, path, changes, tasks);
        }
        if let Some(namespace) = &config.zone_namespace {
            let (written, clusters) = (Arc::clone(&written), Arc::clone(&known));
            let objects = objects::Objects { written, clusters, number, changed: changed.clone() };
            objects.restore(&known.facts(number));
            objects.follow(client.clone(), namespace, tasks);
        }
        follow::start(client, follow::Target { clusters, number, waited, changed }, tasks);
    }
    Ok(())
}
