//! Opening the API server, and the two ways to reach it.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, RwLock};

use berth_daemon::Tasks;
use berth_store::{ReadError, Store};
use bytes::Bytes;
use tokio::net::TcpListener;

use crate::admission::matched::{self, Guards};
use crate::audit::{self, Audit};
use crate::documents::Documents;
use crate::issuer::Issuer;
use crate::kubelet::Kubelet;
use crate::limits::{self, Limits};
use crate::metrics::Metrics;
use crate::pki::{Authority, Pki};
use crate::rbac::{self, Index};
use crate::rules::crd;
use crate::rules::service::{Allocations, ServiceRange};
use crate::server::Core;
use crate::status::Failure;
use crate::tls::{self, TlsError};
use crate::tokens::{KeyError, Signer};
use crate::user::User;
use crate::{bootstrap, events, follow, in_process, metrics_api, proxy, record, verbs};

/// What an API server is opened with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where pods and other machines reach it.
    pub advertise: SocketAddr,
    /// Services' addresses; the API itself is at the first.
    pub service_range: ServiceRange,
    /// Node ports.
    pub node_ports: RangeInclusive<u16>,
    /// Certificates and keys.
    pub pki: Pki,
    /// `cluster.local` unless somebody wants another one; tokens are issued under it.
    pub cluster_domain: String,
}

/// What requests need to know of the configuration.
pub(crate) struct Settings {
    pub(crate) advertise: SocketAddr,
    pub(crate) service_range: ServiceRange,
    pub(crate) node_ports: RangeInclusive<u16>,
}

/// Why an API server does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store cannot be read.
    #[error("reading the store")]
    Read(#[from] ReadError),
    /// What a cluster starts with cannot be written.
    #[error("writing what every cluster starts with")]
    Bootstrap(#[source] Failure),
    /// The certificates cannot be used.
    #[error("using the certificates")]
    Tls(#[from] TlsError),
    /// The key for tokens cannot be used.
    #[error("using the key for service-account tokens")]
    Key(#[from] KeyError),
    /// An address that is neither the machine's nor loopback makes no sense to advertise.
    #[error("{0} cannot be advertised: name an address that clients can connect to")]
    Unspecified(IpAddr),
}

/// The API server. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    core: Arc<Core>,
    tls: Arc<rustls::ServerConfig>,
    authority: Arc<Authority>,
}

impl ApiServer {
    /// Opens an API server over a store: creates what every cluster starts with, then follows
    /// roles and custom resource definitions until the group stops.
    ///
    /// # Errors
    /// When the store or the certificates cannot be used.
    pub async fn open(
        config: Config,
        store: Arc<dyn Store>,
        tasks: &Tasks,
    ) -> Result<Self, OpenError> {
        if config.advertise.ip().is_unspecified() {
            return Err(OpenError::Unspecified(config.advertise.ip()));
        }
        let tls = Arc::new(tls::server_config(&config.pki)?);
        let authority = config.pki.authority();
        let issuer = format!("https://kubernetes.default.svc.{}", config.cluster_domain);
        let core = Arc::new(Core {
            store: store.clone(),
            catalog: RwLock::new(metrics_api::catalog()),
            rbac: Index::default(),
            guards: Guards::default(),
            signer: Signer::new(issuer, config.pki.service_account_key())?,
            settings: Settings {
                advertise: config.advertise,
                service_range: config.service_range,
                node_ports: config.node_ports,
            },
            allocations: Allocations::default(),
            kubelet: Kubelet::new(&config.pki)?,
            proxies: proxy::Links::new()?,
            metrics: Arc::new(Metrics::default()),
            frames: verbs::Frames::default(),
            limits: Limits::default(),
            audit: Audit::default(),
            documents: Documents::default(),
            usage: metrics_api::Readings::default(),
            tasks: tasks.clone(),
        });
        store.index(record::PODS_BY_NODE);
        note_services(&core).await?;
        let definitions = crd::load(&core).await?;
        bootstrap::run(&core).await.map_err(OpenError::Bootstrap)?;
        let roles = Bytes::from_static(rbac::PREFIX.as_bytes());
        let from = follow::load(store.as_ref(), &roles, |seen| core.rbac.see(seen)).await?;
        let flows = Bytes::from_static(limits::PREFIX.as_bytes());
        let flows_from = follow::load(store.as_ref(), &flows, |seen| core.limits.see(seen)).await?;

        let laid_down = Bytes::from_static(matched::PREFIX.as_bytes());
        let guarded =
            follow::load(store.as_ref(), &laid_down, |seen| core.guards.see(&store, seen)).await?;
        let following = core.clone();
        tasks.spawn_until_stop("admission configuration", async move {
            let store = following.store.clone();
            let see = |seen: follow::Seen<'_>| following.guards.see(&following.store, seen);
            follow::follow(store, laid_down, guarded, see).await;
        });

        let following = core.clone();
        tasks.spawn_until_stop("flow schemas", async move {
            let store = following.store.clone();
            follow::follow(store, flows, flows_from, |seen| following.limits.see(seen)).await;
        });
        let following = core.clone();
        tasks.spawn_until_stop("rbac index", async move {
            let store = following.store.clone();
            follow::follow(store, roles, from, |seen| following.rbac.see(seen)).await;
        });
        tasks.spawn_until_stop("custom resource definitions", crd::run(core.clone(), definitions));
        tasks.spawn_until_stop("node metrics", metrics_api::follow(core.clone()));
        tasks.spawn_until_stop("event sweep", events::sweep(store));
        Ok(Self { core, tls, authority })
    }

    /// A client within the process, acting as `user`: the same way as over the network, without
    /// the network.
    pub fn client(&self, user: User) -> kube::Client {
        in_process::client(self.core.clone(), user)
    }

    /// What makes certificates and account tokens, for the controllers of this process.
    pub fn issuer(&self) -> Issuer {
        Issuer::new(self.authority.clone(), self.core.clone())
    }

    /// Shows what another part of the process counts on `/metrics` too.
    pub fn show_metrics(&self, render: fn() -> String) {
        self.core.metrics.also(render);
    }

    /// Logs what is changed, and sessions, from now on until the group stops.
    ///
    /// # Errors
    /// When the file cannot be opened, or there is an audit log already.
    pub fn audit(&self, options: audit::Options, tasks: &Tasks) -> std::io::Result<()> {
        self.core.audit.open(options, tasks)
    }

    /// Serves the listener over TLS until the group stops.
    pub fn serve(&self, listener: TcpListener, tasks: &Tasks) {
        let (core, tls, inner) = (self.core.clone(), self.tls.clone(), tasks.clone());
        tasks.spawn("api server", tls::accept(core, tls, listener, inner));
    }
}

/// Remembers which addresses and ports are given out.
async fn note_services(core: &Core) -> Result<(), ReadError> {
    let prefix = record::kind_prefix("", "services");
    let page = core.store.list(prefix.as_bytes(), None, 0, None).await?;
    for entry in &page.entries {
        let service = serde_json::from_slice(&entry.value).unwrap_or_default();
        core.allocations.note(&service);
    }
    Ok(())
}
