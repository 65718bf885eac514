//! `berth dns` and `berth balancer`: the parts that run as pods, and outlive `berth up`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use berth_daemon::Tasks;

/// `berth dns`.
#[derive(clap::Args, Debug)]
pub struct DnsOptions {
    /// Where queries come in, UDP and TCP
    #[arg(long, default_value = "0.0.0.0:10053")]
    listen: SocketAddr,
    /// Where health checks come in, HTTP
    #[arg(long)]
    health: SocketAddr,
    /// What cluster names end in
    #[arg(long, default_value = "cluster.local")]
    domain: String,
    /// Where the last known names are kept for a start without the API
    #[arg(long)]
    snapshot: Option<PathBuf>,
}

/// `berth balancer`.
#[derive(clap::Args, Debug)]
pub struct BalancerOptions {
    /// Where HTTP requests come in
    #[arg(long, default_value = "0.0.0.0:8080")]
    http: SocketAddr,
    /// Where TLS connections come in
    #[arg(long, default_value = "0.0.0.0:8443")]
    https: SocketAddr,
    /// Where health checks come in, HTTP
    #[arg(long)]
    health: SocketAddr,
    /// The IngressClass whose rules are followed
    #[arg(long, default_value = "berth")]
    ingress_class: String,
    /// What the status of an Ingress says of where it answers
    #[arg(long)]
    address: Option<String>,
    /// Where the last known routes are kept for a start without the API
    #[arg(long)]
    snapshot: Option<PathBuf>,
}

/// Runs the cluster's DNS until it is told to end.
pub fn dns(options: DnsOptions) -> Result<()> {
    todo_dns(options)
}

/// Runs the balancer until it is told to end, and then drains it.
pub fn balancer(options: BalancerOptions) -> Result<()> {
    todo_balancer(options)
}
