//! A named lock on capacity: so many pods of a description find room, whoever else comes.
//!
//! A reservation is a number of slots on nodes. A slot is held while fewer pods of the description
//! than its *floor* are on the node; a pod that comes takes its slot, one that goes gives it back.
//! Nothing but the floors and the pods must be known, so that a restart loses nothing.
//!
//! Refuses to make room: a slot is set only where there is room, and nothing is displaced for one.
//!
//! Source: YuniKorn's placeholders and the Reservation of Koordinator, without a pod that stands in.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_api::Selector;

use crate::amount::Amounts;
use crate::cluster::Cluster;
use crate::snapshot::Pod;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Reservation {
    /// Its name, with the namespace its pods are in.
    pub name: String,
    /// Whose pods may use it.
    pub namespace: String,
    /// Which of them.
    pub selector: Selector,
    /// How many pods find room.
    pub slots: i64,
    /// What each asks for.
    pub slot: Amounts,
    /// When it ends, seconds since 1970.
    pub until: Option<i64>,
    /// Pods of the description that each node keeps room for.
    pub floors: BTreeMap<String, i64>,
    /// Slots that were set on each node.
    pub set: BTreeMap<String, i64>,
    /// Where its pods are counted; set by the cluster.
    pub counter: usize,
}

impl Reservation {
    /// Whether `pod` may use it.
    pub fn is_for(&self, pod: &Pod) -> bool {
        self.namespace == pod.namespace && self.selector.matches(&pod.labels)
    }

    /// Whether it has ended.
    pub fn is_over(&self, now: i64) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// Sets slots that are not set yet, or whose node is gone, where there is room; the reservations
/// with their floors, to be stored, and how many slots found no room.
///
/// # Guarantees
/// No slot is set twice; a slot that is set stays where it is while its node does.
pub fn settle(cluster: &mut Cluster, wanted: &[Reservation], now: i64) -> (Vec<Reservation>, i64) {
    let mut settled: Vec<Reservation> = Vec::new();
    let mut missing = 0;
    let live: Vec<&Reservation> = wanted.iter().filter(|each| !each.is_over(now)).collect();
    for each in &live {
        let mut own = Reservation::clone(each);
        own.floors.retain(|node, _| cluster.has_node(node));
        own.set.retain(|node, _| cluster.has_node(node));
        settled.push(own);
    }
    cluster.set_reservations(settled.clone());
    for at in 0..settled.len() {
        let mut set: i64 = settled[at].set.values().sum();
        while set < settled[at].slots {
            let Some(node) = room(cluster, &settled[at]) else {
                missing += settled[at].slots - set;
                break;
            };
            let there = cluster.count(&settled[at].namespace, &settled[at].selector, &node);
            *settled[at].set.entry(node.clone()).or_default() += 1;
            let floor = settled[at].floors.entry(node).or_insert(there);
            *floor = (*floor).max(there) + 1;
            set += 1;
            cluster.set_reservations(settled.clone());
        }
    }
    (settled, missing)
}

/// A node for one more slot: where a pod that asks for it, and is not its owner's, would go.
fn room(cluster: &mut Cluster, reservation: &Reservation) -> Option<String> {
    let probe = Pod {
        uid: format!("reservation/{}", reservation.name),
        requests: reservation.slot.clone(),
        weighed: reservation.slot.clone(),
        ..Pod::default()
    };
    cluster.decide(&Arc::new(probe)).ok().map(|placement| placement.node)
}
