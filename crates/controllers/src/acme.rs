//! Certificates from an authority that speaks ACME (RFC 8555), for Ingresses and Gateways that say
//! `berth.dev/acme: "true"`.
//!
//! ```text
//! Ingress, Gateway ──hosts──▶ plan ──order──▶ authority ──asks──▶ balancer: TOKEN.THUMBPRINT
//!        ▲                     ▲                  │
//!        └── Events            └── TLS Secret ◀───┘ certificate and key
//! ```
//!
//! Ordered is for a Secret that `spec.tls` (or a listener) names: all hosts that ask for it. The
//! challenge is HTTP-01. What the balancer answers is the token and the fingerprint of the account's
//! key, which is no secret and the same for all tokens (RFC 8555 section 8.1): it stands in the
//! ConfigMap `berth-acme`, so any number of balancers answer without being told of each order. The
//! account's key is in the Secret `berth-acme-account`.
//!
//! # Guarantees
//! - A Secret that somebody else made is never written: ours are labelled `berth.dev/acme`.
//! - A certificate is renewed when a third of its time is left, and ordered anew when hosts are
//!   added. What is there is served until another has come.
//! - An authority is asked again ever later, and never before it said (`Retry-After`). What failed
//!   is kept in the ConfigMap: a restart begins no new series of tries.
//!
//! # What it refuses
//! Hosts with a wildcard (they need DNS-01); renewal information (RFC 9773); more than one authority.
//!
//! # Source
//! RFC 8555; the fingerprint as a standing answer is acme.sh's stateless mode.

mod authority;
mod http;
mod keep;
mod plan;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_api::gateway::Gateway;
use berth_daemon::Tasks;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::networking::v1::Ingress;
use kube::runtime::events::EventType;
use kube::runtime::watcher::{self, watcher};
use kube::runtime::{WatchStreamExt, reflector};
use kube::{Api, ResourceExt};

use crate::driver::{Controller, Error, Key, Queue, World, chain};
use crate::workloads::Note;
use crate::workloads::recorder::Recorder;
use keep::Notes;
use plan::{Failed, Step};

pub use authority::Authority;
pub use http::HttpError;

pub use berth_api::acme::{ASKS, CONFIG_MAP, NAMESPACE};

/// What a Secret of ours is labelled with.
const OURS: &str = "berth.dev/acme";
/// All of an order, which must end before a run must.
const ORDER_LIMIT: Duration = Duration::from_secs(50);
/// How long until an object is looked at again about which nothing changed.
const LOOK_AGAIN: Duration = Duration::from_secs(6 * 3600);

/// Whose certificates these are to be.
#[derive(Clone)]
pub struct Config {
    /// The authority's directory, `https://…`.
    pub directory: String,
    /// Whom it writes to.
    pub email: Option<String>,
    /// Who must have signed what the authority itself shows, PEM; else whom the system trusts.
    pub ca: Option<PathBuf>,
    /// Key id and HMAC key of an account that the authority has given out by other means.
    pub external: Option<(String, Vec<u8>)>,
}

/// The HMAC key in `text`: base64url, as authorities give it out, or base64.
///
/// # Errors
/// When it is neither.
pub fn external_key(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    use base64::Engine;
    use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
    let plain = text.trim().trim_end_matches('=').replace('+', "-").replace('/', "_");
    let unpadded = GeneralPurposeConfig::new()
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone);
    GeneralPurpose::new(&base64::alphabet::URL_SAFE, unpadded).decode(plain)
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// Orders and renews.
pub struct Acme {
    authority: Arc<Authority>,
    gateways: reflector::Store<Gateway>,
    recorder: Recorder,
    tasks: Tasks,
    writer: std::sync::Mutex<Option<reflector::store::Writer<Gateway>>>,
}

impl Acme {
    /// Follows Gateways and our Secrets in `tasks`.
    pub fn new(authority: Arc<Authority>, world: &World, tasks: &Tasks) -> Self {
        let writer = reflector::store::Writer::default();
        Self {
            authority,
            gateways: writer.as_reader(),
            recorder: Recorder::new(world, Self::NAME),
            tasks: tasks.clone(),
            writer: std::sync::Mutex::new(Some(writer)),
        }
    }

    /// Who asks for the Secret of `key`, and for which hosts.
    fn asked(&self, world: &World, key: &Key) -> Asked {
        let mut asked = Asked::default();
        for ingress in world.ingresses.list(&key.namespace) {
            let hosts = of_ingress(&ingress).filter(|(secret, _)| *secret == key.name);
            let before = asked.ingresses.len();
            for (_, hosts) in hosts {
                asked.hosts.extend(hosts);
                if asked.ingresses.len() == before {
                    asked.ingresses.push(ingress.clone());
                }
            }
        }
        for gateway in self.gateways.state() {
            if gateway.namespace().as_deref() != Some(&key.namespace) {
                continue;
            }
            let before = asked.hosts.len();
            let hosts = of_gateway(&gateway).filter(|(secret, _)| *secret == key.name);
            asked.hosts.extend(hosts.map(|(_, host)| host));
            if asked.hosts.len() > before {
                asked.gateways.push(gateway);
            }
        }
        asked
    }

    async fn tell(&self, asked: &Asked, type_: EventType, reason: &'static str, message: &str) {
        let note = || Note { reason, message: message.to_owned() };
        for ingress in &asked.ingresses {
            self.recorder.tell(ingress.as_ref(), type_, note()).await;
        }
        for gateway in &asked.gateways {
            self.recorder.tell(gateway.as_ref(), type_, note()).await;
        }
    }

    /// Orders, and writes what came of it.
    async fn order(
        &self,
        world: &World,
        key: &Key,
        asked: &Asked,
        hosts: &BTreeSet<String>,
        notes: &Notes,
    ) -> Result<Option<Duration>, Error> {
        let now = Timestamp::now();
        let ordered = async {
            let account = self.authority.account(&world.client).await?;
            notes.put_thumbprint(&world.client, account.key_thumbprint()).await?;
            self.authority.order(&account, hosts).await
        };
        let ordered = tokio::time::timeout(ORDER_LIMIT, ordered).await;
        let ordered = ordered.unwrap_or(Err(authority::OrderError::Late));
        match ordered {
            Ok(made) => {
                keep::write(&world.client, key, &made, self.authority.directory()).await?;
                notes.forget(&world.client, key).await?;
                tracing::info!(secret = %key, ?hosts, "certificate issued");
                let message = format!("certificate for {} is in Secret {}", list(hosts), key.name);
                self.tell(asked, EventType::Normal, "CertificateIssued", &message).await;
                Ok(Some(Duration::from_secs(1)))
            }
            Err(error) => {
                let why = chain(&error);
                let not_before = self.authority.not_before();
                let before = notes.failed(key);
                let failed = Failed::after(before.as_ref(), hosts, &why, not_before, now);
                tracing::warn!(secret = %key, ?hosts, error = why, until = %failed.until,
                    "no certificate");
                notes.put(&world.client, key, &failed).await?;
                let message = format!("no certificate for {}: {why}", list(hosts));
                self.tell(asked, EventType::Warning, "CertificateFailed", &message).await;
                Ok(Some(plan::until(failed.until, now)))
            }
        }
    }
}

/// Who asks, and for what.
#[derive(Default)]
struct Asked {
    hosts: BTreeSet<String>,
    ingresses: Vec<Arc<Ingress>>,
    gateways: Vec<Arc<Gateway>>,
}

fn list(hosts: &BTreeSet<String>) -> String {
    hosts.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn asks(object: &impl ResourceExt) -> bool {
    object.annotations().get(ASKS).is_some_and(|value| value == "true")
}

/// The Secrets that an Ingress asks for, each with its hosts.
fn of_ingress(ingress: &Ingress) -> impl Iterator<Item = (String, Vec<String>)> {
    let spec = ingress.spec.iter().filter(|_| asks(ingress));
    spec.flat_map(|spec| {
        let tls = spec.tls.iter().flatten();
        tls.filter_map(|tls| {
            let named = tls.hosts.iter().flatten();
            let ruled = spec.rules.iter().flatten().filter_map(|rule| rule.host.as_ref());
            let named: Vec<_> = named.map(|host| host.to_ascii_lowercase()).collect();
            let ruled = ruled.map(|host| host.to_ascii_lowercase());
            let hosts = if named.is_empty() { ruled.collect() } else { named };
            Some((tls.secret_name.clone()?, hosts))
        })
    })
}

/// The Secrets of its own namespace that a Gateway asks for, each with a host.
fn of_gateway(gateway: &Gateway) -> impl Iterator<Item = (String, String)> {
    let listeners = gateway.spec.listeners.iter().filter(|_| asks(gateway));
    listeners.flat_map(|listener| {
        let host = listener.hostname.as_ref().map(|host| host.to_ascii_lowercase());
        let named = listener.tls.iter().flat_map(|tls| &tls.certificate_refs);
        let own = named
            .filter(|one| one.namespace.is_none() || one.namespace == gateway.metadata.namespace);
        own.filter_map(move |one| Some((one.name.clone(), host.clone()?)))
    })
}

impl Controller for Acme {
    const NAME: &'static str = "acme";
    // One order at a time: authorities count them, and there is no haste.
    const WORKERS: usize = 1;
    type Key = Key;

    fn wire(&self, world: &World, queue: &Queue<Key>) {
        let own = queue.clone();
        world.ingresses.subscribe(move |change| {
            for ingress in change.old.iter().chain(&change.new) {
                let namespace = ingress.namespace().unwrap_or_default();
                for (secret, _) in of_ingress(ingress) {
                    own.add(Key::new(namespace.clone(), secret));
                }
            }
        });
        let mut writer = self.writer.lock().expect("no holder of the lock panics");
        let Some(mut writer) = writer.take() else { return };
        let (own, store) = (queue.clone(), self.gateways.clone());
        let all = Api::<Gateway>::all(world.client.clone());
        self.tasks.spawn_until_stop("acme-gateways", async move {
            // Where the Gateway API is not defined this asks in vain, ever later.
            let events = watcher(all, watcher::Config::default()).default_backoff();
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                let Ok(event) = event else { continue };
                let before = store.state();
                writer.apply_watcher_event(&event);
                for gateway in before.into_iter().chain(store.state()) {
                    let namespace = gateway.namespace().unwrap_or_default();
                    for (secret, _) in of_gateway(&gateway) {
                        own.add(Key::new(namespace.clone(), secret));
                    }
                }
            }
        });
        let own = queue.clone();
        let ours = watcher::Config::default().labels(OURS);
        let secrets = Api::<Secret>::all(world.client.clone());
        self.tasks.spawn_until_stop("acme-secrets", async move {
            let events = watcher(secrets, ours).default_backoff();
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                if let Ok(watcher::Event::Delete(secret) | watcher::Event::Apply(secret)) = event {
                    own.add(Key::of(&secret.metadata));
                }
            }
        });
    }

    async fn reconcile(&self, world: &World, key: &Key) -> Result<Option<Duration>, Error> {
        let asked = self.asked(world, key);
        let notes = Notes::read(&world.client).await?;
        if asked.hosts.is_empty() {
            notes.forget(&world.client, key).await?;
            return Ok(None);
        }
        let (wild, hosts): (BTreeSet<String>, _) =
            asked.hosts.iter().cloned().partition(|host| host.starts_with('*'));
        if !wild.is_empty() {
            let message =
                format!("no certificate for {}: HTTP-01 cannot prove a wildcard", list(&wild));
            self.tell(&asked, EventType::Warning, "CertificateFailed", &message).await;
        }
        let now = Timestamp::now();
        let held = keep::read(&world.client, key).await?;
        let failed = notes.failed(key);
        let directory = self.authority.directory();
        match plan::plan(&hosts, held.as_ref(), failed.as_ref(), directory, now) {
            Step::Nothing => Ok(None),
            Step::Refuse(why) => {
                self.tell(&asked, EventType::Warning, "CertificateFailed", why).await;
                Ok(None)
            }
            Step::Wait(wait) => Ok(Some(wait.min(LOOK_AGAIN))),
            Step::Order => self.order(world, key, &asked, &hosts, &notes).await,
        }
    }
}
