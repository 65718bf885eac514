//! Pods that are worth something only together: enough of them get a place at once, or none does.
//!
//! Where there is no room, pods of lower priority may have to go ([`make_room`]): only if enough of
//! the gang fits then, all of whose nodes are kept for it from that moment on.
//!
//! Source: KEP-4671 and Volcano's PodGroup, with the group named on the pods.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::decision::{Placement, Unschedulable};
use crate::preempt::{self, Budget, NoVictims, Preemption};
use crate::snapshot::Pod;

/// A pod of a gang, and where it goes.
pub type Outcome = (Arc<Pod>, Result<Placement, Unschedulable>);

/// A gang that found no room.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found} of the {least} pods that the gang needs at once found room; the next one: {why}")]
pub struct TooFew {
    /// How many had a place, or would have had one.
    pub found: usize,
    /// How many it takes.
    pub least: usize,
    /// Why the first that fell fell.
    pub why: Unschedulable,
}

/// Pods that were put on the cluster to see what fits beside them, with the nodes that were kept for
/// them before.
#[derive(Default)]
struct Trial {
    placed: Vec<(Arc<Pod>, Option<String>)>,
    gone: Vec<(Arc<Pod>, String)>,
}

impl Trial {
    /// A pod that is there no longer waits for its node.
    fn put(&mut self, cluster: &mut Cluster, pod: &Arc<Pod>, node: &str) {
        let kept = cluster.kept_for(&pod.uid).map(str::to_owned);
        cluster.nominate(pod, None);
        let given = cluster.with_devices(pod, node);
        cluster.place(given, node);
        self.placed.push((Arc::clone(pod), kept));
    }

    fn take(&mut self, cluster: &mut Cluster, victim: &Arc<Pod>, node: &str) {
        if let Some(there) = cluster.remove(&victim.uid) {
            self.gone.push((there, node.to_owned()));
        }
    }

    fn undo(self, cluster: &mut Cluster) {
        for (pod, _) in &self.placed {
            cluster.remove(&pod.uid);
        }
        for (pod, node) in self.gone {
            cluster.place(pod, &node);
        }
        for (pod, kept) in &self.placed {
            cluster.nominate(pod, kept.as_deref());
        }
    }
}

/// Places as many of `pods` as fit, if with `there` that are placed already they are `least`.
/// Those with a place are counted in `cluster` when this returns.
///
/// # Guarantees
/// All or none: on an error nothing in `cluster` is other than before.
/// # Errors
/// [`TooFew`].
pub fn place(
    cluster: &mut Cluster,
    pods: &[Arc<Pod>],
    there: usize,
    least: usize,
) -> Result<Vec<Outcome>, TooFew> {
    let mut outcomes = Vec::with_capacity(pods.len());
    let (mut found, mut first) = (there, None);
    let mut trial = Trial::default();
    for pod in pods {
        let outcome = cluster.decide(pod);
        match &outcome {
            Ok(placement) => {
                trial.put(cluster, pod, &placement.node);
                found += 1;
            }
            Err(why) => {
                first.get_or_insert_with(|| why.clone());
            }
        }
        outcomes.push((Arc::clone(pod), outcome));
    }
    if found >= least {
        return Ok(outcomes);
    }
    trial.undo(cluster);
    let waiting = || Unschedulable::prior(0, format!("{} pods of the gang exist", pods.len()));
    Err(TooFew { found, least, why: first.unwrap_or_else(waiting) })
}

/// Who must go, and from where, so that with `there` that are placed already `least` of `pods` fit:
/// for each of these pods its node, with victims or without.
///
/// # Guarantees
/// All or none: where too few would fit, nobody goes. No victim is as important as the pod it makes
/// room for. Nothing in `cluster` is other than before.
/// # Errors
/// [`NoVictims`] says why nobody need go.
pub fn make_room(
    cluster: &mut Cluster,
    pods: &[Arc<Pod>],
    there: usize,
    least: usize,
    budgets: &[Budget],
) -> Result<Vec<(Arc<Pod>, Preemption)>, NoVictims> {
    if let Some(pod) = pods.iter().find(|pod| !pod.preempts) {
        let text = format!("not eligible due to preemptionPolicy=Never of {}.", pod.name);
        return Err(NoVictims(text));
    }
    if pods.iter().any(|pod| preempt::awaits_an_end(cluster, pod)) {
        let text = "not eligible due to a terminating pod on a node that is kept for the gang.";
        return Err(NoVictims(text.to_owned()));
    }
    let mut budgets = budgets.to_vec();
    let mut trial = Trial::default();
    let (mut rooms, mut left) = (Vec::new(), Vec::new());
    // Who fits as things are takes nobody's place.
    for pod in pods {
        match cluster.decide(pod) {
            Ok(Placement { node, .. }) => {
                trial.put(cluster, pod, &node);
                let nobody = Preemption { node, victims: Vec::new(), violations: 0 };
                rooms.push((Arc::clone(pod), nobody));
            }
            Err(_) => left.push(pod),
        }
    }
    let mut why = None;
    for pod in left {
        if there + rooms.len() >= least {
            break;
        }
        // A large victim may have made room for several.
        let beside = cluster.decide(pod).map(|Placement { node, .. }| {
            let (victims, violations) = (Vec::new(), 0);
            Preemption { node, victims, violations }
        });
        match beside.or_else(|_| preempt::preempt(cluster, pod, &budgets)) {
            Ok(preemption) => {
                for victim in &preemption.victims {
                    trial.take(cluster, victim, &preemption.node);
                    spend(&mut budgets, victim);
                }
                trial.put(cluster, pod, &preemption.node);
                rooms.push((Arc::clone(pod), preemption));
            }
            Err(none) => {
                why.get_or_insert(none);
            }
        }
    }
    trial.undo(cluster);
    if there + rooms.len() < least {
        return Err(why.unwrap_or_else(|| NoVictims("the gang is too small.".to_owned())));
    }
    Ok(rooms)
}

fn spend(budgets: &mut [Budget], victim: &Pod) {
    let own = budgets.iter_mut().filter(|budget| {
        budget.namespace == victim.namespace && budget.selector.matches(&victim.labels)
    });
    own.for_each(|budget| budget.allowed -= 1);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::profile::Profile;
    use crate::snapshot;

    fn cluster(nodes: &[(&str, &str)]) -> Cluster {
        let mut cluster = Cluster::new(vec![Profile::standard(0)]);
        for (name, cpu) in nodes {
            let object = json!({ "metadata": { "name": name }, "status": { "allocatable": {
                "cpu": cpu, "memory": "64Gi", "pods": "99" } } });
            cluster.set_node(snapshot::node(&serde_json::from_value(object).unwrap()));
        }
        cluster
    }

    fn pod(name: &str, cpu: &str, priority: i32) -> Arc<Pod> {
        let object = json!({
            "metadata": { "namespace": "default", "name": name, "uid": name, "labels": { "app": name } },
            "spec": { "priority": priority, "containers": [{ "name": "c",
                "resources": { "requests": { "cpu": cpu } } }] } });
        Arc::new(snapshot::pod(&serde_json::from_value(object).unwrap()))
    }

    fn gang(count: usize, cpu: &str) -> Vec<Arc<Pod>> {
        (0..count).map(|at| pod(&format!("g{at}"), cpu, 10)).collect()
    }

    fn state(cluster: &Cluster) -> BTreeMap<String, Vec<String>> {
        let pods = |node: &str| {
            let mut all: Vec<String> =
                cluster.pods_on(node).iter().map(|pod| pod.name.clone()).collect();
            all.sort();
            all
        };
        cluster.nodes().map(|node| (node.name.clone(), pods(&node.name))).collect()
    }

    #[test]
    fn nobody_goes_unless_enough_of_the_gang_fits_then() {
        // Three nodes of four cores, full of low pods but for the last, half of which is high.
        let mut cluster = cluster(&[("a", "4"), ("b", "4"), ("c", "4")]);
        for (name, cpu, priority, node) in [
            ("low0", "4", 0, "a"),
            ("low1", "2", 0, "b"),
            ("low2", "2", 0, "b"),
            ("high", "2", 20, "c"),
            ("low3", "2", 0, "c"),
        ] {
            cluster.place(pod(name, cpu, priority), node);
        }
        let before = state(&cluster);
        let mut check = |count: usize, cpu: &str, least: usize, expected: Option<usize>| {
            let found = make_room(&mut cluster, &gang(count, cpu), 0, least, &[]);
            let victims = found
                .as_ref()
                .ok()
                .map(|rooms| rooms.iter().map(|(_, each)| each.victims.len()).sum::<usize>());
            assert_eq!(victims, expected, "{count} of {cpu}: {found:?}");
            assert_eq!(state(&cluster), before, "asking changes nothing");
        };
        check(2, "4", 2, Some(3));
        check(3, "4", 3, None);
        check(3, "4", 2, Some(3));
        check(5, "2", 5, Some(4));
        check(6, "2", 6, None);
        check(6, "2", 1, Some(1));
    }

    #[test]
    fn once_they_are_gone_the_gang_takes_the_nodes_that_are_kept_for_it() {
        let mut cluster = cluster(&[("a", "4"), ("b", "4")]);
        cluster.place(pod("low0", "4", 0), "a");
        cluster.place(pod("low1", "2", 0), "b");
        let gang = gang(2, "4");
        assert!(place(&mut cluster, &gang, 0, 2).is_err());
        let rooms = make_room(&mut cluster, &gang, 0, 2, &[]).unwrap();
        for (pod, room) in &rooms {
            cluster.nominate(pod, Some(&room.node));
        }
        // Who comes meanwhile finds nothing.
        assert!(cluster.decide(&pod("late", "2", 10)).is_err());
        // A second look while one victim is still ending chooses no others.
        let ending = Arc::new(Pod { terminating: true, ..Pod::clone(&pod("low0", "4", 0)) });
        cluster.place(ending, "a");
        assert!(make_room(&mut cluster, &gang, 0, 2, &[]).is_err());
        for victim in ["low0", "low1"] {
            cluster.remove(victim);
        }
        let outcomes = place(&mut cluster, &gang, 0, 2).unwrap();
        assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()));
        for (pod, room) in rooms {
            assert_eq!(cluster.node_of(&pod.uid), Some(&*room.node));
        }
    }

    #[test]
    fn what_a_gang_gives_back_is_kept_for_it_still() {
        let mut cluster = cluster(&[("a", "4")]);
        let gang = gang(2, "3");
        cluster.nominate(&gang[0], Some("a"));
        assert!(place(&mut cluster, &gang, 0, 2).is_err());
        assert_eq!(cluster.kept_for("g0"), Some("a"));
    }

    #[test]
    fn a_budget_is_spent_once() {
        let mut cluster = cluster(&[("a", "2"), ("b", "2")]);
        let mut all = BTreeMap::new();
        for (name, node) in [("x", "a"), ("y", "b")] {
            let mut pod = Pod::clone(&pod(name, "2", 0));
            pod.labels.insert("app".to_owned(), "db".to_owned());
            cluster.place(Arc::new(pod), node);
            all.insert("app".to_owned(), "db".to_owned());
        }
        let selector = berth_api::Selector::labels(&all);
        let budget = Budget { namespace: "default".to_owned(), selector, allowed: 1 };
        let rooms = make_room(&mut cluster, &gang(2, "2"), 0, 2, &[budget]).unwrap();
        let violations: usize = rooms.iter().map(|(_, room)| room.violations).sum();
        assert_eq!(violations, 1, "the second eviction goes against it");
    }
}
