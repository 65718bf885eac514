//! Which template was the how-manyth: what `kubectl rollout history` and `undo` read.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Wanted;
use crate::workloads::pod::annotation;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Entries of the history annotation that are kept; it only informs.
const HISTORY_ENTRIES: usize = 50;

/// The revision an object says it is; 0 when it says none.
pub(super) fn of(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The revision that the current template has: one more than any earlier one.
pub(super) fn next(old: &[Arc<ReplicaSet>]) -> i64 {
    old.iter().map(|set| of(&set.metadata)).max().unwrap_or(0) + 1
}

/// `revision`, unless `meta` says so already.
pub(super) fn differs(meta: &ObjectMeta, revision: i64) -> Option<i64> {
    (of(meta) != revision && revision > 0).then_some(revision)
}

/// The annotations that a set takes over from its Deployment.
pub(super) fn inherited(meta: &ObjectMeta) -> BTreeMap<String, String> {
    let own = [REVISION, DESIRED, MAX, HISTORY, LAST_APPLIED];
    let all = meta.annotations.iter().flatten();
    all.filter(|(key, _)| !own.contains(&key.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

/// `new` as it should be annotated: a template that comes back takes the next revision, and its
/// former number goes into the history.
pub(super) fn sync(wanted: &Wanted<'_>, new: &ReplicaSet, next: i64) -> ReplicaSet {
    let mut set = new.clone();
    let before = of(&new.metadata);
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.extend(inherited(&wanted.deployment.metadata));
    if before < next {
        annotations.insert(REVISION.into(), next.to_string());
        if before > 0 {
            let history = annotations.entry(HISTORY.into()).or_default();
            let mut entries: Vec<&str> = history.split(',').filter(|e| !e.is_empty()).collect();
            let before = before.to_string();
            entries.push(&before);
            let skip = entries.len().saturating_sub(HISTORY_ENTRIES);
            *history = entries[skip..].join(",");
        }
    }
    if let Some(spec) = &mut set.spec {
        spec.min_ready_seconds = wanted.spec.min_ready_seconds;
    }
    set
}
