//! The last known state of every object of one kind, shared by all controllers of the process.
//!
//! Holds what the watch delivered and, ahead of it, what the server answered to our own writes
//! ([`Cache::remember`]): a controller that has just created three pods counts three, however late
//! the watch is. Refuses to go back: an older resource version never replaces a newer one.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, RwLock};

use berth_daemon::Ready;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;

use super::Key;
use super::feed::Sink;

/// How many removed objects are remembered by UID, against late answers that would revive them.
const REMOVED_KEPT: usize = 1024;

/// A kind that can be cached: any typed object.
pub trait Kept:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Kept for K where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

/// One object before and after; `None` where it was not, or is no more.
#[derive(Debug)]
pub struct Change<'a, K> {
    /// As it was.
    pub old: Option<&'a Arc<K>>,
    /// As it is.
    pub new: Option<&'a Arc<K>>,
}

impl<K> Change<'_, K> {
    /// The object as last seen.
    pub fn latest(&self) -> &K {
        self.new.or(self.old).expect("a change has a before or an after")
    }
}

type Subscriber<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

/// The objects of one kind. Cheap to clone.
pub struct Cache<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    objects: RwLock<BTreeMap<Key, Arc<K>>>,
    // Held from before a change until all subscribers heard of it: they hear changes in order.
    order: Mutex<Order<K>>,
    ready: Ready,
}

struct Order<K> {
    subscribers: Vec<Subscriber<K>>,
    removed: HashSet<String>,
    removed_order: VecDeque<String>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K: Kept> Default for Cache<K> {
    fn default() -> Self {
        Self {
            shared: Arc::new(Shared {
                objects: RwLock::default(),
                order: Mutex::new(Order {
                    subscribers: Vec::new(),
                    removed: HashSet::new(),
                    removed_order: VecDeque::new(),
                }),
                ready: Ready::default(),
            }),
        }
    }
}

impl<K: Kept> Cache<K> {
    /// The object `name` in `namespace` (empty for cluster-wide kinds).
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.objects().get(&Key::new(namespace, name)).cloned()
    }

    /// The object under `key`.
    pub fn at(&self, key: &Key) -> Option<Arc<K>> {
        self.objects().get(key).cloned()
    }

    /// All objects of one namespace, by name.
    pub fn list(&self, namespace: &str) -> Vec<Arc<K>> {
        self.objects()
            .range(Key::new(namespace, "")..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// All objects, by namespace and name.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.objects().values().cloned().collect()
    }

    /// Calls `subscriber` for every object there is and then for every change, in order.
    ///
    /// It runs in the watch's task: it may look at caches and add to queues, and nothing slower.
    pub fn subscribe(&self, subscriber: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        let mut order = self.order();
        for object in self.all() {
            subscriber(&Change { old: None, new: Some(&object) });
        }
        order.subscribers.push(Box::new(subscriber));
    }

    /// Takes in what the server answered to a write, ahead of the watch.
    pub fn remember(&self, object: K) {
        let mut order = self.order();
        self.put(&mut order, object);
    }

    /// Takes note, ahead of the watch, that the object with `uid` is gone.
    pub fn forget(&self, key: &Key, uid: &str) {
        let mut order = self.order();
        if self.objects().get(key).is_some_and(|known| uid_of(known.meta()) == uid) {
            self.drop_key(&mut order, key);
        }
        order.bury(uid);
    }

    /// Resolves when the first full list is in.
    pub async fn ready(&self) {
        self.shared.ready.wait().await;
    }

    fn objects(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<Key, Arc<K>>> {
        self.shared.objects.read().expect("no holder of the lock panics")
    }

    fn order(&self) -> std::sync::MutexGuard<'_, Order<K>> {
        self.shared.order.lock().expect("no subscriber panics")
    }

    fn put(&self, order: &mut Order<K>, mut object: K) {
        trim(object.meta_mut());
        if order.removed.contains(uid_of(object.meta())) {
            return;
        }
        let key = Key::of(object.meta());
        let new = Arc::new(object);
        let old = {
            let mut objects = self.shared.objects.write().expect("no holder of the lock panics");
            if let Some(known) = objects.get(&key)
                && version_of(known.meta()) >= version_of(new.meta())
            {
                return;
            }
            objects.insert(key, Arc::clone(&new))
        };
        // A name taken by another object: to subscribers, one went and one came.
        match old {
            Some(old) if old.meta().uid != new.meta().uid => {
                order.bury(uid_of(old.meta()));
                order.tell(&Change { old: Some(&old), new: None });
                order.tell(&Change { old: None, new: Some(&new) });
            }
            old => order.tell(&Change { old: old.as_ref(), new: Some(&new) }),
        }
    }

    fn drop_key(&self, order: &mut Order<K>, key: &Key) {
        let old = self.shared.objects.write().expect("no holder of the lock panics").remove(key);
        if let Some(old) = old {
            order.bury(uid_of(old.meta()));
            order.tell(&Change { old: Some(&old), new: None });
        }
    }
}

impl<K: Kept> Sink<K> for Cache<K> {
    fn replace(&self, objects: Vec<K>, version: u64) {
        let mut order = self.order();
        let listed: HashSet<Key> = objects.iter().map(|object| Key::of(object.meta())).collect();
        // What a write of ours made after the list was taken stays.
        let vanished: Vec<Key> = self
            .objects()
            .iter()
            .filter(|(key, known)| !listed.contains(key) && version_of(known.meta()) <= version)
            .map(|(key, _)| key.clone())
            .collect();
        for key in vanished {
            self.drop_key(&mut order, &key);
        }
        for object in objects {
            self.put(&mut order, object);
        }
        self.shared.ready.set(true);
    }

    fn applied(&self, object: K) {
        let mut order = self.order();
        self.put(&mut order, object);
    }

    fn deleted(&self, object: K) {
        let mut order = self.order();
        let key = Key::of(object.meta());
        let uid = uid_of(object.meta());
        if self.objects().get(&key).is_some_and(|known| uid_of(known.meta()) == uid) {
            self.drop_key(&mut order, &key);
        }
        order.bury(uid);
    }
}

impl<K> Order<K> {
    fn tell(&self, change: &Change<'_, K>) {
        for subscriber in &self.subscribers {
            subscriber(change);
        }
    }

    fn bury(&mut self, uid: &str) {
        if uid.is_empty() || !self.removed.insert(uid.to_owned()) {
            return;
        }
        self.removed_order.push_back(uid.to_owned());
        if self.removed_order.len() > REMOVED_KEPT
            && let Some(oldest) = self.removed_order.pop_front()
        {
            self.removed.remove(&oldest);
        }
    }
}

/// Drops what no controller reads and what is most of a small object's size.
fn trim(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

fn uid_of(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// Versions are compared as numbers, as Kubernetes allows since 1.35 (KEP-5504).
fn version_of(meta: &ObjectMeta) -> u64 {
    super::feed::number(meta.resource_version.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn config_map(name: &str, uid: &str, version: u64) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some("default".into());
        object.metadata.name = Some(name.into());
        object.metadata.uid = Some(uid.into());
        object.metadata.resource_version = Some(version.to_string());
        object
    }

    fn version(cache: &Cache<ConfigMap>, name: &str) -> Option<u64> {
        cache.get("default", name).map(|object| version_of(&object.metadata))
    }

    #[test]
    fn an_older_version_never_replaces_a_newer_one() {
        let cache = Cache::default();
        cache.remember(config_map("a", "1", 7));
        cache.applied(config_map("a", "1", 5));
        assert_eq!(version(&cache, "a"), Some(7));
        cache.applied(config_map("a", "1", 8));
        assert_eq!(version(&cache, "a"), Some(8));
    }

    #[test]
    fn a_relist_keeps_what_was_written_after_it_and_drops_what_vanished() {
        let cache = Cache::default();
        cache.replace(vec![config_map("old", "1", 3)], 4);
        cache.remember(config_map("own", "2", 9));
        cache.replace(vec![], 8);
        assert_eq!(version(&cache, "old"), None);
        assert_eq!(version(&cache, "own"), Some(9));
    }

    #[test]
    fn what_is_gone_does_not_come_back_by_a_late_answer() {
        let cache = Cache::default();
        cache.applied(config_map("a", "1", 3));
        cache.deleted(config_map("a", "1", 4));
        cache.remember(config_map("a", "1", 5));
        assert_eq!(version(&cache, "a"), None);
        cache.applied(config_map("a", "2", 6));
        cache.forget(&Key::new("default", "a"), "1");
        assert_eq!(version(&cache, "a"), Some(6));
    }

    #[test]
    fn subscribers_hear_what_is_there_and_every_change() {
        let cache = Cache::default();
        cache.applied(config_map("a", "1", 1));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heard);
        cache.subscribe(move |change: &Change<'_, ConfigMap>| {
            log.lock().unwrap().push((change.old.is_some(), change.new.is_some()));
        });
        cache.applied(config_map("a", "2", 2));
        cache.deleted(config_map("a", "2", 3));
        let expected = vec![(false, true), (true, false), (false, true), (true, false)];
        assert_eq!(*heard.lock().unwrap(), expected);
    }
}
