//! Following a kind: a local copy that outlives the API server's absence.
//!
//! A copy is replaced only by a complete newer one: while the API server is away, readers keep
//! what was seen last.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use tokio::sync::Notify;

use berth_daemon::{Ready, Tasks};

/// The local copy of one kind.
#[derive(Clone)]
pub(crate) struct Followed<K: Resource + Clone + 'static>
where
    K::DynamicType: Eq + Hash + Clone,
{
    store: Store<K>,
    synced: Ready,
}

impl<K: Resource + Clone + 'static> Followed<K>
where
    K::DynamicType: Eq + Hash + Clone,
{
    /// The objects last seen, in no order, or `None` before the first complete list.
    pub(crate) fn objects(&self) -> Option<Vec<Arc<K>>> {
        self.synced.is_ready().then(|| self.store.state())
    }
}

/// Keeps a copy of what `events` tell of; `changed` is notified after each change of it.
pub(crate) fn follow<K>(
    name: &'static str,
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
    changed: Arc<Notify>,
    tasks: &Tasks,
) -> Followed<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    follow_as(name, (), events, changed, tasks)
}

/// [`follow`] for a kind that is known only while we run.
///
/// A kind that this account may not see, or that there is none of, counts as empty: it must not
/// keep the others from being acted on.
pub(crate) fn follow_as<K>(
    name: &'static str,
    types: K::DynamicType,
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
    changed: Arc<Notify>,
    tasks: &Tasks,
) -> Followed<K>
where
    K: Resource + Clone + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Send + Sync,
{
    let mut writer = reflector::store::Writer::new(types);
    let store = writer.as_reader();
    let synced = Ready::default();
    let copy = Followed { store, synced: synced.clone() };
    tasks.spawn_until_stop(name, async move {
        let events = events
            .modify(|object: &mut K| object.managed_fields_mut().clear())
            .backoff(Retry::default());
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    tracing::debug!(kind = name, %error, "watch interrupted, keeping the last copy");
                    if is_refused(&error) && !synced.is_ready() {
                        tracing::warn!(kind = name, %error, "not followed until it is allowed");
                        synced.set(true);
                        changed.notify_one();
                    }
                    continue;
                }
            };
            writer.apply_watcher_event(&event);
            match event {
                watcher::Event::InitDone => synced.set(true),
                watcher::Event::Apply(_) | watcher::Event::Delete(_) => {}
                watcher::Event::Init | watcher::Event::InitApply(_) => continue,
            }
            changed.notify_one();
        }
    });
    copy
}

/// Whether the API server said that there is no such kind, or not for us.
pub(crate) fn is_refused(error: &watcher::Error) -> bool {
    let of = |error: &kube::Error| matches!(error, kube::Error::Api(status) if matches!(status.code, 403 | 404));
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => {
            of(error)
        }
        watcher::Error::WatchError(status) => matches!(status.code, 403 | 404),
        _ => false,
    }
}

/// Tries again within seconds: the API server is on this machine, or close, and an endpoint that
/// is not learnt of costs requests. kube's own default waits up to half a minute.
struct Retry(berth_daemon::Backoff);

impl Default for Retry {
    fn default() -> Self {
        Self(berth_daemon::Backoff::new(Duration::from_millis(100), Duration::from_secs(3)))
    }
}

impl Iterator for Retry {
    type Item = Duration;
    fn next(&mut self) -> Option<Duration> {
        Some(self.0.next_delay())
    }
}

impl kube::runtime::utils::Backoff for Retry {
    fn reset(&mut self) {
        self.0.reset();
    }
}
