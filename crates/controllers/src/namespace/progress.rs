//! What a namespace that is going says about what still holds it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NamespaceCondition, NamespaceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What is left of one kind.
#[derive(Debug)]
pub(super) struct Left {
    /// `deployments.apps`.
    pub resource: String,
    /// How many objects.
    pub count: usize,
    /// Their finalizers, each as often as it occurs.
    pub finalizers: Vec<String>,
}

/// The conditions of a namespace with `status` of which this is left, in Kubernetes' words.
pub(super) fn conditions(
    status: &NamespaceStatus,
    left: &[Left],
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let content: Vec<String> = left
        .iter()
        .map(|left| format!("{} has {} resource instances", left.resource, left.count))
        .collect();
    let mut holders: BTreeMap<&str, usize> = BTreeMap::new();
    for finalizer in left.iter().flat_map(|left| &left.finalizers) {
        *holders.entry(finalizer).or_default() += 1;
    }
    let held: Vec<String> = holders
        .iter()
        .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
        .collect();
    let mut all = status.conditions.clone().unwrap_or_default();
    let mut set = |kind: &str, holds: bool, reason: &str, message: String| {
        let status = if holds { "True" } else { "False" };
        let known = all.iter().position(|condition| condition.type_ == kind);
        let since = known.and_then(|at| all.get(at)).filter(|known| known.status == status);
        let condition = NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: since
                .and_then(|known| known.last_transition_time.clone())
                .or(Some(Time(now))),
        };
        match known {
            Some(at) => all.splice(at..=at, [condition]).for_each(drop),
            None => all.push(condition),
        }
    };
    if content.is_empty() {
        set("NamespaceContentRemaining", false, "ContentRemoved", String::new());
    } else {
        let message = format!("Some resources are remaining: {}", content.join(", "));
        set("NamespaceContentRemaining", true, "SomeResourcesRemain", message);
    }
    if held.is_empty() {
        set("NamespaceFinalizersRemaining", false, "ContentHasNoFinalizers", String::new());
    } else {
        let message =
            format!("Some content in the namespace has finalizers remaining: {}", held.join(", "));
        set("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", message);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_a_namespace_is_named_and_counted() {
        let left = [
            Left { resource: "configmaps".into(), count: 2, finalizers: vec!["a/b".into(); 2] },
            Left { resource: "pods".into(), count: 1, finalizers: Vec::new() },
        ];
        let mut status = NamespaceStatus::default();
        let first = conditions(&status, &left, Timestamp::UNIX_EPOCH);
        let told: Vec<_> = first.iter().map(|one| one.message.as_deref().unwrap_or("")).collect();
        assert_eq!(
            told,
            [
                "Some resources are remaining: configmaps has 2 resource instances, pods has 1 \
                 resource instances",
                "Some content in the namespace has finalizers remaining: a/b in 2 resource \
                 instances",
            ]
        );
        status.conditions = Some(first.clone());
        assert_eq!(conditions(&status, &left, Timestamp::MAX), first, "the same stays the same");
        let after = conditions(&status, &left[1..], Timestamp::MAX);
        assert_eq!((after[0].status.as_str(), after[1].status.as_str()), ("True", "False"));
    }
}
