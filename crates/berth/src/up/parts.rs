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
    #[arg(long, default_value = "127.0.0.1:10260")]
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
    /// A proxy before this one, by network: what it says of clients is believed; repeatable
    #[arg(long = "trusted-proxy", value_name = "CIDR", env = "BERTH_TRUSTED_PROXIES")]
    #[arg(value_delimiter = ',')]
    trusted_proxies: Vec<ipnet::IpNet>,
    /// Proxies before this one, by network, that begin each connection with a PROXY header
    #[arg(long, value_name = "CIDR,...", env = "BERTH_PROXY_PROTOCOL_FROM")]
    #[arg(value_delimiter = ',')]
    proxy_protocol_from: Vec<ipnet::IpNet>,
    /// Tell pods of clients by RFC 7239's Forwarded too
    #[arg(long, env = "BERTH_FORWARDED")]
    forwarded: bool,
    /// Compress answers for clients that ask for it
    #[arg(long, env = "BERTH_COMPRESS")]
    compress: bool,
    /// The longest body of a request where its route says nothing, bytes
    #[arg(long, value_name = "BYTES", env = "BERTH_MAX_BODY")]
    max_body: Option<u64>,
    /// Which requests are logged: off, errors, or one in so many (1 is all)
    #[arg(long, value_name = "off|errors|NUMBER", env = "BERTH_ACCESS_LOG")]
    #[arg(default_value = "errors", value_parser = access_log)]
    access_log: l7::AccessLog,
    #[command(flatten)]
    sites: crate::balancer::SiteOptions,
}

fn access_log(text: &str) -> Result<l7::AccessLog, String> {
    match text {
        "off" => Ok(l7::AccessLog::Off),
        "errors" => Ok(l7::AccessLog::Errors),
        many => match many.parse() {
            Ok(many @ 1..) => Ok(l7::AccessLog::OneIn(many)),
            _ => Err("off, errors, or a number from 1 on".to_owned()),
        },
    }
}

/// Runs the balancer until it is told to end, and then drains it.
pub fn balancer(options: BalancerOptions) -> Result<()> {
    let mut config = l7::Config::new(options.http, options.https, options.health);
    config.ingress_class = options.ingress_class;
    config.addresses = options.address.into_iter().map(address).collect();
    config.snapshot = options.snapshot;
    config.trusted_proxies = options.trusted_proxies;
    config.proxy_protocol_from = options.proxy_protocol_from;
    config.forwarded = options.forwarded;
    config.compress = options.compress;
    config.max_body = options.max_body;
    config.access_log = options.access_log;
    config.drain = BALANCER_DRAIN;
    let whole = BALANCER_DRAIN + Duration::from_secs(1);
    run(whole, async move |client, tasks| {
        let sites = crate::balancer::sites(&options.sites, &client, &tasks).await?;
        Ok(l7::run(config, client, sites, &tasks).await?)
    })
}

fn address(text: String) -> l7::Address {
    text.parse().map_or(l7::Address::Hostname(text), l7::Address::Ip)
}

/// [`drained`], with a client of the cluster that this runs in.
pub fn run<F>(drain: Duration, serve: impl FnOnce(Client, Tasks) -> F) -> Result<()>
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
pub fn drained<F>(drain: Duration, serve: impl FnOnce(Tasks) -> F) -> Result<()>
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
