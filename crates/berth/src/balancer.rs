//! `berth balancer`: HTTP for Ingress rules; with a word after it, the other doors.

mod front;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_balancer::rendered::{Destination, Loaded, Rendered, load};
use berth_balancer::{keepalived, l7, nginx, streams};
use berth_daemon::Tasks;
use clap::{Args, Subcommand};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, ResourceExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use crate::cli::Global;
use crate::connect;
use crate::up::parts::{self, BalancerOptions};

/// Less than the pod's grace period of 30 s, so that the process ends by itself.
const DRAIN: Duration = Duration::from_secs(27);
/// Changes are taken together for so long: each makes nginx start its workers anew.
const GATHER: Duration = Duration::from_millis(200);
/// How long a configuration that was not accepted waits, unless something changes.
const AGAIN: Duration = Duration::from_secs(10);
/// How long a local process may take to say how it is.
const PROBE: Duration = Duration::from_secs(1);

/// How long the API may take to say where a node is.
const NODE: Duration = Duration::from_secs(5);
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// `berth balancer`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(flatten)]
    http: BalancerOptions,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand, Debug)]
enum Part {
    /// Carry TCP, TLS by name, and UDP for Services that ask for it
    Streams(StreamOptions),
    /// One address for many machines, in the kernel before its network stack
    #[command(subcommand)]
    Front(front::Front),
    /// Write the configuration of another program, and keep it in step
    #[command(subcommand)]
    Render(Render),
    /// Succeed when a balancer on this machine says that it serves
    Probe {
        /// Where it says so, HTTP
        address: SocketAddr,
    },
}

#[derive(Subcommand, Debug)]
enum Render {
    /// Ingress rules for nginx
    Nginx(NginxOptions),
    /// Virtual addresses for keepalived
    Keepalived(KeepalivedOptions),
}

/// Other clusters, and where this process is.
#[derive(Args, Clone, Debug, Default)]
pub struct SiteOptions {
    /// What this cluster is called in `berth.dev/clusters`
    #[arg(long, default_value = "")]
    cluster_name: String,
    /// Another cluster whose endpoints stand behind the same Services: NAME=KUBECONFIG
    #[arg(long = "cluster", value_name = "NAME=KUBECONFIG")]
    clusters: Vec<String>,
    /// The zone of this process, for Services with `berth.dev/locality: prefer`
    #[arg(long, env = "BERTH_ZONE")]
    zone: Option<String>,
    /// The node of this process: its label topology.kubernetes.io/zone says the zone
    #[arg(long, env = "BERTH_NODE", value_name = "NAME")]
    node: Option<String>,
}

#[derive(Args, Debug)]
struct StreamOptions {
    /// The address of all listeners
    #[arg(long, default_value = "0.0.0.0")]
    bind: IpAddr,
    /// Where health checks come in, HTTP
    #[arg(long)]
    health: SocketAddr,
    /// Connections open at once, of all Services
    #[arg(long, default_value_t = 16_000)]
    max_connections: usize,
    #[command(flatten)]
    sites: SiteOptions,
}

/// Where a configuration goes.
#[derive(Args, Debug)]
struct Output {
    /// The file to write; without it, standard output
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Follow the cluster: write, check and reload at each change
    #[arg(long, requires = "file")]
    watch: bool,
    /// The file with the id of the process to reload
    #[arg(long, value_name = "FILE")]
    pid: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct NginxOptions {
    #[command(flatten)]
    output: Output,
    /// The IngressClass whose rules are written
    #[arg(long, default_value = "berth")]
    ingress_class: String,
    /// The port of plain HTTP
    #[arg(long, default_value_t = 80)]
    http: u16,
    /// The port of TLS
    #[arg(long, default_value_t = 443)]
    https: u16,
    /// Write only what goes into `http { }` of a configuration of yours
    #[arg(long)]
    fragment: bool,
    #[command(flatten)]
    sites: SiteOptions,
}

#[derive(Args, Debug)]
struct KeepalivedOptions {
    #[command(flatten)]
    output: Output,
    /// This host's name among the hosts
    #[arg(long)]
    host: String,
    /// A host that may hold the addresses, and its own address: NAME=IP
    #[arg(long = "peer", value_name = "NAME=IP", required = true)]
    peers: Vec<String>,
    /// The interface that the addresses are put on
    #[arg(long)]
    interface: String,
    /// An address beside those that Services ask for: IP/LENGTH
    #[arg(long = "address", value_name = "IP/LENGTH")]
    addresses: Vec<Ipv4Net>,
    /// A command that succeeds while this host serves; `berth balancer probe IP:PORT` is one
    #[arg(long)]
    check: Option<String>,
    /// Do not ask a cluster: only the addresses given here
    #[arg(long, conflicts_with = "watch")]
    offline: bool,
}

/// Does what `options` say.
///
/// # Errors
/// Whatever the part could not do.
pub fn run(global: &Global, options: Options) -> Result<()> {
    match options.part {
        None => parts::balancer(options.http),
        Some(Part::Streams(options)) => streams(options),
        Some(Part::Front(what)) => front::run(global, what),
        Some(Part::Probe { address }) => crate::cli::on_one_thread(probe(address)),
        Some(Part::Render(Render::Nginx(options))) => render_nginx(global.clone(), options),
        Some(Part::Render(Render::Keepalived(options))) => {
            render_keepalived(global.clone(), options)
        }
    }
}

/// Follows the other clusters that `options` name, and finds out in which zone of `client`'s cluster
/// this is.
///
/// # Errors
/// When a kubeconfig cannot be read. A cluster that does not answer is no error: it may come.
pub async fn sites(
    options: &SiteOptions,
    client: &Client,
    tasks: &Tasks,
) -> Result<watch::Receiver<l7::Sites>> {
    let mut clusters = Vec::new();
    for word in &options.clusters {
        let (name, path) = word.split_once('=').context("--cluster wants NAME=KUBECONFIG")?;
        let file = Kubeconfig::read_from(path).with_context(|| format!("reading {path}"))?;
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .with_context(|| format!("reading {path}"))?;
        clusters.push((name.to_owned(), Client::try_from(config)?));
    }
    let own = l7::Sites {
        own: options.cluster_name.clone(),
        zone: zone(options, client).await,
        others: Vec::new(),
    };
    Ok(l7::follow_others(clusters, own, tasks))
}

/// Without an answer there is none: then all endpoints are as near.
async fn zone(options: &SiteOptions, client: &Client) -> Option<String> {
    let (None, Some(node)) = (&options.zone, &options.node) else { return options.zone.clone() };
    let nodes = Api::<Node>::all(client.clone());
    match tokio::time::timeout(NODE, nodes.get_metadata(node)).await {
        Ok(Ok(node)) => node.labels().get(ZONE_LABEL).cloned(),
        Ok(Err(error)) => {
            tracing::warn!(node, %error, "its zone is not known");
            None
        }
        Err(_) => {
            tracing::warn!(node, "its zone is not known: the API does not answer");
            None
        }
    }
}

fn streams(options: StreamOptions) -> Result<()> {
    let mut config = streams::Config::new(options.bind, options.health);
    config.max_connections = options.max_connections;
    config.drain = DRAIN;
    parts::run(DRAIN + Duration::from_secs(1), async move |client, tasks| {
        let sites = sites(&options.sites, &client, &tasks).await?;
        Ok(streams::run(config, client, sites, &tasks).await?)
    })
}

async fn probe(address: SocketAddr) -> Result<()> {
    let asked = tokio::time::timeout(PROBE, async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut status = [0; 12];
        stream.read_exact(&mut status).await?;
        std::io::Result::Ok(status)
    });
    let status = asked.await.context("no answer in time")?.context("asking the balancer")?;
    let text = String::from_utf8_lossy(&status);
    ensure!(text.ends_with("200"), "it does not serve: {text}");
    Ok(())
}

fn render_nginx(global: Global, options: NginxOptions) -> Result<()> {
    let NginxOptions { output, ingress_class, http, https, fragment, sites: elsewhere } = options;
    let file = output.file.clone().map(std::path::absolute).transpose()?;
    let at = file.clone().unwrap_or_else(|| "/etc/nginx/berth.conf".into());
    let pid = output.pid.clone().unwrap_or_else(|| "/run/nginx.pid".into()).display().to_string();
    for word in [&at.display().to_string(), &pid] {
        ensure!(!word.contains(['"', ';', '$', ' ']), "a path that nginx cannot have: {word}");
    }
    let written = nginx::Options {
        class: ingress_class.clone(),
        http,
        https,
        whole: !fragment,
        pid,
        file: at,
        connections: 8192,
    };
    let check = match &file {
        Some(file) if fragment => {
            // A part is no configuration: it is checked within the least that is one.
            let frame = with_suffix(file, ".check");
            let text = format!("events {{}}\nhttp {{ include {}.new; }}\n", file.display());
            std::fs::write(&frame, text).with_context(|| format!("writing {}", frame.display()))?;
            words(&["nginx", "-t", "-q", "-c", &frame.display().to_string()])
        }
        _ => words(&["nginx", "-t", "-q", "-c", "{}"]),
    };
    let to =
        file.map(|file| Destination { file, check, pid: output.pid.clone(), program: "nginx" });
    follow(global, output.watch, to, async move |client, tasks| {
        let sites = sites(&elsewhere, &client, &tasks).await?;
        let mut snapshots = l7::follow_ingresses(&client, &ingress_class, sites, &tasks);
        let (sender, rendered) = watch::channel(None);
        tasks.spawn_until_stop("nginx", async move {
            while snapshots.changed().await.is_ok() {
                let snapshot = snapshots.borrow_and_update().clone();
                if let Some(snapshot) = snapshot {
                    sender.send_replace(Some(nginx::render(&snapshot, &written)));
                }
            }
        });
        Ok(rendered)
    })
}

fn render_keepalived(global: Global, options: KeepalivedOptions) -> Result<()> {
    let mut hosts = BTreeMap::new();
    for word in &options.peers {
        let (name, ip) = word.split_once('=').context("--peer wants NAME=IP")?;
        let ip: Ipv4Addr = ip.parse().with_context(|| format!("--peer {word}"))?;
        hosts.insert(name.to_owned(), ip);
    }
    let written = keepalived::Options {
        host: options.host,
        hosts,
        interface: options.interface,
        addresses: options.addresses,
        check: options.check,
    };
    let output = options.output;
    let file = output.file.clone().map(std::path::absolute).transpose()?;
    let check = words(&["keepalived", "-t", "-f", "{}"]);
    let pid = output.pid.clone();
    let to = file.map(|file| Destination { file, check, pid, program: "keepalived" });
    // What makes no sense is said before anybody is asked.
    let offline = keepalived::render(&[], &written)?;
    if options.offline {
        return crate::cli::on_one_thread(async {
            put(&offline, to.as_ref(), true).await.map(drop)
        });
    }
    follow(global, output.watch, to, async move |client, tasks| {
        let mut services = keepalived::follow(&client, &tasks);
        let (sender, rendered) = watch::channel(None);
        tasks.spawn_until_stop("keepalived", async move {
            while services.changed().await.is_ok() {
                let Some(services) = services.borrow_and_update().clone() else { continue };
                let (wanted, refused) = keepalived::addresses(&services);
                match keepalived::render(&wanted, &written) {
                    Ok(mut done) => {
                        done.refused.extend(refused);
                        sender.send_replace(Some(done));
                    }
                    Err(error) => tracing::error!(%error, "not written"),
                }
            }
        });
        Ok(rendered)
    })
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Puts what is rendered where it belongs: once, or for ever.
fn follow<F>(
    global: Global,
    watching: bool,
    to: Option<Destination>,
    start: impl FnOnce(Client, Tasks) -> F,
) -> Result<()>
where
    F: Future<Output = Result<watch::Receiver<Option<Rendered>>>>,
{
    parts::drained(Duration::from_secs(1), async move |tasks| {
        let client = connect::inside_or_named(&global).await?;
        let mut rendered = start(client, tasks.clone()).await?;
        let mut again = None;
        loop {
            let retry = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let is_new = tokio::select! {
                changed = rendered.changed() => {
                    changed.context("the cluster is not followed any more")?;
                    true
                }
                () = retry => false,
                () = tasks.stopping() => return Ok(()),
            };
            if watching {
                tokio::time::sleep(GATHER).await;
            }
            let Some(done) = rendered.borrow_and_update().clone() else { continue };
            let has_reader = to.as_ref().is_some_and(|to| to.pid.is_some());
            match put(&done, to.as_ref(), is_new).await {
                Ok(_) if !watching => return Ok(()),
                // Nobody could be told yet.
                Ok(Loaded::Written) if has_reader => {
                    again = Some(tokio::time::Instant::now() + AGAIN);
                }
                Ok(_) => again = None,
                Err(error) if !watching => return Err(error),
                Err(error) => {
                    tracing::error!("{error:#}; what was in force stays");
                    again = Some(tokio::time::Instant::now() + AGAIN);
                }
            }
        }
    })
}

/// What was said of it is not said again when it is not `is_new`.
async fn put(rendered: &Rendered, to: Option<&Destination>, is_new: bool) -> Result<Loaded> {
    for why in rendered.refused.iter().filter(|_| is_new) {
        tracing::warn!("{why}");
    }
    let Some(to) = to else {
        print!("{}", rendered.text);
        return Ok(Loaded::Written);
    };
    let loaded = load(rendered, to).await?;
    let told = loaded == Loaded::Told;
    if told || (loaded == Loaded::Written && is_new) {
        tracing::info!(file = %to.file.display(), told, "written");
    }
    Ok(loaded)
}
