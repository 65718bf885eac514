//! Follows Services and EndpointSlices, and puts what changes in force.
//!
//! What was known stays in force until both lists are complete, and whenever the API server is away.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_daemon::{Ready, Tasks};
use futures::stream::select;
use futures::{FutureExt, Stream, StreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::facts::{self, ServiceFacts, SliceFacts};
use crate::known::Clusters;
use crate::snapshot;
use crate::zone::Change;

/// Changes taken together, at most.
const BATCH: usize = 1000;
/// The snapshot is written this long after the first change it lacks, at least.
const SNAPSHOT_AFTER: Duration = Duration::from_secs(1);
/// To write a snapshot costs what the cluster is large; no more than a part of the time goes there.
const SNAPSHOT_PART: u32 = 20;

/// What is kept up to date.
pub(crate) struct Target {
    pub clusters: Arc<Clusters>,
    /// Which of them.
    pub number: usize,
    pub waited: Arc<Waited>,
    /// Told of every change.
    pub changed: watch::Sender<u64>,
}

/// Which clusters are still to be known before the server is ready.
pub(crate) struct Waited {
    left: Mutex<BTreeSet<usize>>,
    ready: Ready,
}

impl Waited {
    /// For clusters of the numbers below `count`.
    pub(crate) fn new(count: usize, ready: Ready) -> Self {
        if count == 0 {
            ready.set(true);
        }
        Self { left: Mutex::new((0..count).collect()), ready }
    }

    fn is_known(&self, number: usize) {
        let mut left = self.left.lock().expect("no holder of the lock panics");
        left.remove(&number);
        if left.is_empty() {
            self.ready.set(true);
        }
    }
}

/// Follows in `tasks` until they are stopped.
pub(crate) fn start(client: Client, target: Target, tasks: &Tasks) {
    let services = watcher(Api::<Service>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .map(|event| Seen::Service(Box::new(event)));
    let slices = berth_api::endpoints::follow(client)
        .default_backoff()
        .map(|event| Seen::Slice(Box::new(event)));
    tasks.spawn_until_stop("follow", follow(select(services, slices).boxed(), target));
}

/// Writes what the cluster of `number` is known to have to `path`, whenever it changed.
pub(crate) fn snapshots(
    clusters: Arc<Clusters>,
    number: usize,
    path: PathBuf,
    mut changed: watch::Receiver<u64>,
    tasks: &Tasks,
) {
    tasks.spawn_until_stop("snapshot", async move {
        while changed.changed().await.is_ok() {
            sleep(SNAPSHOT_AFTER).await;
            changed.mark_unchanged();
            let begun = Instant::now();
            let (clusters, path) = (Arc::clone(&clusters), path.clone());
            let written = tokio::task::spawn_blocking(move || {
                snapshot::store(&path, clusters.facts(number))
                    .inspect_err(|error| {
                        tracing::warn!(path = %path.display(), %error, "snapshot not written");
                    })
                    .is_ok()
            });
            if !written.await.unwrap_or_default() {
                changed.mark_changed();
            }
            sleep(begun.elapsed() * SNAPSHOT_PART).await;
        }
    });
}

enum Seen {
    Service(Box<watcher::Result<watcher::Event<Service>>>),
    Slice(Box<watcher::Result<watcher::Event<EndpointSlice>>>),
}

async fn follow(mut events: impl Stream<Item = Seen> + Unpin, target: Target) {
    let mut services = Followed::<ServiceFacts>::default();
    let mut slices = Followed::<SliceFacts>::default();
    let mut changes = Vec::new();
    while let Some(seen) = events.next().await {
        let more = std::iter::from_fn(|| events.next().now_or_never().flatten());
        for seen in std::iter::once(seen).chain(more.take(BATCH)) {
            changes.extend(match seen {
                Seen::Service(event) => {
                    services.take(*event, facts::of_service, Change::Service, Change::Services)
                }
                Seen::Slice(event) => {
                    slices.take(*event, facts::of_slice, Change::Slice, Change::Slices)
                }
            });
        }
        if !(services.complete && slices.complete) {
            continue;
        }
        if target.clusters.apply(target.number, std::mem::take(&mut changes)) {
            target.changed.send_modify(|count| *count += 1);
        }
        target.waited.is_known(target.number);
    }
}

/// The list that is being taken in, of one kind.
struct Followed<F> {
    listing: BTreeMap<String, F>,
    complete: bool,
}

impl<F> Default for Followed<F> {
    fn default() -> Self {
        Self { listing: BTreeMap::new(), complete: false }
    }
}

impl<F> Followed<F> {
    fn take<K: ResourceExt>(
        &mut self,
        event: watcher::Result<watcher::Event<K>>,
        read: fn(&K) -> Option<F>,
        one: fn(String, Option<F>) -> Change,
        all: fn(BTreeMap<String, F>) -> Change,
    ) -> Option<Change> {
        match event {
            Ok(watcher::Event::Init) => self.listing.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                if let Some(facts) = read(&object) {
                    self.listing.insert(key(&object), facts);
                }
            }
            Ok(watcher::Event::InitDone) => {
                self.complete = true;
                return Some(all(std::mem::take(&mut self.listing)));
            }
            Ok(watcher::Event::Apply(object)) => return Some(one(key(&object), read(&object))),
            Ok(watcher::Event::Delete(object)) => return Some(one(key(&object), None)),
            Err(error) => tracing::debug!(%error, "watch broke, trying again"),
        }
        None
    }
}

/// `namespace/name`.
pub(crate) fn key(object: &impl ResourceExt) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}
