//! What the workload controllers ask of a pod, and how they make one from a template.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Whether the pod's `Ready` condition is true.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some_and(|(ready, _)| ready)
}

/// When the pod became ready, if it is.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    ready_condition(pod).filter(|(ready, _)| *ready).and_then(|(_, since)| since)
}

/// When the pod counts as available: ready for `min_ready_seconds`; `None` while it is not ready.
pub(crate) fn available_from(pod: &Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready_seconds <= 0 {
        return Some(Timestamp::MIN);
    }
    let since = ready_since(pod)?;
    since.checked_add(SignedDuration::from_secs(i64::from(min_ready_seconds))).ok()
}

/// Whether the pod is available at `now`.
pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    available_from(pod, min_ready_seconds).is_some_and(|from| from <= now)
}

/// The pod's phase; `Pending` until a node agent says otherwise.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

/// Whether someone asked for the pod's end.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the pod has run to its end, well or badly.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the pod counts towards a workload's size.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

/// A pod that ended is removed no sooner than this after it began; otherwise a pod that fails at
/// once would be made anew as fast as the API server allows.
const ENDED_KEPT: SignedDuration = SignedDuration::from_secs(10);

/// From when on a pod that ended may be made anew.
pub(crate) fn replaced_from(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref()?.0.checked_add(ENDED_KEPT).ok()
}

/// The node the pod is bound to.
pub(crate) fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|name| !name.is_empty())
}

/// A label's value, empty when it is absent.
pub(crate) fn label<'a>(meta: &'a ObjectMeta, key: &str) -> &'a str {
    meta.labels.as_ref().and_then(|labels| labels.get(key)).map_or("", String::as_str)
}

/// An annotation's value.
pub(crate) fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str)
}

/// A pod as `template` describes it, named by the API server after `owner`, with `labels` added.
pub(crate) fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    owner: OwnerReference,
    labels: &[(&str, &str)],
) -> Pod {
    let given = template.metadata.clone().unwrap_or_default();
    let mut all: BTreeMap<String, String> = given.labels.unwrap_or_default();
    all.extend(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", shorten(&owner.name, 57))),
            namespace: Some(namespace.to_owned()),
            labels: Some(all),
            annotations: given.annotations,
            finalizers: given.finalizers,
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The longest start of `name` with at most `most` bytes; names are ASCII.
fn shorten(name: &str, most: usize) -> &str {
    name.get(..most).unwrap_or(name)
}

fn ready_condition(pod: &Pod) -> Option<(bool, Option<Timestamp>)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    Some((ready.status == "True", ready.last_transition_time.as_ref().map(|time| time.0)))
}
