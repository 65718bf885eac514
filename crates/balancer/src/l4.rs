//! Service addresses in the kernel: ClusterIPs, node ports and external IPs through nftables.
//!
//! ```text
//! API ──reflectors──▶ Snapshot ──Ruleset::change()──▶ nft -f - (one transaction)
//! ```
//!
//! # What it does
//! - One table, `ip INSTANCE`. A new connection is looked up in a verdict map (address, protocol,
//!   port), which says among how many endpoints to pick; a number drawn at random and the same key
//!   give the endpoint in a second map. Or the client goes where it went before, when the Service
//!   asks for `ClientIP` affinity.
//! - Clients outside `loadBalancerSourceRanges` get no answer from a load balancer's address.
//! - What a change costs does not depend on how many Services there are (see `ruleset`).
//! - A Service without endpoints refuses (TCP reset, ICMP port unreachable), and so does every
//!   address of the service range that belongs to nobody: a client fails at once and never hangs.
//! - An open connection stays with its endpoint until it ends, whatever happens to the rules. UDP
//!   flows to an endpoint that went are forgotten, so that the client's next datagram moves on.
//! - Pods see the client's address, except where the answer would miss us: a pod that reaches
//!   itself through its Service, node ports on loopback, endpoints off this machine.
//!
//! # Guarantees
//! What is in the kernel stays there when this process stops, dies, or loses the API server.
//! On a start the old table works on until the first full list, then one transaction replaces it.
//! Affinity is the one thing that such a replacement forgets.
//!
//! # What it refuses
//! IPv6, more machines than one (an endpoint is local when it lies in this machine's pod range),
//! and touching other tables: when another table drops what is forwarded (Docker does), no rule of
//! ours can take that back. This is found at the start and logged with the command that allows it.
//!
//! # Source
//! kube-proxy's nftables mode (KEP-3866) for the shape; KEP-1669 and KEP-2086 for the policies.

mod conntrack;
mod driver;
pub mod front;
mod host;
mod nft;
mod ruleset;

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, watcher};
use tokio::sync::{Notify, watch};

use berth_daemon::{Ready, Tasks};

use crate::follow::follow;

pub use driver::run;
pub use nft::NftError;

/// What the rules are made for.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names the table; two instances on a machine differ in it, and in both ranges.
    pub instance: String,
    /// The addresses of this machine's pods.
    pub pod_range: Ipv4Net,
    /// The addresses that Services get.
    pub service_range: Ipv4Net,
    /// The machine's own address towards its pods, the bridge's.
    pub node_address: Ipv4Addr,
    /// The bridge that the pods hang on.
    pub bridge: String,
}

/// What the rules are made from, in any order.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Every Service.
    pub services: Vec<Arc<Service>>,
    /// Every EndpointSlice that belongs to a Service.
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// Follows Services and EndpointSlices and keeps the kernel in step; the answer is raised once the
/// first full set of rules is in the kernel.
pub fn start(client: kube::Client, config: Config, tasks: &Tasks) -> Ready {
    let (sender, snapshots) = watch::channel(None);
    let changed = Arc::new(Notify::new());
    let services = follow(
        "services",
        watcher(kube::Api::<Service>::all(client.clone()), watcher::Config::default()),
        changed.clone(),
        tasks,
    );
    let slices = follow("endpoints", berth_api::endpoints::follow(client), changed.clone(), tasks);
    tasks.spawn_until_stop("service-snapshots", async move {
        loop {
            changed.notified().await;
            if let (Some(services), Some(slices)) = (services.objects(), slices.objects()) {
                sender.send_replace(Some(Arc::new(Snapshot { services, slices })));
            }
        }
    });
    let ready = Ready::default();
    tasks.spawn_until_stop("service-rules", run(config, snapshots, ready.clone()));
    ready
}

/// Removes the table of `instance` from the kernel; one that is not there is fine.
///
/// # Errors
/// When `nft` is missing, refuses or does not answer in time.
pub async fn teardown(instance: &str) -> Result<(), NftError> {
    nft::load(&ruleset::without_table(instance)).await
}
