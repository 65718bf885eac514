//! Following a kind: a local copy that outlives the API server's absence.
//!
//! A copy is replaced only by a complete newer one: while the API server is away, readers keep
//! what was seen last.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use tokio::sync::Notify;

use berth_daemon::{Ready, Tasks};

use crate::kept::{Kept, Key};

/// The local copy of one kind.
pub(crate) struct Followed<K> {
    copy: Arc<Mutex<Kept<Key, K>>>,
    synced: Ready,
}

impl<K> Clone for Followed<K> {
    fn clone(&self) -> Self {
        Self { copy: self.copy.clone(), synced: self.synced.clone() }
    }
}

impl<K> Followed<K> {
    /// The objects last seen, in no order, or `None` before the first complete list.
    pub(crate) fn objects(&self) -> Option<Vec<Arc<K>>> {
        Some(self.kept()?.values().cloned().collect())
    }

    /// The same by namespace and name, at no cost, however many they are.
    pub(crate) fn kept(&self) -> Option<Kept<Key, K>> {
        let copy = || self.copy.lock().expect("nothing panics while it holds the lock").clone();
        self.synced.is_ready().then(copy)
    }

    fn replace(&self, by: Kept<Key, K>) {
        *self.copy.lock().expect("nothing panics while it holds the lock") = by;
    }
}

/// Namespace and name of `object`.
pub(crate) fn key_of(object: &impl ResourceExt) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Keeps a copy of what `events` tell of; `changed` is notified after each change of it.
///
/// A kind that this account may not see, or that there is none of, counts as empty: it must not
/// keep the others from being acted on.
pub(crate) fn follow<K>(
    name: &'static str,
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
    changed: Arc<Notify>,
    tasks: &Tasks,
) -> Followed<K>
where
    K: Resource + Clone + Debug + Send + Sync + 'static,
{
    let synced = Ready::default();
    let followed = Followed { copy: Arc::default(), synced: synced.clone() };
    let copy = followed.clone();
    tasks.spawn_until_stop(name, async move {
        let events = events
            .modify(|object: &mut K| object.managed_fields_mut().clear())
            .backoff(Retry::default());
        let mut events = std::pin::pin!(events);
        let (mut kept, mut listed) = (Kept::<Key, K>::default(), Kept::default());
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
            match event {
                watcher::Event::Init => {
                    listed = Kept::default();
                    continue;
                }
                watcher::Event::InitApply(object) => {
                    let key = key_of(&object);
                    // What is listed again and did not change stays the very same.
                    let same = |known: &&Arc<K>| {
                        known.resource_version().is_some()
                            && known.resource_version() == object.resource_version()
                            && known.uid() == object.uid()
                    };
                    let known = kept.get(&key).filter(same).cloned();
                    listed.insert(key, known.unwrap_or_else(|| Arc::new(object)));
                    continue;
                }
                watcher::Event::InitDone => kept = std::mem::take(&mut listed),
                watcher::Event::Apply(object) => {
                    kept.insert(key_of(&object), Arc::new(object));
                }
                watcher::Event::Delete(object) => {
                    kept.remove(&key_of(&object));
                }
            }
            copy.replace(kept.clone());
            synced.set(true);
            changed.notify_one();
        }
    });
    followed
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
