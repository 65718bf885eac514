//! The server from its settings to its end, and with other settings while it runs.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use berth_daemon::{Ready, Tasks};
use tokio::sync::{mpsc, watch};

use crate::config::{Cluster, Config, StartError, Valid};
use crate::control::{self, Reload};
use crate::counts::Counts;
use crate::files::Files;
use crate::follow::{self, Target, Waited};
use crate::forward::Forward;
use crate::known::Clusters;
use crate::objects::Objects;
use crate::query_log::Writer;
use crate::serve::tls::Certificate;
use crate::served::Served;
use crate::transfer::{notify, secondary};
use crate::written::Written;
use crate::{balancers, checks, health, serve, snapshot, xdp, zone};

/// A server that runs; it goes on when this is dropped, until its tasks are stopped.
#[derive(Debug)]
pub struct Server {
    served: Arc<Served>,
    known: Arc<Clusters>,
    /// The site of each cluster, by name.
    sites: Vec<Option<String>>,
    reloads: mpsc::Receiver<Reload>,
}

/// Starts the server in `tasks` for the cluster of `client`, and returns once its ports are open.
///
/// # Errors
/// When the configuration cannot be right, or a port cannot be opened.
pub async fn run(
    config: Config,
    client: kube::Client,
    tasks: &Tasks,
) -> Result<Server, StartError> {
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
) -> Result<Server, StartError> {
    let valid = config.read()?;
    let site_names: Vec<_> = clusters.iter().map(|cluster| cluster.site.clone()).collect();
    let sites = valid.sites_of(&site_names)?;
    let Valid { domains, policies, own, routes, rules, balancers, .. } = valid;
    let ready = Ready::default();
    let mut known = Vec::new();
    let mut known_all = true;
    for (cluster, site) in clusters.iter().zip(sites) {
        let facts = match &cluster.snapshot {
            Some(path) => snapshot::load(path).await,
            None => None,
        };
        known_all &= facts.is_some();
        known.push((facts.unwrap_or_default(), site));
    }
    ready.set(known_all);
    let zone = Arc::new(zone::Current::default());
    let theirs = if clusters.is_empty() { vec![] } else { domains.clone() };
    let written = Arc::new(Written::new(policies.clone(), theirs, Arc::clone(&zone)));
    let files = Files::load(config.zones.clone(), Arc::clone(&written)).await;
    let all = zone::Clusters::new(domains, policies, known);
    let known = Arc::new(Clusters::new(all, Arc::clone(&zone)));
    let forward = Forward::new(routes, Arc::clone(&zone), config.answers, config.longest);
    let log = match &config.query_log {
        Some(log) => Some(Writer::open(log).map_err(|source| {
            let path = log.path.clone();
            StartError::QueryLog { path, source }
        })?),
        None => None,
    };
    let threads = serve::threads(config.threads);
    let served = Arc::new(Served {
        zone: Arc::clone(&zone),
        forward: Arc::new(forward),
        own: ArcSwap::from_pointee(own),
        written: Arc::clone(&written),
        counts: (0..threads).map(|_| Arc::<Counts>::default()).collect(),
        streams: Arc::default(),
        log,
        rules: ArcSwap::from_pointee(rules),
        new_rules: watch::Sender::new(0),
        kernel: OnceLock::new(),
        lists: watch::Sender::new(config.zones.clone()),
        balancers: watch::Sender::new(balancers),
    });

    health::serve(config.health, ready.clone(), Arc::clone(&served), tasks).await?;
    serve::tcp(config.listen, &served, None, tasks)?;
    if let Some(tls) = &config.tls {
        let certificate = Arc::new(Certificate::read(tls)?);
        Arc::clone(&certificate).follow(tasks);
        serve::tcp(tls.listen, &served, Some(certificate), tasks)?;
    }
    serve::udp(config.listen, &served, (config.answers, config.rate), tasks)?;
    if let Some(wanted) = &config.xdp {
        // After the sockets: what the kernel passes up must find them.
        let counts = xdp::start(wanted, config.listen, config.rate, Arc::clone(&zone), tasks)?;
        served.kernel.get_or_init(|| counts);
    }
    let (ask, reloads) = mpsc::channel(1);
    if let Some(path) = &config.control {
        control::serve(path, Arc::clone(&served), ask, tasks)?;
    }
    checks::run(tasks);
    balancers::follow(Arc::clone(&served), tasks);
    files.follow(Arc::clone(&served), tasks);
    secondary::follow(Arc::clone(&served), tasks);
    notify::tell(Arc::clone(&served), tasks);
    let waited = Arc::new(Waited::new(clusters.len(), ready));
    for (number, Cluster { client, snapshot, .. }) in clusters.into_iter().enumerate() {
        let (clusters, waited) = (Arc::clone(&known), Arc::clone(&waited));
        let changed = watch::Sender::new(0);
        if let Some(path) = snapshot {
            let (clusters, changes) = (Arc::clone(&known), changed.subscribe());
            follow::snapshots(clusters, number, path, changes, tasks);
        }
        if let Some(namespace) = &config.zone_namespace {
            let (written, clusters) = (Arc::clone(&written), Arc::clone(&known));
            let objects = Objects { written, clusters, number, changed: changed.clone() };
            objects.restore(&known.facts(number));
            objects.follow(client.clone(), namespace, tasks);
        }
        follow::start(client, Target { clusters, number, waited, changed }, tasks);
    }
    Ok(Server { served, known, sites: site_names, reloads })
}

impl Server {
    /// Waits until somebody asks at the control socket that the settings are read again; for ever
    /// where there is no such socket.
    pub async fn reload_wanted(&mut self) -> Reload {
        match self.reloads.recv().await {
            Some(reload) => reload,
            None => std::future::pending().await,
        }
    }

    /// Puts other settings in force while queries are answered on: zone files, policies, sites,
    /// name and cookies of the server, who is forwarded to, keys, transfers, secondaries and
    /// balancers; all zone files are read again, and the query log is opened anew. Ports, threads,
    /// clusters and domains stay.
    ///
    /// # Errors
    /// When the configuration cannot be right; nothing has changed then.
    pub fn reload(&self, mut config: Config) -> Result<(), StartError> {
        if config.secret.is_none() {
            // One of its own: clients' cookies stay good.
            config.secret = Some(self.served.own.load().secret);
        }
        let valid = config.read().inspect_err(|_| self.served.written.count_refused())?;
        let sites =
            valid.sites_of(&self.sites).inspect_err(|_| self.served.written.count_refused())?;
        let Valid { policies, own, routes, rules, balancers, .. } = valid;
        self.served.own.store(Arc::new(own));
        self.served.forward.set_routes(routes);
        self.served.written.set_policies(policies.clone());
        self.known.configure(policies, &sites);
        self.served.rules.store(Arc::new(rules));
        self.served.new_rules.send_modify(|count| *count += 1);
        self.served.lists.send_replace(config.zones);
        self.served.balancers.send_replace(balancers);
        if let Some(log) = &self.served.log {
            log.reopen();
        }
        tracing::info!("the settings were read again");
        Ok(())
    }
}
