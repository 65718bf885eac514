//! Follows Services and EndpointSlices, and puts a new zone in force when they change.
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
use tokio::time::{Instant, sleep_until};

use crate::facts::{self, Facts, ServiceFacts, SliceFacts};
use crate::known::Clusters;
use crate::snapshot;

/// Changes taken together into one new zone, at most.
const BATCH: usize = 1000;
/// The snapshot is written this long after the first change it lacks: not for every single one.
const SNAPSHOT_AFTER: Duration = Duration::from_secs(1);

/// What is kept up to date.
pub(crate) struct Target {
    pub clusters: Arc<Clusters>,
    /// Which of them.
    pub number: usize,
    pub waited: Arc<Waited>,
    pub snapshot: Option<PathBuf>,
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

enum Seen {
    Service(Box<watcher::Result<watcher::Event<Service>>>),
    Slice(Box<watcher::Result<watcher::Event<EndpointSlice>>>),
}

async fn follow(mut events: impl Stream<Item = Seen> + Unpin, target: Target) {
    let mut services = Followed::<ServiceFacts>::default();
    let mut slices = Followed::<SliceFacts>::default();
    let mut in_force: Option<Facts> = None;
    let mut write_at: Option<Instant> = None;
    loop {
        let write = async {
            match write_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let seen = tokio::select! {
            seen = events.next() => seen,
            () = write => {
                write_at = None;
                if let (Some(path), Some(facts)) = (&target.snapshot, &in_force)
                    && let Err(error) = snapshot::store(path, facts).await
                {
                    tracing::warn!(path = %path.display(), %error, "snapshot not written");
                }
                continue;
            }
        };
        let Some(seen) = seen else { return };
        let more = std::iter::from_fn(|| events.next().now_or_never().flatten());
        for seen in std::iter::once(seen).chain(more.take(BATCH)) {
            match seen {
                Seen::Service(event) => services.take(*event, facts::of_service),
                Seen::Slice(event) => slices.take(*event, facts::of_slice),
            }
        }
        if !(services.complete && slices.complete) {
            continue;
        }
        let unchanged = in_force
            .as_ref()
            .is_some_and(|facts| facts.services == services.known && facts.slices == slices.known);
        if !unchanged {
            let facts = Facts { services: services.known.clone(), slices: slices.known.clone() };
            target.clusters.set(target.number, facts.clone());
            in_force = Some(facts);
            if target.snapshot.is_some() {
                write_at.get_or_insert_with(|| Instant::now() + SNAPSHOT_AFTER);
            }
        }
        target.waited.is_known(target.number);
    }
}

/// The objects of one kind, and the list that is being taken in.
struct Followed<F> {
    known: BTreeMap<String, F>,
    listing: BTreeMap<String, F>,
    complete: bool,
}

impl<F> Default for Followed<F> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), listing: BTreeMap::new(), complete: false }
    }
}

impl<F> Followed<F> {
    fn take<K: ResourceExt>(
        &mut self,
        event: watcher::Result<watcher::Event<K>>,
        read: fn(&K) -> Option<F>,
    ) {
        let key = |object: &K| {
            format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
        };
        match event {
            Ok(watcher::Event::Init) => self.listing.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                if let Some(facts) = read(&object) {
                    self.listing.insert(key(&object), facts);
                }
            }
            Ok(watcher::Event::InitDone) => {
                self.known = std::mem::take(&mut self.listing);
                self.complete = true;
            }
            Ok(watcher::Event::Apply(object)) => {
                match read(&object) {
                    Some(facts) => self.known.insert(key(&object), facts),
                    None => self.known.remove(&key(&object)),
                };
            }
            Ok(watcher::Event::Delete(object)) => {
                self.known.remove(&key(&object));
            }
            Err(error) => tracing::debug!(%error, "watch broke, trying again"),
        }
    }
}
