//! `berth dns` and `berth balancer`: the parts that run as pods, and outlive `berth up`.

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
    /// Whose `nameserver` lines are asked for all other names
    #[arg(long, default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
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
    let text = std::fs::read_to_string(&options.resolv_conf)
        .with_context(|| format!("reading {}", options.resolv_conf.display()))?;
    let upstreams = berth_dns::upstreams(&text, &[options.listen]);
    let mut config = berth_dns::Config::new(options.listen, options.health, upstreams);
    config.domains = vec![options.domain];
    config.snapshot = options.snapshot;
    run(DNS_DRAIN, async move |client, tasks| {
        berth_dns::run(config, client, &tasks).await?;
        tasks.stopping().await;
        Ok(())
    })
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

/// A part's process: a client of the cluster it runs in, until SIGTERM, then a drain.
fn run<F>(drain: Duration, serve: impl FnOnce(Client, Tasks) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    berth_daemon::init_telemetry(None)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let client =
            Client::try_default().await.context("finding the cluster that this runs in")?;
        let tasks = Tasks::new();
        let mut serving = std::pin::pin!(serve(client, tasks.clone()));
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
