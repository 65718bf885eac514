//! The collectors of other nodes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_api::app::logs::collector::{NAME, NAMESPACE};
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::server::Refusal;

const CALL: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(3);
/// See [`Peers::recent`].
const RECENT: Duration = Duration::from_secs(10);
/// Clients of other collectors that are held.
const CLIENTS: usize = 1_000;

/// Knows the collectors of all nodes. Cheap to clone.
#[derive(Clone)]
pub(super) struct Peers(Arc<Inner>);

struct Inner {
    client: Client,
    node: String,
    port: u16,
    certificate: String,
    clients: Mutex<HashMap<SocketAddr, Client>>,
    recent: tokio::sync::Mutex<Option<(Instant, Vec<Peer>)>>,
}

/// A collector, and where it answers; nowhere while it does not run.
#[derive(Clone)]
pub(super) struct Peer {
    pub node: String,
    pub address: Option<SocketAddr>,
}

impl Peers {
    /// As seen from `node`; every collector has the same `port`. `certificate` is its own, PEM.
    pub fn new(client: Client, node: String, port: u16, certificate: String) -> Self {
        let (clients, recent) = (Mutex::default(), tokio::sync::Mutex::default());
        Self(Arc::new(Inner { client, node, port, certificate, clients, recent }))
    }

    /// This node.
    pub fn own(&self) -> &str {
        &self.0.node
    }

    /// The collectors of all nodes as they were at most ten seconds ago.
    ///
    /// # Errors
    /// 503 when they are not known.
    pub async fn recent(&self) -> Result<Vec<Peer>, Refusal> {
        let mut recent = self.0.recent.lock().await;
        if let Some((_, peers)) = recent.as_ref().filter(|(at, _)| at.elapsed() < RECENT) {
            return Ok(peers.clone());
        }
        let peers = self.list().await?;
        *recent = Some((Instant::now(), peers.clone()));
        Ok(peers)
    }

    /// The collectors of all nodes, this one too.
    ///
    /// # Errors
    /// 503 when they are not known.
    pub async fn list(&self) -> Result<Vec<Peer>, Refusal> {
        let unavailable = |why: String| {
            let text = format!("the collectors of other nodes are not known: {why}");
            Refusal(StatusCode::SERVICE_UNAVAILABLE, text)
        };
        let api: Api<Pod> = Api::namespaced(self.0.client.clone(), NAMESPACE);
        let params = ListParams::default().labels(&format!("app.kubernetes.io/name={NAME}"));
        let listed = tokio::time::timeout(CALL, api.list(&params)).await;
        let listed = listed.map_err(|late| unavailable(late.to_string()))?;
        let listed = listed.map_err(|error| unavailable(error.to_string()))?;
        let mut peers: Vec<Peer> = listed.items.iter().filter_map(|pod| self.peer(pod)).collect();
        // While one takes another's place, the one that answers counts.
        peers.sort_by_key(|peer| (peer.node.clone(), peer.address.is_none()));
        peers.dedup_by(|later, first| later.node == first.node);
        Ok(peers)
    }

    fn peer(&self, pod: &Pod) -> Option<Peer> {
        let node = pod.spec.as_ref()?.node_name.clone()?;
        let status = pod.status.as_ref()?;
        let conditions = status.conditions.iter().flatten();
        let is_ready = conditions.clone().any(|one| one.type_ == "Ready" && one.status == "True");
        let ip = status.pod_ip.as_ref().and_then(|ip| ip.parse().ok()).filter(|_| is_ready);
        Some(Peer { node, address: ip.map(|ip| SocketAddr::new(ip, self.0.port)) })
    }

    /// Speaks to one collector. Certificates are of their own making: the token that is shown is
    /// good for reading this one namespace, and no more.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn client_of(&self, address: SocketAddr) -> Result<Client, Box<dyn std::error::Error>> {
        let mut known = self.0.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.get(&address) {
            return Ok(client.clone());
        }
        let mut config = kube::Config::new(format!("https://{address}").parse()?);
        config.accept_invalid_certs = true;
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = None;
        let own = CertificateDer::from_pem_slice(self.0.certificate.as_bytes())?;
        config.root_cert = Some(vec![own.to_vec()]);
        let client = Client::try_from(config)?;
        if known.len() >= CLIENTS {
            known.clear();
        }
        known.insert(address, client.clone());
        Ok(client)
    }
}
