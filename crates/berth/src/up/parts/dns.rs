//! `berth dns`: the server as a pod or anywhere else, and what people ask it.

mod servers;
mod settings;
mod verbs;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use berth_daemon::Tasks;
use berth_dns::{Cluster, Config, QueryLog};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{SignalKind, signal};

use super::{DNS_DRAIN, drained};
use crate::cli::Global;

/// How often optional settings are looked at; they are some hundred bytes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// `berth dns`.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DnsOptions {
    #[command(subcommand)]
    verb: Option<verbs::Verb>,
    /// Where queries come in, UDP and TCP
    #[arg(long, default_value = "0.0.0.0:10053")]
    listen: SocketAddr,
    /// Where health checks come in, HTTP
    #[arg(long, default_value = "127.0.0.1:10054")]
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
    /// Write some of the queries to this file
    #[arg(long, value_name = "FILE")]
    query_log: Option<PathBuf>,
    /// One query of so many is written
    #[arg(long, value_name = "N", default_value_t = 1000)]
    query_log_sample: u32,
    /// The file moves aside at so many MiB; three are kept
    #[arg(long, value_name = "MIB", default_value_t = 100)]
    query_log_size: u64,
    /// Zones, policies, sites, clusters, forwarding: YAML, see docs/DNS.md
    #[arg(long)]
    config: Option<PathBuf>,
    /// As --config, of a file that may be absent, and is read again when it comes, changes or goes
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    optional_config: Option<PathBuf>,
    /// Where `berth dns top`, `cache`, `flush` and `reload` ask
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
    /// What cookies are made with, so that servers with the same file know each other's; made when
    /// it is absent
    #[arg(long, value_name = "FILE")]
    cookie_secret: Option<PathBuf>,
    /// The health address of a balancer that says which addresses are down, for policies with
    /// `healthy: balancer`; may be given again
    #[arg(long = "balancer", value_name = "http://HOST:PORT", value_delimiter = ',')]
    balancers: Vec<String>,
    /// An interface on which hot names are answered in the kernel; may be given again
    #[arg(long, value_name = "INTERFACE")]
    xdp: Vec<String>,
}

impl DnsOptions {
    /// The file of the settings, if there is one.
    fn settings(&self) -> Option<&Path> {
        let optional = self.optional_config.as_deref().filter(|path| path.exists());
        self.config.as_deref().or(optional)
    }

    /// What the optional settings say now; `None` where there are none.
    fn optional_text(&self) -> Option<Vec<u8>> {
        std::fs::read(self.optional_config.as_ref()?).ok()
    }
}

/// Runs the DNS server until it is told to end, or does what the verb says.
pub fn dns(global: &Global, options: DnsOptions) -> Result<()> {
    if let Some(verb) = options.verb {
        return verbs::run(global, verb);
    }
    drained(DNS_DRAIN, async move |tasks: Tasks| {
        // Before it is read: what comes in between is another text.
        let mut text = options.optional_text();
        let (config, wanted) = first(&options)?;
        let clusters = follow(wanted, &config).await?;
        let mut server = berth_dns::run_for(config, clusters, &tasks).await?;
        let mut hangups = signal(SignalKind::hangup()).context("waiting for SIGHUP")?;
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            let asked = tokio::select! {
                () = tasks.stopping() => return Ok(()),
                reload = server.reload_wanted() => Some(reload),
                _ = hangups.recv() => None,
                _ = looks.tick() => {
                    let now = options.optional_text();
                    if now == text {
                        continue;
                    }
                    text = now;
                    None
                }
            };
            let result = read(&options, options.settings())
                .and_then(|(config, _)| Ok(server.reload(config)?));
            if let Err(error) = &result {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "settings not taken, the old ones stay"
                );
            }
            if let Some(asked) = asked {
                asked.done(result.map_err(|error| format!("{error:#}")));
            }
        }
    })
}

/// What is said at the start: the cluster's names are answered though the optional settings are not
/// in order, after a crash too.
fn first(options: &DnsOptions) -> Result<(Config, Option<Vec<settings::Followed>>)> {
    read(options, options.settings()).or_else(|error| {
        if options.optional_config.is_none() {
            return Err(error);
        }
        tracing::error!(error = format!("{error:#}"), "optional settings not taken");
        read(options, None)
    })
}

/// What the options say, and the files that they name, with the settings of the file at `settings`.
fn read(
    options: &DnsOptions,
    settings: Option<&Path>,
) -> Result<(Config, Option<Vec<settings::Followed>>)> {
    let text = std::fs::read_to_string(&options.resolv_conf)
        .with_context(|| format!("reading {}", options.resolv_conf.display()))?;
    let upstreams = berth_dns::upstreams(&text, &[options.listen]);
    let mut config = Config::new(options.listen, options.health, upstreams);
    config.domains = vec![options.domain.clone()];
    config.snapshot = options.snapshot.clone();
    config.query_log = options.query_log.clone().map(|path| QueryLog {
        path,
        sample: options.query_log_sample,
        most_bytes: options.query_log_size << 20,
    });
    config.balancers = options.balancers.clone();
    config.control = options.control.clone();
    config.secret = match &options.cookie_secret {
        Some(path) => {
            let secret = berth_dns::cookie_secret(path);
            Some(secret.with_context(|| format!("cookie secret {}", path.display()))?)
        }
        None => None,
    };
    let wanted = match settings.map(settings::read).transpose()? {
        Some(settings) => settings.apply(&mut config)?,
        None => None,
    };
    if !options.xdp.is_empty() {
        let wanted = config.xdp.get_or_insert_with(|| berth_dns::Xdp::on(vec![]));
        wanted.interfaces.extend(options.xdp.iter().cloned());
    }
    Ok((config, wanted))
}

/// The clusters that the settings name; none named, the one that this runs in.
async fn follow(wanted: Option<Vec<settings::Followed>>, config: &Config) -> Result<Vec<Cluster>> {
    let Some(wanted) = wanted else { return Ok(vec![own(config).await?]) };
    let mut clusters = Vec::new();
    for settings::Followed { kubeconfig, context, site, snapshot } in wanted {
        let named = || format!("reading the kubeconfig {}", kubeconfig.display());
        let file = Kubeconfig::read_from(&kubeconfig).with_context(named)?;
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        let read = kube::Config::from_custom_kubeconfig(file, &options).await;
        let client = Client::try_from(read.with_context(named)?)?;
        clusters.push(Cluster { client, site, snapshot });
    }
    Ok(clusters)
}

async fn own(config: &Config) -> Result<Cluster> {
    let client = Client::try_default().await.context("finding the cluster that this runs in")?;
    Ok(Cluster { client, site: None, snapshot: config.snapshot.clone() })
}
