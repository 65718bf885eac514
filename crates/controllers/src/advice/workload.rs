//! To which workload a pod belongs: the owner's owner, where there is one.

use std::fmt;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use crate::driver::{Cache, controller_of};

/// What people size: a Deployment rather than its ReplicaSet, a CronJob rather than its Jobs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workload {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `Deployment`, `StatefulSet`, …
    pub kind: String,
    /// `metadata.name`.
    pub name: String,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.kind, self.name)
    }
}

impl Workload {
    /// The text that it displays as, read back.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/').map(str::to_owned);
        let own = Self { namespace: parts.next()?, kind: parts.next()?, name: parts.next()? };
        parts.next().is_none().then_some(own)
    }

    /// Whose `pod` is; `None` for a pod of nobody's.
    pub fn of(pod: &Pod, sets: &Cache<ReplicaSet>, jobs: &Cache<Job>) -> Option<Self> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let owner = controller_of(&pod.metadata)?;
        let above = match owner.kind.as_str() {
            "ReplicaSet" => sets
                .get(&namespace, &owner.name)
                .and_then(|set| controller_of(&set.metadata).cloned())
                .map(|owner| (owner.kind, owner.name))
                .or_else(|| deployment(pod, &owner.name)),
            "Job" => jobs
                .get(&namespace, &owner.name)
                .and_then(|job| controller_of(&job.metadata).cloned())
                .map(|owner| (owner.kind, owner.name))
                .or_else(|| cron_job(&owner.name)),
            _ => None,
        };
        let (kind, name) = above.unwrap_or_else(|| (owner.kind.clone(), owner.name.clone()));
        Some(Self { namespace, kind, name })
    }
}

/// A ReplicaSet that is gone already tells by its name, if a Deployment made it.
fn deployment(pod: &Pod, set: &str) -> Option<(String, String)> {
    let hash = pod.metadata.labels.as_ref()?.get("pod-template-hash")?;
    let name = set.strip_suffix(hash.as_str())?.strip_suffix('-')?;
    Some(("Deployment".to_owned(), name.to_owned()))
}

/// CronJobs name their Jobs by the minute they are of: eight digits these decades.
fn cron_job(job: &str) -> Option<(String, String)> {
    let (name, minute) = job.rsplit_once('-')?;
    let digits = minute.len() == 8 && minute.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| ("CronJob".to_owned(), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_owners_owner_is_sized_where_there_is_one() {
        fn check(owner: (&str, &str), hash: Option<&str>, expected: Option<&str>) {
            let pod: Pod = serde_json::from_value(json!({ "metadata": {
                "namespace": "n", "name": "p",
                "labels": hash.map(|hash| json!({ "pod-template-hash": hash })),
                "ownerReferences": [{ "apiVersion": "v1", "kind": owner.0, "name": owner.1,
                    "uid": "u", "controller": owner.0 != "Friend" }] } }))
            .unwrap();
            let sets: Cache<ReplicaSet> = Cache::default();
            sets.remember(
                serde_json::from_value(json!({ "metadata": { "namespace": "n", "name": "odd",
                    "resourceVersion": "1", "uid": "s", "ownerReferences": [{ "apiVersion": "v1",
                    "kind": "Rollout", "name": "web", "uid": "r", "controller": true }] } }))
                .unwrap(),
            );
            let found = Workload::of(&pod, &sets, &Cache::default());
            assert_eq!(found.as_ref().map(ToString::to_string).as_deref(), expected);
            assert_eq!(found.as_ref().and_then(|own| Workload::parse(&own.to_string())), found);
        }
        check(("StatefulSet", "db"), None, Some("n/StatefulSet/db"));
        check(("ReplicaSet", "odd"), None, Some("n/Rollout/web"));
        check(("ReplicaSet", "web-5d8f"), Some("5d8f"), Some("n/Deployment/web"));
        check(("ReplicaSet", "web"), None, Some("n/ReplicaSet/web"));
        check(("Job", "sum-29000000"), None, Some("n/CronJob/sum"));
        check(("Job", "sum-once"), None, Some("n/Job/sum-once"));
        check(("Friend", "f"), None, None);
    }
}
