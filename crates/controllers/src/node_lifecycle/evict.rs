//! Removes pods from nodes whose `NoExecute` taints they do not tolerate, each in its time.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Resource;
use kube::api::{DeleteParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder};

use super::health::{NOT_READY, UNREACHABLE};
use crate::driver::{Controller, Error, Key, Queue, World, gone_is_none};

/// What a pod that says nothing bears of a node's own trouble: what Kubernetes' admission writes
/// into every pod.
const UNSAID: Duration = Duration::from_secs(300);

/// Evicts by taint.
pub struct Evictions {
    started: Timestamp,
    settle: Duration,
    recorder: Recorder,
}

impl Evictions {
    /// Taints that a node got from its own trouble count only `settle` after the start: by then the
    /// node had time to show that it lives.
    pub fn new(world: &World, settle: Duration) -> Self {
        let recorder = world.recorder("taint-eviction-controller");
        Self { started: Timestamp::now(), settle, recorder }
    }
}

/// When a pod has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Stays,
    /// It goes at this time.
    Goes(Timestamp),
}

/// When `pod` has to leave `node`. No taint is older than `since`; those of a node's own trouble are
/// `settle` younger still.
pub fn plan(pod: &Pod, node: &Node, since: Timestamp, settle: Duration) -> Verdict {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let tolerations: &[Toleration] =
        pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let mut first: Option<Timestamp> = None;
    for taint in taints.filter(|taint| taint.effect == "NoExecute") {
        let trouble = taint.key == NOT_READY || taint.key == UNREACHABLE;
        let mut from = taint.time_added.as_ref().map_or(since, |added| added.0).max(since);
        if trouble && from == since {
            from = later(from, settle);
        }
        let at = match bears(tolerations, taint) {
            Bears::ForEver => continue,
            Bears::For(time) => later(from, time),
            Bears::Not if trouble => later(from, UNSAID),
            Bears::Not => from,
        };
        first = Some(first.map_or(at, |first| first.min(at)));
    }
    first.map_or(Verdict::Stays, Verdict::Goes)
}

#[derive(PartialEq, Eq)]
enum Bears {
    ForEver,
    For(Duration),
    Not,
}

fn bears(tolerations: &[Toleration], taint: &Taint) -> Bears {
    let covering = tolerations.iter().filter(|it| covers(it, taint));
    let times: Vec<Option<i64>> = covering.map(|it| it.toleration_seconds).collect();
    if times.is_empty() {
        return Bears::Not;
    }
    // Several may cover it: the shortest time holds.
    match times.into_iter().flatten().min() {
        Some(seconds) => Bears::For(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
        None => Bears::ForEver,
    }
}

fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let exists = toleration.operator.as_deref() == Some("Exists");
    let key = toleration.key.as_deref().filter(|key| !key.is_empty());
    let effect = toleration.effect.as_deref().filter(|effect| !effect.is_empty());
    effect.is_none_or(|effect| effect == taint.effect)
        && key.map_or(exists, |key| key == taint.key)
        && (exists
            || toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default())
}

fn later(from: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by)
        .ok()
        .and_then(|by| from.checked_add(by).ok())
        .unwrap_or(Timestamp::MAX)
}

impl Controller for Evictions {
    const NAME: &'static str = "taint-eviction";
    type Key = Key;

    fn wire(&self, world: &World, queue: &Queue<Key>) {
        let own = queue.clone();
        let nodes = world.nodes.clone();
        world.pods.subscribe(move |change| {
            let Some(pod) = change.new else { return };
            let node = node_of(pod).and_then(|name| nodes.get("", name));
            if node.is_some_and(|node| empties(&node)) {
                own.add(Key::of(&pod.metadata));
            }
        });
        let own = queue.clone();
        let pods = world.pods.clone();
        world.nodes.subscribe(move |change| {
            let was = change.old.map(|old| no_execute(old));
            let Some(new) = change.new else { return };
            if was.unwrap_or_default() == no_execute(new) {
                return;
            }
            let name = new.metadata.name.as_deref();
            for pod in pods.all().iter().filter(|pod| node_of(pod) == name) {
                own.add(Key::of(&pod.metadata));
            }
        });
    }

    async fn reconcile(&self, world: &World, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(pod) = world.pods.at(key) else { return Ok(None) };
        let node = node_of(&pod).and_then(|name| world.nodes.get("", name));
        let Some(node) = node.filter(|_| pod.metadata.deletion_timestamp.is_none()) else {
            return Ok(None);
        };
        let Verdict::Goes(at) = plan(&pod, &node, self.started, self.settle) else {
            return Ok(None);
        };
        let left = at.duration_since(Timestamp::now());
        if left.is_positive() {
            return Ok(Some(Duration::try_from(left).unwrap_or_default()));
        }
        let event = Event {
            type_: EventType::Normal,
            reason: "TaintManagerEviction".to_owned(),
            note: Some(format!("Marking for deletion Pod {key}")),
            action: "Deleting".to_owned(),
            secondary: None,
        };
        self.recorder.publish(&event, &pod.object_ref(&())).await?;
        let uid = pod.metadata.uid.clone();
        let params =
            DeleteParams::default().preconditions(Preconditions { uid, resource_version: None });
        gone_is_none(world.api::<Pod>(&key.namespace).delete(&key.name, &params).await)?;
        Ok(None)
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn empties(node: &Node) -> bool {
    !no_execute(node).is_empty()
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_pod_leaves_when_its_shortest_toleration_ends() {
        let since: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let check = |taints: Value, tolerations: Value, expected: Option<&str>| {
            let node: Node =
                serde_json::from_value(json!({ "spec": { "taints": taints } })).unwrap();
            let pod: Pod = serde_json::from_value(
                json!({ "spec": { "containers": [], "tolerations": tolerations } }),
            )
            .unwrap();
            let expected = expected.map_or(Verdict::Stays, |at| Verdict::Goes(at.parse().unwrap()));
            assert_eq!(
                plan(&pod, &node, since, Duration::from_secs(60)),
                expected,
                "{taints} {tolerations}"
            );
        };
        let taint = |key: &str, added: &str| json!([{ "key": key, "effect": "NoExecute", "timeAdded": added }]);
        let (before, after) = ("2025-12-31T00:00:00Z", "2026-01-01T01:00:00Z");
        let bears =
            |seconds: Option<i64>| json!([{ "operator": "Exists", "tolerationSeconds": seconds }]);
        check(json!([]), json!([]), None);
        check(json!([{ "key": "k", "effect": "NoSchedule" }]), json!([]), None);
        check(taint("k", after), json!([]), Some(after));
        check(taint("k", after), bears(None), None);
        check(taint("k", after), bears(Some(30)), Some("2026-01-01T01:00:30Z"));
        // What was tainted while nobody watched counts from the start.
        check(taint("k", before), bears(Some(30)), Some("2026-01-01T00:00:30Z"));
        // A node's own trouble: after the settling time, and five minutes unless said otherwise.
        check(taint(UNREACHABLE, after), json!([]), Some("2026-01-01T01:05:00Z"));
        check(taint(UNREACHABLE, before), json!([]), Some("2026-01-01T00:06:00Z"));
        check(taint(UNREACHABLE, before), bears(Some(30)), Some("2026-01-01T00:01:30Z"));
    }
}
