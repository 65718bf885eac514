//! What becomes of one object, given its owners and its dependents.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::graph::Item;

/// The finalizer of an owner that goes after its dependents.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an owner that leaves its dependents behind.
pub const ORPHAN: &str = "orphan";

/// How an owner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// There: it keeps what it owns.
    Here,
    /// Going, and waiting for its dependents to go first.
    Waiting,
    /// Gone, or another object of the same name.
    Gone,
    /// Its kind is not served, so nobody can tell: it keeps what it owns.
    Unknown,
}

impl Owner {
    /// By the graph's word.
    pub fn of(item: &Item) -> Self {
        if item.deleting && item.foreground { Self::Waiting } else { Self::Here }
    }

    /// By the server's word.
    pub fn of_meta(meta: &ObjectMeta) -> Self {
        let foreground = meta.finalizers.iter().flatten().any(|it| it == FOREGROUND);
        if meta.deletion_timestamp.is_some() && foreground { Self::Waiting } else { Self::Here }
    }
}

/// What a deletion does to the dependents of what it deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// They follow.
    Background,
    /// They go first.
    Foreground,
    /// They stay.
    Orphan,
}

/// What to do with one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nobody owns it any more.
    Delete(Policy),
    /// These owners are gone, others keep it.
    Release(Vec<String>),
    /// It leaves these dependents behind, and then goes.
    Orphan(Vec<String>),
    /// It waits for these, which must be told to go.
    DeleteDependents(Vec<String>),
    /// It waits for no one any more.
    Finish,
}

/// What to do with `item`; `owners` as they are, `dependents` as the graph knows them.
pub fn plan(item: &Item, owners: &[(String, Owner)], dependents: &[Item]) -> Option<Action> {
    if item.deleting {
        return ending(item, dependents);
    }
    if owners.is_empty() {
        return None;
    }
    let lost: Vec<String> = owners
        .iter()
        .filter(|(_, owner)| matches!(owner, Owner::Gone | Owner::Waiting))
        .map(|(uid, _)| uid.clone())
        .collect();
    if lost.is_empty() {
        return None;
    }
    if lost.len() < owners.len() {
        return Some(Action::Release(lost));
    }
    let waiting = owners.iter().any(|(_, owner)| *owner == Owner::Waiting);
    Some(Action::Delete(match item {
        Item { orphan: true, .. } => Policy::Orphan,
        Item { foreground: true, .. } => Policy::Foreground,
        _ if waiting && !dependents.is_empty() => Policy::Foreground,
        _ => Policy::Background,
    }))
}

fn ending(item: &Item, dependents: &[Item]) -> Option<Action> {
    if item.orphan {
        return Some(Action::Orphan(dependents.iter().map(|it| it.uid.clone()).collect()));
    }
    if !item.foreground {
        return None;
    }
    let blocks = |dependent: &&Item| {
        dependent
            .owners
            .iter()
            .any(|owner| owner.uid == item.uid && owner.block_owner_deletion == Some(true))
    };
    let blocking: Vec<&Item> = dependents.iter().filter(blocks).collect();
    if blocking.is_empty() {
        return Some(Action::Finish);
    }
    // A dependent with other owners is released by its own turn, not deleted.
    let alone = |it: &&&Item| !it.deleting && it.owners.len() == 1;
    let untold: Vec<String> = blocking.iter().filter(alone).map(|it| it.uid.clone()).collect();
    (!untold.is_empty()).then_some(Action::DeleteDependents(untold))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kube::core::{ApiResource, GroupVersionKind};
    use serde_json::json;

    use super::*;
    use crate::kinds::Kind;

    fn item(uid: &str, meta: serde_json::Value) -> Item {
        let kind = Kind {
            resource: ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "ConfigMap")),
            namespaced: true,
            deletes_collections: true,
        };
        let mut meta: ObjectMeta = serde_json::from_value(meta).unwrap();
        meta.uid = Some(uid.into());
        Item::new(&Arc::new(kind), &meta).unwrap()
    }

    fn owned_by(uid: &str, owners: &[&str], more: serde_json::Value) -> Item {
        let mut meta = more;
        meta["ownerReferences"] = owners
            .iter()
            .map(|owner| {
                json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": owner,
                    "blockOwnerDeletion": true })
            })
            .collect();
        item(uid, meta)
    }

    const GOING: &str = "2026-01-01T00:00:00Z";

    #[test]
    fn an_object_goes_with_its_last_owner_and_no_sooner() {
        let check = |owners: &[Owner], expected: Option<Action>| {
            let names = ["a", "b", "c"];
            let object = owned_by("x", &names[..owners.len()], json!({}));
            let owners: Vec<_> = names
                .iter()
                .zip(owners)
                .map(|(name, owner)| ((*name).to_owned(), *owner))
                .collect();
            assert_eq!(plan(&object, &owners, &[]), expected, "{owners:?}");
        };
        check(&[], None);
        check(&[Owner::Here], None);
        check(&[Owner::Unknown], None);
        check(&[Owner::Gone], Some(Action::Delete(Policy::Background)));
        check(&[Owner::Gone, Owner::Gone], Some(Action::Delete(Policy::Background)));
        check(&[Owner::Gone, Owner::Here], Some(Action::Release(vec!["a".into()])));
        check(&[Owner::Gone, Owner::Unknown], Some(Action::Release(vec!["a".into()])));
        check(&[Owner::Waiting, Owner::Here], Some(Action::Release(vec!["a".into()])));
        check(&[Owner::Waiting, Owner::Gone], Some(Action::Delete(Policy::Background)));
    }

    #[test]
    fn with_a_waiting_owner_those_below_go_first_too() {
        let object = owned_by("x", &["a"], json!({}));
        let below = owned_by("y", &["x"], json!({}));
        let action = plan(&object, &[("a".into(), Owner::Waiting)], &[below]);
        assert_eq!(action, Some(Action::Delete(Policy::Foreground)));
    }

    #[test]
    fn a_foreground_deletion_waits_for_those_that_block_it() {
        let owner = item("a", json!({ "deletionTimestamp": GOING, "finalizers": [FOREGROUND] }));
        let here = owned_by("x", &["a"], json!({}));
        let going = owned_by("x", &["a"], json!({ "deletionTimestamp": GOING }));
        let shared = owned_by("x", &["a", "b"], json!({}));
        let mut loose = here.clone();
        loose.owners[0].block_owner_deletion = None;
        assert_eq!(plan(&owner, &[], &[here]), Some(Action::DeleteDependents(vec!["x".into()])));
        assert_eq!(plan(&owner, &[], &[going]), None);
        assert_eq!(plan(&owner, &[], &[shared]), None);
        assert_eq!(plan(&owner, &[], &[loose]), Some(Action::Finish));
        assert_eq!(plan(&owner, &[], &[]), Some(Action::Finish));
    }

    #[test]
    fn an_orphaning_owner_lets_its_dependents_go() {
        let owner = item("a", json!({ "deletionTimestamp": GOING, "finalizers": [ORPHAN] }));
        let below = owned_by("x", &["a"], json!({}));
        assert_eq!(plan(&owner, &[], &[below]), Some(Action::Orphan(vec!["x".into()])));
        let plain = item("a", json!({ "deletionTimestamp": GOING }));
        assert_eq!(plan(&plain, &[], &[]), None);
    }
}
