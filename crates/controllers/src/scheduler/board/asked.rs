//! Questions about pods that this scheduler need not decide for: of extenders, and of people.
//!
//! What is asked changes nothing, but for [`Board::assume_at`].

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_api::Selector;
use berth_scheduler::snapshot::{self, Pod};
use berth_scheduler::{Explanation, Placement, Unschedulable};
use k8s_openapi::api::core::v1 as core;

use super::Board;
use crate::driver::Key;

impl Board {
    /// Why each of `nodes` refuses the pod; those that are not in the answer take it.
    pub fn refusals(&mut self, pod: &Arc<Pod>, nodes: &[String]) -> BTreeMap<String, String> {
        let pod = match self.with_volumes(pod) {
            Ok(pod) => pod,
            Err(why) => {
                let reason = why.prior.unwrap_or_default();
                return nodes.iter().map(|node| (node.clone(), reason.clone())).collect();
            }
        };
        let refused = |node: &String| match self.cluster.check(&pod, node) {
            Ok(()) => None,
            Err(reasons) => Some((node.clone(), reasons.join(", "))),
        };
        nodes.iter().filter_map(refused).collect()
    }

    /// What every node that takes the pod is worth, best first.
    pub fn rate(&mut self, pod: &Arc<Pod>) -> Vec<(String, i64)> {
        self.with_volumes(pod).map_or_else(|_| Vec::new(), |pod| self.cluster.rate(&pod))
    }

    /// Whether the pod would fit on `node` once the pods of these UIDs have left it, all of which are
    /// there and less important.
    pub fn fits_without(&mut self, pod: &Arc<Pod>, node: &str, victims: &[String]) -> bool {
        let Ok(pod) = self.with_volumes(pod) else { return false };
        let there = |uid: &String| {
            let on = self.cluster.pods_on(node);
            on.iter().any(|other| other.uid == *uid && other.priority < pod.priority)
        };
        if !victims.iter().all(there) {
            return false;
        }
        let gone: Vec<Arc<Pod>> =
            victims.iter().filter_map(|uid| self.cluster.remove(uid)).collect();
        let fits = self.cluster.check(&pod, node).is_ok();
        for victim in gone {
            self.cluster.place(victim, node);
        }
        fits
    }

    /// Gives a pod room on the node that somebody else chose.
    ///
    /// # Errors
    /// Why the node does not take it.
    pub fn assume_at(&mut self, key: &Key, pod: &Arc<Pod>, node: &str) -> Result<(), String> {
        if self.assumed.contains_key(key) || self.cluster.node_of(&pod.uid).is_some() {
            return Err(format!("pod {key} has a node already"));
        }
        let pod = self.with_volumes(pod).map_err(|why| why.to_string())?;
        self.cluster.check(&pod, node).map_err(|reasons| reasons.join(", "))?;
        let placement = Placement { node: node.to_owned(), candidates: 1, score: 0 };
        self.assume(key, &pod, &placement);
        Ok(())
    }

    /// How the decision for the pod would come about, were it without a node.
    ///
    /// # Errors
    /// What is wrong before any node is asked.
    pub fn explain(&mut self, pod: &Arc<Pod>) -> Result<Explanation, Unschedulable> {
        let pod = self.with_volumes(pod)?;
        self.cluster.remove(&pod.uid);
        let explanation = self.cluster.explain(&pod);
        if let Some(node) = &pod.node {
            self.cluster.place(Arc::clone(&pod), node);
        }
        Ok(explanation)
    }

    /// Whether a profile has this name.
    pub fn serves(&self, scheduler: &str) -> bool {
        self.names.contains(scheduler)
    }
}

/// A pod as decisions take it, wherever it is.
pub fn unplaced(object: &core::Pod, like: Option<Selector>) -> Arc<Pod> {
    Arc::new(Pod { like, node: None, ..snapshot::pod(object) })
}
