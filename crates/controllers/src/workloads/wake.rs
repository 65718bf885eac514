//! Which owner a changed object wakes: its controller, or every owner that may take it up.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::claim::{controller_of, picks};
use super::writes::Owned;
use crate::driver::{Cache, Key, Queue};

/// Wakes owners of `kind` when an object of `cache` changes.
pub(crate) fn owners<K: Owned, O: Owned>(
    cache: &Cache<K>,
    owners: &Cache<O>,
    kind: &'static str,
    queue: &Queue<Key>,
    selector: fn(&O) -> Option<&LabelSelector>,
) {
    let owners = owners.clone();
    let queue = queue.clone();
    cache.subscribe(move |change| {
        for object in [change.old, change.new].into_iter().flatten() {
            let meta: &ObjectMeta = object.metadata();
            let namespace = meta.namespace.clone().unwrap_or_default();
            match controller_of(meta) {
                Some(owner) if owner.kind == kind => queue.add(Key::new(namespace, &owner.name)),
                Some(_) => {}
                None => {
                    for owner in owners.list(&namespace) {
                        if selector(&owner).is_some_and(|selector| picks(selector)(meta)) {
                            queue.add(Key::of(owner.metadata()));
                        }
                    }
                }
            }
        }
    });
}

/// Wakes the objects of `cache` themselves.
pub(crate) fn themselves<K: Owned>(cache: &Cache<K>, queue: &Queue<Key>) {
    let queue = queue.clone();
    cache.subscribe(move |change| queue.add(Key::of(change.latest().metadata())));
}
