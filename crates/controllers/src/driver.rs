//! What every controller stands on: shared caches, a queue of keys, a loop with backoff.
//!
//! A controller is two things. A pure `plan(&Snapshot, now) -> Plan` that decides, tested by tables;
//! and a [`Controller`] around it that says which changes wake which key ([`Controller::wire`]) and
//! carries a plan out ([`Controller::reconcile`]).
//!
//! ```text
//!  API server ──list+watch──▶ Cache<K> (one per kind) ──change──▶ wire() ──key──▶ Queue
//!      ▲                          │ get / list                                     │
//!      └───────writes─────── reconcile(key): snapshot → plan → act ◀───────────────┘
//! ```
//!
//! # Guarantees
//! - One key is never reconciled twice at once; a change during a run causes another run.
//! - A run that fails or times out is tried again, ever later, until it succeeds.
//! - Runs begin only when every cache holds a full list.
//!
//! # Assumptions
//! A controller takes nothing from the change that woke it but the key, and passes what the server
//! answered to its writes on to [`Cache::remember`], so that its next run sees them.
//!
//! # Source
//! The informers and work queues of Kubernetes' client-go.

mod budgets;
mod cache;
mod connection;
mod feed;
mod ground;
mod queue;
mod read;
mod send;
mod slim;
mod world;

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use berth_daemon::Tasks;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::ListParams;
use serde::de::DeserializeOwned;

pub use budgets::Budgets;
pub use cache::{Cache, Change, Kept};
pub use connection::connect;
pub use feed::{Feed, Labelled, Metadata, Objects, Sink, follow};
pub use ground::{Ground, Pauser};
pub use queue::Queue;
pub use send::post;
pub use world::{ROOT_CA, World};

/// No run may take longer: each remote call within is bounded by it too.
const RUN_LIMIT: Duration = Duration::from_secs(60);

/// Name and namespace of an object; an empty namespace for what is cluster-wide.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Empty for cluster-wide kinds.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl Key {
    /// The key of `name` in `namespace`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of the object that `meta` belongs to.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The owner reference that has `controller: true`, if any.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// What a run can fail with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused, or was not reached.
    #[error("call the API server")]
    Api(#[from] kube::Error),
    /// The run took longer than a run may.
    #[error("reconcile within {} s", RUN_LIMIT.as_secs())]
    TimedOut,
    /// An object lacks what every stored object has.
    #[error("object lacks {0}")]
    Incomplete(&'static str),
    /// Work is left that only another run can do; tried again with backoff.
    #[error("{0}")]
    Unfinished(String),
}

impl Error {
    /// Whether this only says that our view was older than the world, or that others are not done
    /// yet: tried again without noise.
    pub fn is_stale_view(&self) -> bool {
        let status = match self {
            Error::Api(kube::Error::Api(status)) => status,
            other => return matches!(other, Error::Unfinished(_)),
        };
        matches!(status.code, 404 | 409)
            || (status.code == 403 && status.message.contains("being terminated"))
    }
}

/// `Ok(None)` where the server answered "not found": for deletes and for reads of what may be gone.
///
/// # Errors
/// Every other error of the call.
pub fn gone_is_none<T>(result: kube::Result<T>) -> kube::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// A call that takes no longer than `limit`.
///
/// # Errors
/// Its own, or [`kube::Error::Service`] when it is late.
pub async fn within<T>(
    limit: Duration,
    call: impl Future<Output = kube::Result<T>>,
) -> kube::Result<T> {
    tokio::time::timeout(limit, call)
        .await
        .unwrap_or_else(|late| Err(kube::Error::Service(late.into())))
}

/// All of a list, by pages as long as `page` says.
///
/// # Errors
/// Those of the calls.
pub async fn pages<K>(api: &Api<K>, mut page: ListParams) -> kube::Result<Vec<K>>
where
    K: Clone + DeserializeOwned + fmt::Debug,
{
    let mut all = Vec::new();
    loop {
        let found = api.list(&page).await?;
        all.extend(found.items);
        match found.metadata.continue_ {
            Some(next) if !next.is_empty() => page = page.continue_token(&next),
            _ => return Ok(all),
        }
    }
}

/// One controller: which changes wake which key, and what is done for a key.
pub trait Controller: Send + Sync + 'static {
    /// Kubernetes' name for it, in logs.
    const NAME: &'static str;
    /// How many keys are worked on at once.
    const WORKERS: usize = 4;
    /// What the queue holds; most often [`Key`].
    type Key: Clone + Ord + Hash + fmt::Debug + Send + Sync + 'static;

    /// Subscribes to the caches and adds keys to the queue. Called once, before any run.
    fn wire(&self, world: &World, queue: &Queue<Self::Key>);

    /// Makes the world as it should be for `key`; `Some(delay)` asks for another run by then.
    ///
    /// # Errors
    /// Any: the run is tried again with backoff.
    fn reconcile(
        &self,
        world: &World,
        key: &Self::Key,
    ) -> impl Future<Output = Result<Option<Duration>, Error>> + Send;
}

/// Runs `controller` in `tasks` until they are stopped.
pub fn run<C: Controller>(controller: C, world: &Arc<World>, tasks: &Tasks) {
    let queue = Queue::default();
    controller.wire(world, &queue);
    let world = Arc::clone(world);
    tasks.spawn_until_stop(C::NAME, async move {
        world.ready().await;
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                key = queue.next(), if running.len() < C::WORKERS => {
                    running.push(step(&controller, &world, &queue, key));
                }
                Some(()) = running.next(), if !running.is_empty() => {}
            }
        }
    });
}

async fn step<C: Controller>(controller: &C, world: &World, queue: &Queue<C::Key>, key: C::Key) {
    let result = tokio::time::timeout(RUN_LIMIT, controller.reconcile(world, &key))
        .await
        .unwrap_or(Err(Error::TimedOut));
    match result {
        Ok(next) => queue.succeeded(key, next),
        Err(error) => {
            if error.is_stale_view() {
                tracing::debug!(controller = C::NAME, ?key, error = %chain(&error), "try again");
            } else {
                tracing::warn!(controller = C::NAME, ?key, error = %chain(&error), "run failed");
            }
            queue.failed(key);
        }
    }
}

/// An error and its sources in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let part = source.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = source.source();
    }
    text
}
