//! Says of every pod that was bound that it was, behind the bindings and never in their way.
//!
//! Each such event is the first and only of its pod, so that nothing needs to be looked up or kept
//! in order to count repetitions; what is repeated, above all why a pod fits nowhere, goes through
//! [`kube::runtime::events::Recorder`]. That one looks through all it wrote in the last minutes on
//! each event: with thousands of bindings a second, that would be most of the work.
//!
//! Few are written at once and the queue is bounded: when bindings outrun it for long, events are
//! left out, which Kubernetes' own schedulers do too.

use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::act::limited;
use crate::driver::{Key, chain};

/// Bindings that wait for their event.
const QUEUE: usize = 20_000;
/// Events under way at once: enough for thousands a second, few enough to leave the server to
/// bindings.
const AT_ONCE: usize = 2;

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
}

impl Events {
    /// A queue, and the work of writing what comes in as `controller`.
    pub fn begin(client: Client, controller: String) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, receiver) = channel(QUEUE);
        (Self { queue }, write(client, controller, receiver))
    }

    /// A pod was bound.
    pub fn bound(&self, key: &Key, uid: &str, node: &str) {
        let bound = Bound { key: key.clone(), uid: uid.to_owned(), node: node.to_owned() };
        if self.queue.try_send(bound).is_err() {
            tracing::debug!(pod = %key, "too many events wait, its own is left out");
        }
    }
}

async fn write(client: Client, controller: String, receiver: Receiver<Bound>) {
    let (client, controller, number) = (&client, &controller, &AtomicU64::new(0));
    let queue = futures::stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    });
    queue
        .for_each_concurrent(AT_ONCE, |bound| async move {
            let at = number.fetch_add(1, Ordering::Relaxed);
            let event = event(&bound, controller, Timestamp::now(), at);
            let api: Api<Event> = Api::namespaced(client.clone(), &bound.key.namespace);
            let params = PostParams::default();
            let made = async { Ok(api.create(&params, &event).await?) };
            if let Err(error) = limited(made).await {
                tracing::debug!(pod = %bound.key, error = %chain(&error), "event not written");
            }
        })
        .await;
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
