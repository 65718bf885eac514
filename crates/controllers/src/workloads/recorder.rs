//! Events: what people read in `kubectl describe`.
//!
//! One Event for each thing said about an object, counted when it is said again: twenty scaling
//! steps are twenty messages, a refusal that repeats with every retry is one. kube's own recorder
//! counts by reason alone and keeps only the first message.
//!
//! About one object a controller says a good deal at once and then little: a set of ten thousand pods
//! is not ten thousand Events. The measure is that of client-go's spam filter.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::events::EventType;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::Note;
use crate::driver::{World, chain};

/// An Event only informs: work does not wait longer for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Leaves room for the hash in an object's name of at most 253 characters.
const MOST_NAME: usize = 230;

/// What may be said about one object at once, and how long until one more may be.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// Objects that are remembered; those about which everything may be said again go first.
const MOST_OBJECTS: usize = 4096;

/// Writes Events under the name of one controller.
pub(crate) struct Recorder {
    client: kube::Client,
    controller: &'static str,
    said: Mutex<Said>,
}

/// How much was said about which object, by UID.
#[derive(Default)]
pub(crate) struct Said(HashMap<String, (f64, Instant)>);

impl Said {
    /// Whether one more Event may be written; if so, it counts as written.
    pub(crate) fn take(&mut self, uid: &str, now: Instant) -> bool {
        let left = |(left, at): (f64, Instant)| {
            let passed = now.saturating_duration_since(at).as_secs_f64();
            (left + passed / REFILL.as_secs_f64()).min(BURST)
        };
        let before = self.0.get(uid).copied().map_or(BURST, left);
        if before < 1.0 {
            return false;
        }
        if !self.0.contains_key(uid) && self.0.len() >= MOST_OBJECTS {
            self.0.retain(|_, known| left(*known) < BURST);
            if self.0.len() >= MOST_OBJECTS {
                self.0.clear();
            }
        }
        self.0.insert(uid.to_owned(), (before - 1.0, now));
        true
    }
}

impl Recorder {
    pub(crate) fn new(world: &World, controller: &'static str) -> Self {
        Self { client: world.client.clone(), controller, said: Mutex::default() }
    }

    /// Tells people; that it could not be written is no reason for its caller to fail.
    pub(crate) async fn tell<O>(&self, about: &O, type_: EventType, note: Note)
    where
        O: kube::Resource<DynamicType = ()>,
    {
        let uid = about.meta().uid.as_deref().unwrap_or_default();
        if !self.said.lock().expect("no holder of the lock panics").take(uid, Instant::now()) {
            return;
        }
        let event = self.event(about, type_, note, Timestamp::now());
        match tokio::time::timeout(PATIENCE, self.write(&event)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(error = %chain(&error), "event not written"),
            Err(_) => tracing::debug!("event not written in time"),
        }
    }

    async fn write(&self, event: &Event) -> kube::Result<()> {
        let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        match api.create(&PostParams::default(), event).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => return other.map(drop),
        }
        let name = event.metadata.name.as_deref().unwrap_or_default();
        let count = api.get(name).await?.count.unwrap_or(1).saturating_add(1);
        let patch = json!({ "count": count, "lastTimestamp": event.last_timestamp });
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
    }

    fn event<O>(&self, about: &O, type_: EventType, note: Note, now: Timestamp) -> Event
    where
        O: kube::Resource<DynamicType = ()>,
    {
        let involved = about.object_ref(&());
        let mut hasher = Sha256::new();
        let uid = involved.uid.as_deref().unwrap_or_default();
        for part in [uid, note.reason, &note.message, self.controller] {
            hasher.update(part.as_bytes());
            hasher.update([0]);
        }
        let hash = hasher.finalize();
        let hash = hash.iter().take(8).fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let name = involved.name.as_deref().unwrap_or_default();
        let name = name.get(..MOST_NAME).unwrap_or(name);
        let type_ = match type_ {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        };
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{hash:016x}")),
                namespace: Some(involved.namespace.clone().unwrap_or_else(|| "default".into())),
                ..Default::default()
            },
            involved_object: involved,
            reason: Some(note.reason.into()),
            message: Some(note.message),
            type_: Some(type_.into()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource { component: Some(self.controller.into()), host: None }),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_one_object_much_is_said_at_once_and_then_little() {
        let (mut said, begun) = (Said::default(), Instant::now());
        let at_once = (0..100).filter(|_| said.take("a", begun)).count();
        assert_eq!(at_once, 25);
        assert!(said.take("b", begun), "of another object");
        assert!(!said.take("a", begun + Duration::from_secs(299)));
        assert!(said.take("a", begun + Duration::from_secs(301)));
        assert!(!said.take("a", begun + Duration::from_secs(302)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut said, now) = (Said::default(), Instant::now());
        for at in 0..3 * MOST_OBJECTS {
            assert!(said.take(&at.to_string(), now));
            assert!(said.0.len() <= MOST_OBJECTS);
        }
        let later = now + 2 * REFILL;
        assert!(said.take("new", later));
        assert_eq!(said.0.len(), 1, "the others may say everything again");
    }
}
