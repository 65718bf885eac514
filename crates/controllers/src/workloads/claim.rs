//! Whose an object is: a controller takes up orphans that its selector picks and lets go of what it
//! no longer picks.
//!
//! An object belongs to exactly one controller, by its `controller: true` owner reference and that
//! owner's UID; the name alone proves nothing, the owner may have been deleted and made anew.
//!
//! Source: Kubernetes' controllerRef rules.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::core::{Selector, SelectorExt};

/// What to do about one object that a controller may own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is ours and stays ours.
    Ours,
    /// Nobody's, and we pick it: write our reference into it.
    Adopt,
    /// Ours, but we no longer pick it: take our reference out.
    Release,
    /// Somebody else's, or none of our business.
    Foreign,
}

/// The reference of the object's controller.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

/// A selector ready to be asked; one that cannot be read picks nothing.
pub(crate) fn picks(selector: &LabelSelector) -> impl Fn(&ObjectMeta) -> bool + use<> {
    let empty = selector.match_labels.as_ref().is_none_or(|labels| labels.is_empty())
        && selector.match_expressions.as_ref().is_none_or(|all| all.is_empty());
    // An empty selector of a workload would pick the whole namespace; validation refuses it.
    let selector = Selector::try_from(selector.clone()).ok().filter(|_| !empty);
    move |meta| {
        let Some(selector) = &selector else { return false };
        match &meta.labels {
            Some(labels) => selector.matches(labels),
            None => selector.matches(&Default::default()),
        }
    }
}

/// Judges `object` for the owner with `owner`'s metadata.
pub(crate) fn claim(owner: &ObjectMeta, object: &ObjectMeta, picked: bool) -> Claim {
    let leaving = owner.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(controller) if Some(&controller.uid) == owner.uid.as_ref() => {
            if picked || leaving {
                Claim::Ours
            } else {
                Claim::Release
            }
        }
        Some(_) => Claim::Foreign,
        None if picked && !leaving && object.deletion_timestamp.is_none() => Claim::Adopt,
        None => Claim::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn meta(uid: &str, controller: Option<&str>, leaving: bool) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.into()),
            owner_references: controller.map(|uid| {
                vec![OwnerReference {
                    controller: Some(true),
                    uid: uid.into(),
                    ..Default::default()
                }]
            }),
            deletion_timestamp: leaving.then_some(Time(jiff::Timestamp::UNIX_EPOCH)),
            ..Default::default()
        }
    }

    #[test]
    fn an_object_has_one_controller() {
        let check = |controller, picked, owner_leaving, leaving, expected| {
            let owner = meta("a", None, owner_leaving);
            let object = meta("x", controller, leaving);
            assert_eq!(claim(&owner, &object, picked), expected, "{controller:?} {picked}");
        };
        check(Some("a"), true, false, false, Claim::Ours);
        check(Some("a"), false, false, false, Claim::Release);
        check(Some("a"), false, true, false, Claim::Ours);
        check(Some("b"), true, false, false, Claim::Foreign);
        check(None, true, false, false, Claim::Adopt);
        check(None, true, true, false, Claim::Foreign);
        check(None, true, false, true, Claim::Foreign);
        check(None, false, false, false, Claim::Foreign);
    }

    #[test]
    fn an_empty_selector_picks_nothing() {
        assert!(!picks(&LabelSelector::default())(&ObjectMeta::default()));
    }
}
