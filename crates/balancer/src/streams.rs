//! TCP and UDP for Services, in user space: what the kernel's rules cannot do.
//!
//! ```text
//! API ──reflectors──▶ Services ──plan──▶ Streams ──swap──▶ every connection looks up once
//!                 └─▶ Gateways ───┘         └──▶ listeners are opened and closed
//! ```
//!
//! A Gateway has listeners for TCP, UDP and TLS passed through, which `berth balancer` opens beside
//! those of HTTP: its routes say who is behind them, by weight. Or a Service says by annotation where it
//! wants to be reached, which `berth balancer streams` does (docs/BALANCER_L4.md):
//! `berth.dev/listen: tcp/3306=mysql, udp/53=dns, tls/8443=https`. Several Services may share a
//! `tls` port: the name in the client's hello decides, and nothing is decrypted. Endpoints are
//! picked, checked, ejected and limited as for HTTP, a connection counting as a request; weights
//! of clusters hold too.
//!
//! # Guarantees
//! - An open connection stays with its endpoint while both keep it; a UDP flow moves on when its
//!   endpoint goes.
//! - A connection that is refused goes to another endpoint: nothing of it was sent.
//! - Bounded: connections and flows in number, what is held of a connection in bytes (what one
//!   read gave and the other side has not taken), the time until a client says who it is.
//! - Several processes share the ports (`SO_REUSEPORT`). Told to stop, a process closes its
//!   listeners, lets what is open go on until the deadline, and cuts the rest.
//!
//! # What it refuses
//! Ending TLS, UDP with PROXY protocol, IPv6 endpoints.

mod plan;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::watcher::{self, watcher};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use berth_daemon::{Ready, Tasks};

use crate::follow::follow;
use crate::l7::health::Findings;
use crate::l7::{self, Place, Sites, Snapshot, Table, World, health, pick, stream_routes};
use crate::{tcp, udp};

pub(crate) use plan::{Streams, Target};

/// Ports that the system did not give us, and why.
pub(crate) type NotHad = BTreeMap<Place, String>;

/// Connections that wait in the kernel until they are accepted.
const BACKLOG: i32 = 4096;

/// When a port that was not to be had is asked for again.
const AGAIN: Duration = Duration::from_secs(10);

/// How one process works.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address of all listeners.
    pub bind: IpAddr,
    /// Where this process says whether it serves: `GET /`.
    pub health: SocketAddr,
    /// Connections open at once, of all Services.
    pub max_connections: usize,
    /// UDP flows at once, of each listener.
    pub max_flows: usize,
    /// How long a client may take to say who it is, where that is asked of it.
    pub hello_timeout: Duration,
    /// How long an endpoint may take to accept a connection.
    pub connect_timeout: Duration,
    /// How long a connection may be silent, unless its Service says otherwise.
    pub idle_timeout: Duration,
    /// How long a UDP flow may be silent.
    pub flow_timeout: Duration,
    /// How long open connections get when the process is told to stop.
    pub drain: Duration,
}

impl Config {
    /// The defaults.
    pub fn new(bind: IpAddr, health: SocketAddr) -> Self {
        Self {
            bind,
            health,
            max_connections: 16_000,
            max_flows: 16_000,
            hello_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(3600),
            flow_timeout: Duration::from_secs(60),
            drain: Duration::from_secs(25),
        }
    }
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum StreamsError {
    /// The health port cannot be had.
    #[error("listen on {address} for health")]
    Health {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Follows the cluster and serves its Services until `tasks` are told to stop, then drains.
///
/// # Errors
/// When the health port cannot be had. A Service's port that cannot be had is named in the log and
/// tried again at the next change; the others are served.
pub async fn run(
    config: Config,
    client: kube::Client,
    sites: watch::Receiver<Sites>,
    tasks: &Tasks,
) -> Result<(), StreamsError> {
    let (sender, snapshots) = watch::channel(None);
    let changed = Arc::new(Notify::new());
    let services = follow(
        "services",
        watcher(kube::Api::<Service>::all(client.clone()), watcher::Config::default()),
        changed.clone(),
        tasks,
    );
    let slices = follow("endpoints", berth_api::endpoints::follow(client), changed.clone(), tasks);
    let mut moved = sites.clone();
    tasks.spawn_until_stop("stream-snapshots", async move {
        loop {
            tokio::select! {
                () = changed.notified() => {}
                Ok(()) = moved.changed() => {}
            }
            if let (Some(services), Some(slices)) = (services.objects(), slices.objects()) {
                let sites = moved.borrow_and_update().clone();
                let services = services.into_iter().filter(plan::is_listened).collect();
                sender.send_replace(Some(Arc::new(Snapshot {
                    services,
                    slices,
                    sites,
                    ..Snapshot::default()
                })));
            }
        }
    });
    serve(config, snapshots, tasks).await
}

/// Serves what `snapshots` say until `tasks` are told to stop, then drains.
///
/// # Errors
/// When the health port cannot be had.
pub async fn serve(
    config: Config,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    tasks: &Tasks,
) -> Result<(), StreamsError> {
    let address = config.health;
    let probes = health::listen(address).await;
    let probes = probes.map_err(|source| StreamsError::Health { address, source })?;
    let ready = Ready::default();
    let findings = Arc::<Findings>::default();
    let probed = health::serve(probes, ready.clone(), findings.clone(), tasks.clone());
    tasks.spawn_until_stop("health", probed);
    let planned =
        |snapshot: &Snapshot, before: &Streams| plan::of_services(&World::from(snapshot), before);
    let told = (ready, watch::Sender::default(), findings);
    carry(config, (snapshots, planned), told, tasks).await;
    Ok(())
}

/// Serves what Gateways in `tables` say until `tasks` are told to stop, then drains; `not_had` is
/// told of the ports that are not to be had.
pub(crate) async fn serve_gateways(
    http: l7::Config,
    (tables, findings): (watch::Receiver<Option<Arc<Table>>>, Arc<Findings>),
    not_had: watch::Sender<NotHad>,
    tasks: Tasks,
) {
    let mut config = Config::new(http.http.ip(), http.health);
    (config.connect_timeout, config.drain) = (http.connect_timeout, http.drain);
    let scope = http.scope();
    let planned = move |table: &Table, before: &Streams| {
        let (routes, _) = stream_routes(table.world(), &scope, &NotHad::new());
        plan::of_routes(table.world(), &routes, before)
    };
    carry(config, (tables, planned), (Ready::default(), not_had, findings), &tasks).await;
}

/// Serves what is planned from what comes, until `tasks` are told to stop, then drains.
async fn carry<T>(
    config: Config,
    (mut source, plan): (watch::Receiver<Option<Arc<T>>>, impl Fn(&T, &Streams) -> Streams),
    (ready, not_had, findings): (Ready, watch::Sender<NotHad>, Arc<Findings>),
    tasks: &Tasks,
) {
    let streams: Arc<ArcSwap<Streams>> = Arc::default();
    let checked = streams.clone();
    let checks = health::keep_checked(move || checked.load().sets(), findings, tasks.clone());
    tasks.spawn_until_stop("checks", checks);

    let room = Arc::new(Semaphore::new(config.max_connections));
    let serving =
        Serving { config, streams: streams.clone(), room: room.clone(), tasks: tasks.clone() };
    let mut listeners = Listeners { open: HashMap::new(), serving: serving.clone() };
    loop {
        let Some(seen) = source.borrow_and_update().clone() else {
            tokio::select! {
                () = tasks.stopping() => break,
                changed = source.changed() => if changed.is_err() {
                    tasks.stopping().await;
                    break;
                },
            }
            continue;
        };
        streams.store(Arc::new(plan(&seen, &streams.load())));
        drop(seen);
        let refused = listeners.follow(&streams.load());
        let refused_some = !refused.is_empty();
        not_had.send_if_modified(|before| {
            let differs = *before != refused;
            *before = refused;
            differs
        });
        ready.set(true);
        let again = async {
            // Who has the port may leave it.
            if refused_some {
                tokio::time::sleep(AGAIN).await
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = tasks.stopping() => break,
            () = again => {}
            changed = source.changed() => if changed.is_err() {
                // Nobody will say more; what is known holds.
                tasks.stopping().await;
                break;
            },
        }
    }
    ready.set(false);
    drop(listeners);
    let all = u32::try_from(serving.config.max_connections).unwrap_or(u32::MAX);
    let deadline = Instant::now() + serving.config.drain;
    if timeout_at(deadline, room.acquire_many(all)).await.is_err() {
        let open = serving.config.max_connections - room.available_permits();
        tracing::warn!(open, "connections cut at the end of the drain");
    }
}

/// What every listener needs.
#[derive(Clone)]
pub(crate) struct Serving {
    pub(crate) config: Config,
    pub(crate) streams: Arc<ArcSwap<Streams>>,
    /// One permit a connection.
    pub(crate) room: Arc<Semaphore>,
    /// Connections belong to these; listeners to groups within them.
    pub(crate) tasks: Tasks,
}

/// The open ports; one that is dropped closes.
struct Listeners {
    open: HashMap<Place, Tasks>,
    serving: Serving,
}

impl Listeners {
    /// Opens and closes what differs; what could not be opened, and why.
    fn follow(&mut self, streams: &Streams) -> NotHad {
        let tcp = streams.tcp.keys().copied().map(Place::Tcp);
        let wanted: Vec<Place> = tcp.chain(streams.udp.keys().copied().map(Place::Udp)).collect();
        self.open.retain(|place, group| {
            let stays = wanted.contains(place);
            if !stays {
                group.cancel();
            }
            stays
        });
        let mut refused = NotHad::new();
        for place in wanted {
            if self.open.contains_key(&place) {
                continue;
            }
            let group = self.serving.tasks.child();
            match self.start(place, &group) {
                Ok(()) => {
                    tracing::info!(?place, "serving");
                    self.open.insert(place, group);
                }
                Err(error) => {
                    tracing::warn!(?place, %error, "a port is not to be had");
                    refused.insert(place, error.to_string());
                }
            }
        }
        refused
    }

    fn start(&self, place: Place, group: &Tasks) -> std::io::Result<()> {
        let (kind, protocol, port) = match place {
            Place::Tcp(port) => (Type::STREAM, Protocol::TCP, port),
            Place::Udp(port) => (Type::DGRAM, Protocol::UDP, port),
        };
        let address = SocketAddr::new(self.serving.config.bind, port);
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let serving = self.serving.clone();
        match place {
            Place::Tcp(_) => {
                socket.listen(BACKLOG)?;
                let listener = tokio::net::TcpListener::from_std(socket.into())?;
                let stop = group.clone();
                group.spawn("tcp", tcp::accept(listener, port, serving, stop));
            }
            Place::Udp(_) => {
                let socket = tokio::net::UdpSocket::from_std(socket.into())?;
                group.spawn_until_stop("udp", udp::serve(socket, port, serving));
            }
        }
        Ok(())
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.open.values().for_each(Tasks::cancel);
    }
}

/// Picks in `set` for a client that was at `tried` in vain.
pub(crate) fn pick_for(
    set: &Arc<pick::BackendSet>,
    client: SocketAddr,
    tried: &[std::net::SocketAddrV4],
) -> Result<pick::OpenRequest, String> {
    let key = set.key(Some(client.ip()), |_| None);
    set.pick(tried, key, pick::random()).map_err(|refused| refused.to_string())
}
