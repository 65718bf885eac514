//! Who owns whom, by UID: the little of every object that the collector decides by.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::plan::{FOREGROUND, ORPHAN};
use crate::driver::{Key, Queue};
use crate::kinds::Kind;

/// How many owners are remembered as gone, to spare the server the question.
const GONE_KEPT: usize = 4096;

/// One object.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its UID.
    pub uid: String,
    /// Its kind.
    pub kind: Arc<Kind>,
    /// Its namespace and name.
    pub key: Key,
    /// Whom it belongs to.
    pub owners: Vec<OwnerReference>,
    /// It has been told to go.
    pub deleting: bool,
    /// It waits until its dependents have gone.
    pub foreground: bool,
    /// It waits until its dependents are let go.
    pub orphan: bool,
}

impl Item {
    /// What the graph keeps of an object; `None` without a UID.
    pub fn new(kind: &Arc<Kind>, meta: &ObjectMeta) -> Option<Self> {
        let has = |name: &str| meta.finalizers.iter().flatten().any(|it| it == name);
        Some(Self {
            uid: meta.uid.clone()?,
            kind: Arc::clone(kind),
            key: Key::of(meta),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        })
    }
}

/// All objects.
#[derive(Default)]
pub struct Graph {
    items: HashMap<String, Item>,
    dependents: HashMap<String, BTreeSet<String>>,
    gone: HashSet<String>,
    gone_order: VecDeque<String>,
    queue: Option<Queue<String>>,
}

impl Graph {
    /// Adds to `queue` what is to be looked at, now and from now on.
    pub fn wake(&mut self, queue: Queue<String>) {
        for item in self.items.values().filter(|item| worth_a_look(item)) {
            queue.add(item.uid.clone());
        }
        self.queue = Some(queue);
    }

    /// The object of this UID.
    pub fn get(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    /// Those who name `uid` as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<Item> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.items.get(uid)).cloned().collect()
    }

    /// Whether anything names `uid` as an owner.
    pub fn has_dependents(&self, uid: &str) -> bool {
        self.dependents.contains_key(uid)
    }

    /// Whether the server said that `uid` is no more.
    pub fn is_known_gone(&self, uid: &str) -> bool {
        self.gone.contains(uid)
    }

    /// The server said that `uid` is no more. UIDs never come back.
    pub fn note_gone(&mut self, uid: &str) {
        if self.gone.insert(uid.to_owned()) {
            self.gone_order.push_back(uid.to_owned());
        }
        if self.gone_order.len() > GONE_KEPT
            && let Some(oldest) = self.gone_order.pop_front()
        {
            self.gone.remove(&oldest);
        }
    }

    /// The UIDs of all objects of a kind.
    pub fn of_kind(&self, kind: &Kind) -> Vec<String> {
        let same = |item: &&Item| item.kind.id() == kind.id();
        self.items.values().filter(same).map(|item| item.uid.clone()).collect()
    }

    /// An object came or changed.
    pub fn put(&mut self, item: Item) {
        let old = self.items.get(&item.uid).map(|old| old.owners.clone()).unwrap_or_default();
        for owner in old.iter().filter(|owner| item.owners.iter().all(|it| it.uid != owner.uid)) {
            self.unlink(&owner.uid, &item.uid);
            // Who waited for this one waits no longer.
            self.look(&owner.uid);
        }
        for owner in &item.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(item.uid.clone());
        }
        if worth_a_look(&item) {
            self.look(&item.uid);
        }
        if item.deleting && item.foreground {
            for dependent in self.dependents.get(&item.uid).into_iter().flatten() {
                self.look(dependent);
            }
        }
        self.items.insert(item.uid.clone(), item);
    }

    /// An object is no more.
    pub fn remove(&mut self, uid: &str) {
        let Some(item) = self.items.remove(uid) else { return };
        self.note_gone(uid);
        for owner in &item.owners {
            self.unlink(&owner.uid, uid);
            self.look(&owner.uid);
        }
        for dependent in self.dependents.get(uid).into_iter().flatten() {
            self.look(dependent);
        }
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(all) = self.dependents.get_mut(owner) {
            all.remove(dependent);
            if all.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    fn look(&self, uid: &str) {
        if let Some(queue) = &self.queue {
            queue.add(uid.to_owned());
        }
    }
}

fn worth_a_look(item: &Item) -> bool {
    if item.deleting { item.foreground || item.orphan } else { !item.owners.is_empty() }
}
