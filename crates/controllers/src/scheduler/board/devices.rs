//! Which devices pods were given, for the binding and for people.

use std::collections::BTreeMap;

use berth_scheduler::device::{self, INDEX, write_index};
use berth_scheduler::snapshot::Pod;

use super::Board;
use crate::driver::Key;

/// Nodes whose devices are told one by one.
const SHOWN: usize = 5;

impl Board {
    /// What is written on a pod with its binding: the devices that it was given.
    pub fn given(&self, key: &Key) -> Option<BTreeMap<String, String>> {
        let devices = self.assumed.get(key)?.devices;
        (devices != 0).then(|| BTreeMap::from([(INDEX.to_owned(), write_index(devices))]))
    }

    /// What is free on the devices of nodes that a pod which asks for some might go to, the most on
    /// one device first.
    pub fn devices_for(&self, pod: &Pod) -> Vec<String> {
        let mut nodes: Vec<(u16, u32, &str, &[u16])> = Vec::new();
        for node in self.cluster.nodes() {
            let free = self.cluster.devices_on(&node.name);
            let models = &pod.gpu_models;
            let fits = models.is_empty() || models.iter().any(|each| each == node.device_model());
            if device::asked(pod, node).is_some() && fits && !free.is_empty() {
                let most = free.iter().copied().max().unwrap_or(0);
                let all = free.iter().map(|each| u32::from(*each)).sum();
                nodes.push((most, all, &node.name, free));
            }
        }
        nodes.sort_by(|one, other| (other.0, other.1, one.2).cmp(&(one.0, one.1, other.2)));
        let line = |(_, _, name, free): &(u16, u32, &str, &[u16])| {
            let free: Vec<String> = free.iter().map(ToString::to_string).collect();
            format!("of 1000 thousandths of each device of {name} are free: {}", free.join(", "))
        };
        nodes.iter().take(SHOWN).map(line).collect()
    }
}
