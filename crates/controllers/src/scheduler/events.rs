//! Says of pods what was decided, behind the bindings and never in their way.
//!
//! That a pod was bound or displaced is said once. Why it fits nowhere is said anew only in other
//! words, and of one pod in no more than a score of them at once: nothing needs to be looked up in
//! order to count repetitions. ([`kube::runtime::events::Recorder`] looks through all it wrote in
//! the last minutes on each event: with thousands a second, that would be most of the work.)
//!
//! While bindings are under way one event is written at a time, else a few: the server's time is
//! the bindings' first. The queue is bounded: when bindings outrun it for long, events are left out,
//! which Kubernetes' own schedulers do too.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

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
use crate::workloads::recorder::Said;

/// Events that wait to be written.
const QUEUE: usize = 20_000;
/// Events under way at once where nothing is being bound.
const AT_ONCE: usize = 8;

/// The longest text that Kubernetes takes.
const LONGEST: usize = 1024;

/// What is said of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saying {
    /// It was bound.
    Bound,
    /// It fits nowhere.
    Failed,
    /// It had to go.
    Displaced,
}

/// An event that is to be written.
struct Told {
    key: Key,
    uid: String,
    saying: Saying,
    note: String,
}

/// Where it is told. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    queue: Sender<Told>,
    bindings: Arc<AtomicUsize>,
    failures: Arc<Mutex<Said>>,
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
            Self { queue, bindings: Arc::clone(&bindings), failures: Arc::default() },
            write(client, controller, receiver, bindings),
        )
    }

    /// A binding begins; it ends with what is returned.
    pub fn hold_back(&self) -> HeldBack {
        self.bindings.fetch_add(1, Ordering::Relaxed);
        HeldBack(Arc::clone(&self.bindings))
    }

    /// Tells people of a pod.
    pub fn tell(&self, key: &Key, uid: &str, saying: Saying, note: String) {
        if saying == Saying::Failed {
            let mut failures = self.failures.lock().expect("no holder of the lock panics");
            if !failures.take(uid, Instant::now()) {
                return;
            }
        }
        let told = Told { key: key.clone(), uid: uid.to_owned(), saying, note };
        if self.queue.try_send(told).is_err() {
            tracing::debug!(pod = %key, "too many events wait, its own is left out");
        }
    }
}

async fn write(
    client: Client,
    controller: String,
    mut queue: Receiver<Told>,
    bindings: Arc<AtomicUsize>,
) {
    let (client, controller) = (&client, &controller);
    let mut under_way = FuturesUnordered::new();
    let mut number = 0;
    while let Some(told) = queue.recv().await {
        number += 1;
        let event = event(&told, controller, Timestamp::now(), number);
        under_way.push(async move {
            let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", told.key.namespace);
            let made = async { Ok(post(client, &path, &event).await?) };
            if let Err(error) = limited(made).await {
                tracing::debug!(pod = %told.key, error = %chain(&error), "event not written");
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
fn event(told: &Told, controller: &str, now: Timestamp, at: u64) -> Event {
    let Told { key, uid, saying, note } = told;
    let (kind, reason, action) = match saying {
        Saying::Bound => ("Normal", "Scheduled", "Binding"),
        Saying::Failed => ("Warning", "FailedScheduling", "Scheduling"),
        Saying::Displaced => ("Normal", "Preempted", "Preempting"),
    };
    let moment = now.as_nanosecond() + i128::from(at % 1_000);
    Event {
        action: Some(action.to_owned()),
        reason: Some(reason.to_owned()),
        type_: Some(kind.to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(cut(note).to_owned()),
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

/// As much of a text as an event may hold.
fn cut(note: &str) -> &str {
    let end = (0..=LONGEST.min(note.len())).rev().find(|end| note.is_char_boundary(*end));
    &note[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_moment_have_names_of_their_own() {
        let told = |saying| Told {
            key: Key::new("shop", "web-0"),
            uid: "1".to_owned(),
            saying,
            note: "0/3 nodes are available".to_owned(),
        };
        let now = Timestamp::UNIX_EPOCH;
        let bound = told(Saying::Bound);
        let (one, other) = (event(&bound, "berth", now, 1), event(&bound, "berth", now, 2));
        assert_ne!(one.metadata.name, other.metadata.name);
        assert_eq!(one.regarding.and_then(|pod| pod.uid).as_deref(), Some("1"));
        assert_eq!(
            (one.reason.as_deref(), one.type_.as_deref()),
            (Some("Scheduled"), Some("Normal"))
        );
        let failed = event(&told(Saying::Failed), "berth", now, 3);
        assert_eq!(failed.note.as_deref(), Some("0/3 nodes are available"));
        assert_eq!(failed.type_.as_deref(), Some("Warning"));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let text = "é".repeat(600) + "e";
        assert_eq!(cut(&text).len(), 1024);
        assert_eq!(cut(&format!("e{text}")).len(), 1023);
    }
}
