//! Ingress rules, carried by Pingora straight to the pods.
//!
//! ```text
//! API ──followed──▶ World ──Table::next()──▶ Table ──swap──▶ every request looks up once
//!                              │  └──▶ certificates, by SNI
//!                              └─────▶ a file, from which a restart without an API server serves on
//! ```
//!
//! # Guarantees
//! - Only ready endpoints get requests (see `endpoints`); of two picked at random the one with
//!   fewer open requests. An endpoint that refuses a connection rests for a second.
//! - A request whose connection could not be made goes to another endpoint, whatever its method:
//!   nothing was sent. A request that broke off before any answer is repeated elsewhere when its
//!   method is idempotent and its body (up to 64 KiB) is still at hand. Requests of other methods
//!   never travel on a connection that was open before, so that none meets one that the pod is just
//!   closing. A rolling update loses nothing.
//! - While the API server is away the last routes hold.
//! - Slow clients are cut: a request header has 15 s, a pause in a body 30 s; connections are
//!   bounded, and beyond the bound they wait in the kernel.
//!
//! # How draining works
//! 1. The health endpoint answers 503.
//! 2. The listeners take what the kernel has already queued for them, then close. Another process
//!    on the same ports (`SO_REUSEPORT`) gets everything new; `tcp_migrate_req` (set by `l4`) hands
//!    it the handshakes under way too.
//! 3. Each answer from now on says `Connection: close` (HTTP/2: GOAWAY), so clients move away
//!    between two requests and not in one. Open requests and WebSockets go on.
//! 4. After two seconds connections without a request are closed.
//! 5. At the deadline the rest is cut.
//!
//! # What it refuses
//! `resource` backends, and HTTP `Upgrade` to anything but
//! WebSocket. Paths are matched as they were sent, without decoding.
//!
//! # Source
//! networking.k8s.io/v1 Ingress; power of two choices (Mitzenmacher 2001); nginx's and Envoy's
//! drain sequences.

mod access_log;
mod answers;
pub(crate) mod certificates;
pub(crate) mod clusters;
mod connections;
pub(crate) mod health;
mod lenient;
pub(crate) mod limits;
pub(crate) mod outlier;
pub(crate) mod pick;
mod plain;
mod proxy;
pub(crate) mod renewals;
mod routes;
mod saved;
pub(crate) mod secured;
mod serve;
mod slow_start;
mod snapshot;
mod status;
mod upgrade;
pub(crate) mod weights;
mod world;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;

use berth_daemon::Tasks;

use crate::streams::NotHad;

use renewals::Renewals;

pub use clusters::{Elsewhere, Sites, follow_others};
pub use lenient::Lenient;
pub(crate) use routes::{At, Place, StreamRoute, stream_routes};
pub use routes::{Scope, Table, routes};
pub use serve::{ServeError, serve};
pub use snapshot::{GatewayObjects, Snapshot};
pub use world::World;

/// How one balancer process works.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where HTTP is spoken; shared with other balancer processes.
    pub http: SocketAddr,
    /// Where HTTPS is spoken; shared with other balancer processes.
    pub https: SocketAddr,
    /// Where this process says whether it serves: `GET /`.
    pub health: SocketAddr,
    /// The class whose Ingresses are served; those without a class too when it is the default.
    pub ingress_class: String,
    /// What the Ingresses' status says about where this balancer is reached.
    pub addresses: Vec<Address>,
    /// Where the routes are kept for a start without an API server. Holds TLS keys: mode 0600.
    pub snapshot: Option<PathBuf>,
    /// Which requests are written to standard output.
    pub access_log: AccessLog,
    /// The proxies before us: what they say in `X-Forwarded-*` and `Forwarded` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The proxies before us that begin each connection with a PROXY header, which is demanded of
    /// them: the client that it names is the peer of all that follows.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Whether pods get RFC 7239's `Forwarded` beside `X-Forwarded-*`.
    pub forwarded: bool,
    /// Whether answers are compressed for clients that ask for it.
    pub compress: bool,
    /// The longest body of a request, bytes, where the route says nothing; `None` for any.
    pub max_body: Option<u64>,
    /// Connections open at once; each costs two descriptors while a request is on its way.
    pub max_connections: usize,
    /// Of these, how many one client address may have; trusted proxies have no bound.
    pub max_connections_each: usize,
    /// How long a client may take for a request's header.
    pub header_timeout: Duration,
    /// How long a client may pause in a body, or in taking one.
    pub body_timeout: Duration,
    /// How long an endpoint may take to accept a connection.
    pub connect_timeout: Duration,
    /// How long an endpoint may pause, before its answer or in it.
    pub response_timeout: Duration,
    /// How long a WebSocket may be silent.
    pub tunnel_timeout: Duration,
    /// How long open requests get when the process is told to stop.
    pub drain: Duration,
}

impl Config {
    /// The defaults, for class `berth`.
    pub fn new(http: SocketAddr, https: SocketAddr, health: SocketAddr) -> Self {
        Self {
            http,
            https,
            health,
            ingress_class: "berth".to_owned(),
            addresses: Vec::new(),
            snapshot: None,
            access_log: AccessLog::Errors,
            trusted_proxies: Vec::new(),
            proxy_protocol_from: Vec::new(),
            forwarded: false,
            compress: false,
            max_body: None,
            max_connections: 8_000,
            max_connections_each: 4_000,
            header_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(300),
            tunnel_timeout: Duration::from_secs(3600),
            drain: Duration::from_secs(25),
        }
    }

    /// What of it routes depend on.
    pub(crate) fn scope(&self) -> Scope {
        Scope {
            ingress_class: self.ingress_class.clone(),
            http_port: self.http.port(),
            https_port: self.https.port(),
        }
    }
}

/// Where a balancer is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// By address.
    Ip(IpAddr),
    /// By name.
    Hostname(String),
}

/// Which requests are written down, one JSON object a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// None.
    Off,
    /// Those that failed on our side or the pods': 500 and above.
    Errors,
    /// Errors, and one in this many of the rest; 1 is every request.
    OneIn(u32),
}

/// Serves the Ingress rules of the cluster until `tasks` are told to stop, and drains.
///
/// # Errors
/// When a port cannot be had, or the default certificate not be made.
pub async fn run(
    config: Config,
    client: kube::Client,
    sites: watch::Receiver<Sites>,
    tasks: &Tasks,
) -> Result<(), ServeError> {
    let (sender, worlds) = watch::channel(None);
    let (told, tables) = watch::channel(None);
    let (not_had, refused) = watch::channel(NotHad::new());
    // Pods go on changing under the requests that are still open in a drain.
    let lasting = serve::outlasting(tasks);
    snapshot::follow_cluster(&client, sites, sender, &lasting);
    tasks.spawn_until_stop("ingress-status", status::keep(client, config.clone(), tables, refused));
    let served = serve::serve_telling(config, worlds, (told, not_had), tasks).await;
    lasting.cancel();
    served
}

/// Follows what the Ingresses of `class` need; `None` until all of it is known.
pub fn follow_ingresses(
    client: &kube::Client,
    class: &str,
    sites: watch::Receiver<Sites>,
    tasks: &Tasks,
) -> watch::Receiver<Option<Arc<Snapshot>>> {
    let (sender, mut worlds) = watch::channel(None::<World>);
    snapshot::follow_cluster(client, sites, sender, tasks);
    let (sender, snapshots) = watch::channel(None);
    let class = class.to_owned();
    tasks.spawn_until_stop("ingress-lists", async move {
        let mut renewals = Renewals::default();
        while worlds.changed().await.is_ok() {
            let world = worlds.borrow_and_update().clone().map(|world| renewals.taking(world));
            let snapshot = world.map(|world| Arc::new(world.relevant(&class)));
            sender.send_replace(snapshot);
        }
    });
    snapshots
}
