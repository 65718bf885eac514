//! Where pods that want to come back were: by name, or by the line of pods that they continue.
//!
//! ```text
//!  StatefulSet, bare pod ──▶ its name comes again: the node of the pod of that name
//!  Deployment, Job, …    ──▶ names are drawn: the nodes that pods of the same line left and none
//!                            of it has taken since, the longest left first
//! ```
//!
//! A line outlives its ReplicaSets: the new version of a Deployment takes the places of the old.
//! A surplus pod of a rolling update comes before anyone has left, so that it goes anywhere.
//!
//! Refuses to remember beyond the process: after a restart the pods that left before are unknown.

use std::collections::{BTreeMap, VecDeque};

use berth_scheduler::snapshot::Pod;

/// Places of pods that are gone are remembered for so many pods that want to come back.
const MOST: usize = 10_000;

/// See the module.
#[derive(Default)]
pub struct Homes {
    /// By namespace and name.
    named: BTreeMap<(String, String), String>,
    /// By namespace and line.
    left: BTreeMap<(String, String), VecDeque<String>>,
    /// How many places there are in `left`.
    count: usize,
}

impl Homes {
    /// A pod is on `node`.
    pub fn placed(&mut self, pod: &Pod, node: &str) {
        if pod.rebuild.is_none() || pod.line.is_some() {
            return;
        }
        if self.named.len() >= MOST {
            self.named.pop_first();
        }
        self.named.insert((pod.namespace.clone(), pod.name.clone()), node.to_owned());
    }

    /// A pod leaves its node, or has left it: its place is for the next of its line.
    pub fn left(&mut self, pod: &Pod) {
        let (Some(line), Some(node), Some(_)) = (&pod.line, &pod.node, pod.rebuild) else { return };
        if self.count >= MOST
            && let Some((_, places)) = self.left.pop_first()
        {
            self.count -= places.len();
        }
        let places = self.left.entry((pod.namespace.clone(), line.clone())).or_default();
        places.push_back(node.clone());
        self.count += 1;
    }

    /// A pod goes to `node`: if that was no place of its line, the oldest is given up for it, so that
    /// there are never more places than pods that want them.
    pub fn taken(&mut self, pod: &Pod, node: &str) {
        let (Some(line), Some(_)) = (&pod.line, pod.rebuild) else { return };
        let key = (pod.namespace.clone(), line.clone());
        let Some(places) = self.left.get_mut(&key) else { return };
        let at = places.iter().position(|place| place == node).unwrap_or(0);
        if places.remove(at).is_some() {
            self.count -= 1;
        }
        if places.is_empty() {
            self.left.remove(&key);
        }
    }

    /// The nodes that the pod would come back to, the best first.
    pub fn of(&self, pod: &Pod) -> Vec<String> {
        match (&pod.line, pod.rebuild) {
            (_, None) => Vec::new(),
            (Some(line), _) => {
                let places = self.left.get(&(pod.namespace.clone(), line.clone()));
                places.into_iter().flatten().cloned().collect()
            }
            (None, _) => {
                let named = self.named.get(&(pod.namespace.clone(), pod.name.clone()));
                named.cloned().into_iter().collect()
            }
        }
    }

    /// Whether the pod has a node to come back to.
    pub fn has(&self, pod: &Pod) -> bool {
        pod.rebuild.is_some()
            && match &pod.line {
                Some(line) => self.left.contains_key(&(pod.namespace.clone(), line.clone())),
                None => self.named.contains_key(&(pod.namespace.clone(), pod.name.clone())),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_scheduler::snapshot::Rebuild;

    fn pod(name: &str, node: Option<&str>) -> Pod {
        Pod {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            node: node.map(str::to_owned),
            line: Some("Deployment/web".to_owned()),
            rebuild: Some(Rebuild::Preferred),
            ..Pod::default()
        }
    }

    #[test]
    fn each_place_is_for_one_successor() {
        let mut homes = Homes::default();
        for (name, node) in [("a", "n1"), ("b", "n2"), ("c", "n1")] {
            homes.left(&pod(name, Some(node)));
        }
        let next = pod("d", None);
        assert_eq!(homes.of(&next), ["n1", "n2", "n1"]);
        homes.taken(&next, "n2");
        assert_eq!(homes.of(&next), ["n1", "n1"]);
        homes.taken(&next, "elsewhere");
        homes.taken(&next, "n1");
        assert!(!homes.has(&next) && homes.of(&next).is_empty());
        homes.taken(&next, "n1");
        assert_eq!(homes.count, 0);
        let other = Pod { line: Some("Deployment/db".to_owned()), ..next };
        homes.left(&pod("a", Some("n1")));
        assert!(!homes.has(&other), "another's place is not its");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut homes = Homes::default();
        for at in 0..2 * MOST {
            let line = Some(format!("Job/{at}"));
            homes.left(&Pod { line, ..pod("a", Some("n")) });
            let name = format!("db-{at}");
            homes.placed(&Pod { line: None, name, ..pod("", None) }, "n");
        }
        assert!(homes.count <= MOST && homes.named.len() <= MOST);
    }
}
