//! Which pod goes first when a ReplicaSet or Job becomes smaller.
//!
//! The one whose loss is felt least: not yet placed, not yet running, not ready, said to be cheap,
//! sharing its node with more of its kind, ready for the shortest time, most restarted, youngest.
//!
//! Source: the documented order of ReplicaSet scale-down, with KEP-2255 (deletion cost) and KEP-2185
//! (ages compared in powers of two, so that a second's difference does not decide).

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::pod;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Sorts `pods` so that the first is deleted first.
///
/// `related` are the pods whose spread over nodes is to be kept even: this set's and its siblings'.
pub(crate) fn sort(pods: &mut [Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) {
    let mut crowd: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in related.iter().filter(|pod| pod::is_active(pod)) {
        if let Some(node) = pod::node(pod) {
            *crowd.entry(node).or_default() += 1;
        }
    }
    pods.sort_by(|a, b| compare(a, b, &crowd, now));
}

fn compare(a: &Pod, b: &Pod, crowd: &BTreeMap<&str, usize>, now: Timestamp) -> Ordering {
    let company = |p: &Pod| pod::node(p).and_then(|node| crowd.get(node)).copied().unwrap_or(0);
    let first = |p: &Pod| {
        (
            pod::node(p).is_some(),
            match pod::phase(p) {
                "Pending" => 0,
                "Unknown" => 1,
                _ => 2,
            },
            pod::is_ready(p),
            cost(p),
            Reverse(company(p)),
            age_class(pod::ready_since(p), now),
            Reverse(restarts(p)),
            age_class(p.metadata.creation_timestamp.as_ref().map(|time| time.0), now),
        )
    };
    first(a).cmp(&first(b)).then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn cost(pod: &Pod) -> i32 {
    pod::annotation(&pod.metadata, DELETION_COST).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or(0)
}

/// 0 for nothing, then one more for each doubling of the age in seconds.
fn age_class(since: Option<Timestamp>, now: Timestamp) -> u32 {
    let Some(since) = since else { return 0 };
    let seconds = now.duration_since(since).as_secs().max(0).unsigned_abs();
    64 - seconds.leading_zeros() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::serde_json::json;

    fn pod(name: &str, extra: k8s_openapi::serde_json::Value) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2030-01-01T00:00:00Z"},
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2030-01-01T00:00:00Z"}]}
        });
        json_patch_merge(&mut value, extra);
        Arc::new(serde_json::from_value(value).expect("a pod"))
    }

    fn json_patch_merge(into: &mut serde_json::Value, from: serde_json::Value) {
        match (into, from) {
            (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
                for (key, value) in from {
                    json_patch_merge(into.entry(key).or_insert(serde_json::Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }

    #[test]
    fn the_pod_whose_loss_is_felt_least_goes_first() {
        let now = "2030-01-02T00:00:00Z".parse().expect("a time");
        let mut pods = vec![
            pod("good", json!({})),
            pod("crowded", json!({"spec": {"nodeName": "n2"}})),
            pod("cheap", json!({"metadata": {"annotations": {DELETION_COST: "-5"}}})),
            pod("dear", json!({"metadata": {"annotations": {DELETION_COST: "5"}}})),
            pod("unready", json!({"status": {"conditions": []}})),
            pod("pending", json!({"status": {"phase": "Pending"}})),
            pod("unplaced", json!({"spec": {"nodeName": null}})),
            pod("young", json!({"metadata": {"creationTimestamp": "2030-01-01T23:00:00Z"}})),
            pod(
                "restarted",
                json!({"status": {"containerStatuses": [
                {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 3}]}}),
            ),
        ];
        let mut related = pods.clone();
        related.extend((0..9).map(|i| pod(&format!("s{i}"), json!({"spec": {"nodeName": "n2"}}))));
        sort(&mut pods, &related, now);
        let order: Vec<_> = pods.iter().filter_map(|p| p.metadata.name.as_deref()).collect();
        let expected = [
            "unplaced",
            "pending",
            "unready",
            "cheap",
            "crowded",
            "restarted",
            "young",
            "good",
            "dear",
        ];
        assert_eq!(order, expected);
    }
}
