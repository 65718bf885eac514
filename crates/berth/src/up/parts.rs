//! `berth dns` and `berth balancer`: the parts that run as pods, and outlive `berth up`.

mod dns;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use berth_balancer::l7;
use berth_daemon::Tasks;
use kube::Client;

/// Less than the pod's grace period of 30 s, so that the process ends by itself.
const BALANCER_DRAIN: Duration = Duration::from_secs(27);
const DNS_DRAIN: Duration = Duration::from_secs(2);

pub use dns::{DnsOptions, dns};

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

/// Runs the balancer until it is told to end, and then drains it.
pub fn balancer(options: BalancerOptions) -> Result<()> {
    let mut config = l7::Config::new(options.http, options.https, options.health);
    config.ingress_class = options.ingress_class;
    config.addresses = options.address.into_iter().map(address).collect();
    config.snapshot = options.snapshot;
    config.drain = BALANCER_DRAIN;
    let whole = BALANCER_DRAIN + Duration::from_secs(1);
    run(whole, async move |client, tasks| Ok(l7::run(config, client, &tasks).await?))
}

fn address(text: String) -> l7::Address {
    text.parse().map_or(l7::Address::Hostname(text), l7::Address::Ip)
}

/// [`drained`], with a client of the cluster that this runs in.
fn run<F>(drain: Duration, serve: impl FnOnce(Client, Tasks) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    drained(drain, async move |tasks: Tasks| {
        let client =
            Client::try_default().await.context("finding the cluster that this runs in")?;
        serve(client, tasks).await
    })
}

/// A part's process: until SIGTERM, then a drain.
fn drained<F>(drain: Duration, serve: impl FnOnce(Tasks) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    berth_daemon::init_telemetry(None)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let tasks = Tasks::new();
        let mut serving = std::pin::pin!(serve(tasks.clone()));
        tokio::select! {
            ended = &mut serving => return ended,
            ended = berth_daemon::wait_for_end() => ended?,
            () = tasks.stopping() => {}
        }
        tasks.cancel();
        let drained = tokio::time::timeout(drain, serving).await;
        tasks.stop(DNS_DRAIN).await;
        anyhow::ensure!(!tasks.has_panicked(), "a task failed, see above");
        drained.unwrap_or(Ok(()))
    })
}
