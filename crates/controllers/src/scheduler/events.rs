//! Says of every pod that was bound that it was, behind the bindings and never in their way.
//!
//! Each such event is the first and only of its pod, so that nothing needs to be looked up or kept
//! in order to count repetitions; what is repeated, above all why a pod fits nowhere, goes through
//! [`kube::runtime::events::Recorder`]. That one looks through all it wrote in the last minutes on
//! each event: with thousands of bindings a second, that would be most of the work.
//!
//! While bindings are under way one event is written at a time, else a few: the server's time is
//! the bindings' first. The queue is bounded: when bindings outrun it for long, events are left out,
//! which Kubernetes' own schedulers do too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::ObjectMeta;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::act::limited;
use crate::driver::{Key, chain, post};

/// Bindings that wait for their event.
const QUEUE: usize = 20_000;
/// Events under way at once where nothing is being bound.
const AT_ONCE: usize = 8;

/// A pod that was bound.
struct Bound {
    key: Key,
    uid: String,
    node: String,
}

/// Where bindings are told. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    queue: Sender<Bound>,
    bindings: Arc<AtomicUsize>,
}

/// While it is kept, events stand back behind a binding.
pub struct HeldBack(Arc<AtomicUsize>);

impl Drop for HeldBack {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Events {
    /// A queue, and the work of writing what comes in as `controller`.
    pub fn begin(client: Client, controller: String) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, receiver) = channel(QUEUE);
        let bindings = Arc::new(AtomicUsize::new(0));
        (
            Self { queue, bindings: Arc::clone(&bindings) },
            write(client, controller, receiver, bindings),
        )
    }

    /// A binding begins; it ends with what is returned.
    pub fn hold_back(&self) -> HeldBack {
        self.bindings.fetch_add(1, Ordering::Relaxed);
        HeldBack(Arc::clone(&self.bindings))
    }

    /// A pod was bound.
    pub fn bound(&self, key: &Key, uid: &str, node: &str) {
        let bound = Bound { key: key.clone(), uid: uid.to_owned(), node: node.to_owned() };
        if self.queue.try_send(bound).is_err() {
            tracing::debug!(pod = %key, "too many events wait, its own is left out");
        }
    }
}

async fn write(
    client: Client,
    controller: String,
    mut queue: Receiver<Bound>,
    bindings: Arc<AtomicUsize>,
) {
    let (client, controller) = (&client, &controller);
    let mut under_way = FuturesUnordered::new();
    let mut number = 0;
    while let Some(bound) = queue.recv().await {
        number += 1;
        let event = event(&bound, controller, Timestamp::now(), number);
        under_way.push(async move {
            let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", bound.key.namespace);
            let made = async { Ok(post(client, &path, &event).await?) };
            if let Err(error) = limited(made).await {
                tracing::debug!(pod = %bound.key, error = %chain(&error), "event not written");
            }
        });
        // Also where none waits behind it: what was begun is brought to its end.
        while under_way.len() >= at_once(&bindings) || (queue.is_empty() && !under_way.is_empty()) {
            under_way.next().await;
        }
    }
}

fn at_once(bindings: &AtomicUsize) -> usize {
    if bindings.load(Ordering::Relaxed) > 0 { 1 } else { AT_ONCE }
}

/// `at` tells events of one moment apart.
fn event(bound: &Bound, controller: &str, now: Timestamp, at: u64) -> Event {
    let Bound { key, uid, node } = bound;
    let moment = now.as_nanosecond() + i128::from(at % 1_000);
    Event {
        action: Some("Binding".to_owned()),
        reason: Some("Scheduled".to_owned()),
        type_: Some("Normal".to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(format!("Successfully assigned {key} to {node}")),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            uid: Some(uid.clone()),
            ..ObjectReference::default()
        }),
        metadata: ObjectMeta {
            name: Some(format!("{}.{moment:x}", key.name)),
            namespace: Some(key.namespace.clone()),
            ..ObjectMeta::default()
        },
        reporting_controller: Some(controller.to_owned()),
        reporting_instance: Some(controller.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_moment_have_names_of_their_own() {
        let bound =
            Bound { key: Key::new("shop", "web-0"), uid: "1".to_owned(), node: "n".to_owned() };
        let now = Timestamp::UNIX_EPOCH;
        let (one, other) = (event(&bound, "berth", now, 1), event(&bound, "berth", now, 2));
        assert_ne!(one.metadata.name, other.metadata.name);
        assert_eq!(one.note.as_deref(), Some("Successfully assigned shop/web-0 to n"));
        assert_eq!(one.regarding.and_then(|pod| pod.uid).as_deref(), Some("1"));
    }
}
