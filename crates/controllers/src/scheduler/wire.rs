//! Keeps the board in step with the caches.

use std::sync::{Arc, Mutex};

use berth_api::Selector;
use berth_scheduler::preempt::Budget;
use berth_scheduler::{snapshot, volumes};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::CSINode;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::board::{Board, Hint};
use crate::driver::{Cache, Key, World, controller_of};

type Shared = Arc<Mutex<Board>>;

/// Subscribes `board` to everything it is made of; `changed` is told when there is something to do.
pub fn wire(world: &Arc<World>, csi: &Cache<CSINode>, board: &Shared, changed: &Arc<Notify>) {
    let both = || (Arc::clone(board), Arc::clone(changed));
    let (own, wake) = both();
    world.namespaces.subscribe(move |change| {
        let name = Key::of(&change.latest().metadata).name;
        let labels = change.new.map(|new| new.metadata.labels.clone().unwrap_or_default());
        lock(&own).see_namespace(name, labels, Instant::now());
        wake.notify_one();
    });
    let (own, wake) = both();
    let limits = csi.clone();
    world.nodes.subscribe(move |change| {
        let name = Key::of(&change.latest().metadata).name;
        let node = change.new.map(|new| {
            let mut node = snapshot::node(new);
            node.volume_limits =
                limits.get("", &name).map(|csi| volumes::limits(&csi)).unwrap_or_default();
            node
        });
        if lock(&own).see_node(&name, node, Instant::now()) {
            wake.notify_one();
        }
    });
    let (own, wake) = both();
    let nodes = world.nodes.clone();
    csi.subscribe(move |change| {
        let name = Key::of(&change.latest().metadata).name;
        let Some(node) = nodes.get("", &name) else { return };
        let mut node = snapshot::node(&node);
        node.volume_limits = change.new.map(|new| volumes::limits(new)).unwrap_or_default();
        if lock(&own).see_node(&name, Some(node), Instant::now()) {
            wake.notify_one();
        }
    });
    wire_volumes(world, board, changed);
    let own = Arc::clone(board);
    world.budgets.subscribe(move |change| {
        let key = Key::of(&change.latest().metadata);
        let budget = change.new.map(|new| {
            let selector = new.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let allowed =
                new.status.as_ref().and_then(|status| status.disruptions_allowed).unwrap_or(0);
            Budget {
                namespace: key.namespace.clone(),
                selector: Selector::from_object(selector).unwrap_or_else(|_| Selector::nothing()),
                allowed: i64::from(allowed),
            }
        });
        let mut board = lock(&own);
        match budget {
            Some(budget) => board.budgets.insert(key, budget),
            None => board.budgets.remove(&key),
        };
    });
    let (own, wake) = both();
    let around = Arc::clone(world);
    world.pods.subscribe(move |change| {
        let key = Key::of(&change.latest().metadata);
        let like = change.new.and_then(|new| like(&around, new));
        if lock(&own).see_pod(&key, change.new.map(|new| &**new), like, Instant::now()) {
            wake.notify_one();
        }
    });
}

fn wire_volumes(world: &World, board: &Shared, changed: &Arc<Notify>) {
    let (own, wake) = (Arc::clone(board), Arc::clone(changed));
    world.claims.subscribe(move |change| {
        let key = Key::of(&change.latest().metadata).to_string();
        let mut board = lock(&own);
        let new = change.new.map(|new| volumes::claim(new));
        put(&mut board.volumes.claims, key, new);
        board.wake(Hint::Volumes, Instant::now());
        // Bindings that wait for their claims listen too.
        wake.notify_one();
    });
    let (own, wake) = (Arc::clone(board), Arc::clone(changed));
    world.volumes.subscribe(move |change| {
        let name = Key::of(&change.latest().metadata).name;
        let mut board = lock(&own);
        let new = change.new.map(|new| volumes::volume(new));
        put(&mut board.volumes.volumes, name, new);
        board.wake(Hint::Volumes, Instant::now());
        wake.notify_one();
    });
    let (own, wake) = (Arc::clone(board), Arc::clone(changed));
    world.storage_classes.subscribe(move |change| {
        let name = Key::of(&change.latest().metadata).name;
        let mut board = lock(&own);
        let new = change.new.map(|new| volumes::class(new));
        put(&mut board.volumes.classes, name, new);
        board.wake(Hint::Volumes, Instant::now());
        wake.notify_one();
    });
}

fn put<T>(map: &mut std::collections::BTreeMap<String, T>, key: String, value: Option<T>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

fn lock(board: &Shared) -> std::sync::MutexGuard<'_, Board> {
    board.lock().expect("no holder of the lock panics")
}

/// What Services and the pod's controller select it by; `None` where nothing does.
pub fn like(world: &World, pod: &Pod) -> Option<Selector> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let labels = pod.metadata.labels.as_ref()?;
    let mut all = std::collections::BTreeMap::new();
    for service in world.services.list(namespace) {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        if let Some(selector) = selector.filter(|selector| !selector.is_empty())
            && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        {
            all.extend(selector.clone());
        }
    }
    if let Some(owner) = controller_of(&pod.metadata)
        && owner.kind == "ReplicaSet"
        && let Some(set) = world.replica_sets.get(namespace, &owner.name)
        && let Some(own) = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.as_ref())
    {
        all.extend(own.clone());
    }
    (!all.is_empty()).then(|| Selector::labels(&all))
}
