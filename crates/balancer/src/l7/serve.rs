//! A balancer process from its first routes to the end of its drain.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora::apps::{HttpServerOptions, ServerApp};
use pingora::listeners::tls::Acceptor;
use pingora::protocols::http::v2::server::default_h2_options;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

use berth_daemon::{Ready, Tasks};

use super::access_log::Log;
use super::certificates::{CertificateError, Certificates};
use super::connections::{self, Clients, Proxies, Resets, Service};
use super::health::Findings;
use super::plain::{Plain, Pool};
use super::proxy::{Copier, LONGEST_HEADER, MOST_TRIES, Proxy};
use super::renewals::Renewals;
use super::routes::{Scope, Table};
use super::upgrade::RequestFirst;
use super::{Config, World, health, saved};
use crate::streams::{self, NotHad};

/// How long idle connections get to take another request's `Connection: close` with them.
const LEAVE_BY_THEMSELVES: Duration = Duration::from_secs(2);
/// Idle connections to pods, all together.
const UPSTREAM_POOL: usize = 256;
/// What is still to be written when everything is drained.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The saved routes are written at most this often.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Why a balancer cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A port cannot be had.
    #[error("listen on {address} for {purpose}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What for.
        purpose: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no default certificate.
    #[error("prepare TLS")]
    Tls(#[from] CertificateError),
    /// rustls does not take our settings.
    #[error("configure TLS")]
    TlsSettings(#[from] rustls::Error),
    /// Nobody sends routes any more.
    #[error("the source of routes ended before the first ones")]
    NoSource,
}

/// Serves what `worlds` say until `tasks` are told to stop, then drains and returns.
///
/// The listeners open with the first routes: from `worlds`, or saved ones while these have none.
///
/// # Errors
/// When a port cannot be had, or the default certificate not be made.
pub async fn serve(
    config: Config,
    worlds: watch::Receiver<Option<World>>,
    tasks: &Tasks,
) -> Result<(), ServeError> {
    let nobody = (watch::channel(None).0, watch::channel(NotHad::new()).0);
    serve_telling(config, worlds, nobody, tasks).await
}

/// [`serve`], with every table told once it is in force, and the ports that are not to be had.
pub(super) async fn serve_telling(
    config: Config,
    worlds: watch::Receiver<Option<World>>,
    (told, not_had): (watch::Sender<Option<Arc<Table>>>, watch::Sender<NotHad>),
    tasks: &Tasks,
) -> Result<(), ServeError> {
    let lasting = outlasting(tasks);
    let findings = Arc::<Findings>::default();
    let tables = (told.subscribe(), findings.clone());
    let streams = streams::serve_gateways(config.clone(), tables, not_had, tasks.clone());
    tasks.spawn("streams", streams);
    let served = serve_and_drain(config, worlds, (told, findings), tasks, &lasting).await;
    lasting.stop(LAST_WORDS).await;
    served
}

/// A group for what has to work through the drain as well; a panic in it stops `tasks` too.
pub(super) fn outlasting(tasks: &Tasks) -> Tasks {
    let lasting = Tasks::new();
    let (group, tasks_to_stop) = (lasting.clone(), tasks.clone());
    tasks.spawn_until_stop("outlasting", async move {
        group.stopping().await;
        tasks_to_stop.cancel();
    });
    lasting
}

async fn serve_and_drain(
    config: Config,
    mut worlds: watch::Receiver<Option<World>>,
    (told, findings): (watch::Sender<Option<Arc<Table>>>, Arc<Findings>),
    tasks: &Tasks,
    lasting: &Tasks,
) -> Result<(), ServeError> {
    let failed = |address, purpose| move |source| ServeError::Listen { address, purpose, source };
    let http = connections::bind(config.http).map_err(failed(config.http, "HTTP"))?;
    let https = connections::bind(config.https).map_err(failed(config.https, "HTTPS"))?;
    let probes = health::listen(config.health).await;
    let probes = probes.map_err(failed(config.health, "health"))?;
    let ready = Ready::default();
    let probed = health::serve(probes, ready.clone(), findings.clone(), lasting.clone());
    lasting.spawn_until_stop("health", probed);

    let state = State {
        scope: config.scope(),
        renewals: Arc::default(),
        table: Arc::default(),
        certificates: Arc::new(Certificates::new()?),
        told,
    };
    if let Some(path) = config.snapshot.clone() {
        let saving = keep_saved(path, config.ingress_class.clone(), state.told.subscribe());
        lasting.spawn_until_stop("saved-routes", saving);
    }
    tokio::select! {
        first = state.first_routes(&config, &mut worlds) => first?,
        () = tasks.stopping() => return Ok(()),
    }

    let (drain, shutdown) = watch::channel(false);
    let room = Arc::new(Semaphore::new(config.max_connections));
    let resets = Resets::default();
    let log = Arc::new(Log::start(config.access_log, lasting));
    let (leave, leaving) = watch::channel(false);
    let plain = Arc::new(Plain {
        config: config.clone(),
        table: state.table.clone(),
        log: log.clone(),
        pool: Pool::default(),
        shutdown: shutdown.clone(),
        leave: leaving,
    });
    let pool = plain.clone();
    lasting.spawn_until_stop("idle-pods", async move { pool.pool.keep_swept().await });
    let proxies = config.trusted_proxies.iter().chain(&config.proxy_protocol_from);
    let unbounded: Vec<_> = proxies.copied().collect();
    let service = Service {
        proxy: Arc::new(proxy(&config, &state, log, resets.clone(), shutdown.clone(), lasting)),
        plain,
        clients: Clients::new(config.max_connections_each, &unbounded),
        proxies: Proxies::new(&config.proxy_protocol_from),
        resets,
        shutdown,
        room: room.clone(),
        header_timeout: config.header_timeout,
        tasks: tasks.clone(),
    };
    let tls = Arc::new(acceptor(state.certificates.clone())?);
    let http = connections::listen(http).map_err(failed(config.http, "HTTP"))?;
    let https = connections::listen(https).map_err(failed(config.https, "HTTPS"))?;
    let table = state.table.clone();
    let checked = health::keep_checked(move || table.load().sets(), findings, lasting.clone());
    lasting.spawn_until_stop("checks", checked);
    lasting.spawn_until_stop("routes", state.follow(worlds));
    ready.set(true);
    tracing::info!(http = %config.http, https = %config.https, "serving");

    // Both return when the group is told to stop and their queues are empty.
    tokio::join!(
        connections::accept(http, None, service.clone()),
        connections::accept(https, Some(tls), service.clone()),
    );
    ready.set(false);
    drain.send_replace(true);
    let deadline = Instant::now() + config.drain;
    let all = u32::try_from(config.max_connections).unwrap_or(u32::MAX);
    if timeout(LEAVE_BY_THEMSELVES.min(config.drain), room.acquire_many(all)).await.is_err() {
        leave.send_replace(true);
        service.proxy.cleanup().await;
        if timeout_at(deadline, room.acquire_many(all)).await.is_err() {
            let open = config.max_connections - room.available_permits();
            tracing::warn!(open, "connections cut at the end of the drain");
        }
    }
    Ok(())
}

fn proxy(
    config: &Config,
    state: &State,
    log: Arc<Log>,
    resets: Resets,
    shutdown: ShutdownWatch,
    lasting: &Tasks,
) -> HttpProxy<Proxy> {
    let pingora = ServerConf {
        max_retries: MOST_TRIES,
        upstream_keepalive_pool_size: UPSTREAM_POOL,
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        // Pods are spoken to in plain HTTP: no roots to trust, none to load and hold in memory.
        ca_file: Some("/dev/null".to_owned()),
        ..ServerConf::default()
    };
    let inner = Proxy {
        config: config.clone(),
        table: state.table.clone(),
        log,
        upgrades: Arc::new(RequestFirst { timeout: config.connect_timeout }),
        copier: Copier::new(config.connect_timeout, lasting.clone()),
        resets,
        shutdown,
    };
    let mut proxy = HttpProxy::new(inner, Arc::new(pingora));
    proxy.handle_init_modules();
    let mut options = HttpServerOptions::default();
    options.h2_idle_timeout = Some(Duration::from_secs(60));
    // Who came in the clear and begins with HTTP/2 was looked at before.
    options.h2c = true;
    proxy.server_options = Some(options);
    proxy.h2_options = Some(http2_options());
    proxy
}

/// What one HTTP/2 connection may hold: streams, bytes on their way, and resets before we looked.
fn http2_options() -> pingora::protocols::http::v2::server::H2Options {
    let mut options = default_h2_options();
    options
        .max_header_list_size(u32::try_from(LONGEST_HEADER).unwrap_or(u32::MAX))
        .max_concurrent_streams(100)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(Some(100))
        .initial_window_size(64 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buffer_size(128 * 1024);
    options
}

fn acceptor(certificates: Arc<Certificates>) -> Result<Acceptor, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut settings = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    settings.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Acceptor::from_server_config(Arc::new(settings)))
}

/// What requests are served from, exchanged while they run.
#[derive(Clone)]
struct State {
    scope: Scope,
    renewals: Arc<Mutex<Renewals>>,
    table: Arc<ArcSwap<Table>>,
    certificates: Arc<Certificates>,
    told: watch::Sender<Option<Arc<Table>>>,
}

impl State {
    fn apply(&self, world: World) {
        let mut renewals = self.renewals.lock().unwrap_or_else(PoisonError::into_inner);
        let world = &renewals.taking(world);
        drop(renewals);
        let before = self.table.load_full();
        let table = Arc::new(before.next(world, &self.scope));
        tracing::debug!(rules = table.rules(), "routes loaded");
        self.table.store(table.clone());
        // Of many certificates only a change of them costs something.
        let was = before.world();
        if !(was.ingresses.is_same(&world.ingresses)
            && was.classes.is_same(&world.classes)
            && was.secrets.is_same(&world.secrets)
            && table.shares_ground(&before))
        {
            self.certificates.replace(world, &self.scope.ingress_class, table.certificates());
        }
        self.told.send_replace(Some(table));
    }

    async fn first_routes(
        &self,
        config: &Config,
        worlds: &mut watch::Receiver<Option<World>>,
    ) -> Result<(), ServeError> {
        if let Some(path) = &config.snapshot {
            match saved::load(path) {
                Ok(Some(snapshot)) => {
                    self.apply(World::from(&snapshot));
                    return Ok(());
                }
                Ok(None) => {}
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "starting without the saved routes");
                }
            }
        }
        let known = worlds.wait_for(Option::is_some).await;
        let known = known.map_err(|_| ServeError::NoSource)?.clone();
        if let Some(world) = known {
            self.apply(world);
        }
        Ok(())
    }

    /// Follows the worlds, for ever.
    async fn follow(self, mut worlds: watch::Receiver<Option<World>>) {
        while worlds.changed().await.is_ok() {
            let world = worlds.borrow_and_update().clone();
            if let Some(world) = world {
                self.apply(world);
            }
        }
    }
}

/// Saves what is served at `path`, for ever; apart from following it, since all of it is written.
async fn keep_saved(path: PathBuf, class: String, mut tables: watch::Receiver<Option<Arc<Table>>>) {
    while tables.changed().await.is_ok() {
        tokio::time::sleep(SAVE_EVERY).await;
        let table = tables.borrow_and_update().clone();
        if let Some(table) = table
            && let Err(error) = saved::save(&path, &table.world().relevant(&class))
        {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "routes not saved");
        }
    }
}
