//! Which pods to move so that nodes become empty.
//!
//! ```text
//!  the cheapest nodes to empty ──▶ cordon them, take their pods off, decide for each anew
//!                                  ├─ every one has a place elsewhere: the moves are planned
//!                                  └─ one has none: all as before, and fewer nodes are tried
//! ```
//!
//! A replacement is decided by the very code that will decide it, with the nodes that are to be
//! empty cordoned: what a plan says is where the scheduler sends it as things are. Of a node's pods
//! the least important move first, so that what goes wrong goes wrong there.
//!
//! # Guarantees
//! A node is emptied whole or left alone. No budget's pod moves that may not go now; moves are meant
//! to be done one after the other, each replacement ready before the next.
//!
//! Refuses to know who may move: the caller says ([`Standing`]).
//!
//! # Source
//! Borg (EuroSys '15) §5.1, cell compaction; the scale-down of Kubernetes' cluster autoscaler.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::amount::Amounts;
use crate::cluster::Cluster;
use crate::preempt::Budget;
use crate::snapshot::{Node, Pod};

/// The extended resource of whole devices.
const DEVICES: &str = "nvidia.com/gpu";

/// Whether a pod may move.
#[derive(Clone, Debug)]
pub enum Standing {
    /// It belongs to its node and goes with it: a DaemonSet's.
    OfNode,
    /// It holds its node.
    Pinned(String),
    /// Something makes it anew elsewhere; so will its successor ask.
    Moves(Arc<Pod>),
}

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub struct Aim {
    /// Only this node is to be empty.
    pub free: Option<String>,
    /// Enough when so many nodes or fewer are in use.
    pub target_nodes: Option<usize>,
    /// No plan moves more pods.
    pub most_moves: usize,
}

/// One pod goes elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Move {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its UID: a pod of the same name that came since is another.
    pub uid: String,
    /// Where it is.
    pub from: String,
    /// Where its successor goes.
    pub to: String,
}

/// How much room there is, and in what pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Room {
    /// Nodes that hold more than what belongs to them.
    pub nodes_in_use: usize,
    /// Nodes that hold no more.
    pub nodes_empty: usize,
    /// The most CPU free on one node, in thousandths of a core.
    pub most_cpu_milli: i64,
    /// The most memory free on one node, in bytes.
    pub most_memory_bytes: i64,
    /// Devices that are free, wherever.
    pub gpus_free: i64,
    /// The most devices free on one node: a pod that asks for more waits, however many are free.
    pub most_gpus: i64,
}

/// What to do, in order, and what it brings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// In this order.
    pub moves: Vec<Move>,
    /// Nodes that are empty afterwards, in the order in which they become so.
    pub freed: Vec<String>,
    /// As it is.
    pub before: Room,
    /// As it is then.
    pub after: Room,
    /// Why nodes that were looked at are left alone.
    pub kept: BTreeMap<String, String>,
}

/// Plans on `cluster`, which afterwards is as the plan leaves it. A pod that `standings` does not
/// know by its UID is pinned.
pub fn plan(
    cluster: &mut Cluster,
    standings: &BTreeMap<String, Standing>,
    budgets: &[Budget],
    aim: &Aim,
) -> Plan {
    let mut plan = Plan { before: room(cluster, standings), ..Plan::default() };
    let in_use = plan.before.nodes_in_use;
    let mut most_nodes = aim.target_nodes.map_or(in_use, |target| in_use.saturating_sub(target));
    let mut most_moves = aim.most_moves;
    let mut able = Vec::new();
    for name in candidates(cluster, standings, aim) {
        match leaving(cluster, standings, budgets, &name) {
            Ok(leaving) => able.push((name, leaving)),
            Err(why) => {
                plan.kept.insert(name, why);
            }
        }
    }
    // Emptied together, none takes what the next would have to move again: as many of the cheapest
    // as go, by halving.
    let (mut least, mut most) = (0, most_nodes.min(able.len()));
    while least < most {
        let middle = (least + most).div_ceil(2);
        match Trial::run(cluster, &able[..middle], most_moves) {
            Ok(trial) => {
                trial.undo(cluster);
                least = middle;
            }
            Err(_) => most = middle - 1,
        }
    }
    let mut keep = |trial: Trial, left: &mut usize| {
        *left = left.saturating_sub(trial.moves.len());
        plan.moves.extend(trial.moves);
        plan.freed.extend(trial.nodes.iter().map(|node| node.name.clone()));
    };
    if let Ok(trial) = Trial::run(cluster, &able[..least], most_moves) {
        keep(trial, &mut most_moves);
        most_nodes -= least;
    }
    // Beyond the first that does not go there may be others that do.
    for each in &able[least..] {
        if most_nodes == 0 {
            break;
        }
        let known = |pod: &Arc<Pod>| standings.contains_key(&pod.uid);
        let tried = match cluster.pods_on(&each.0).iter().all(known) {
            true => Trial::run(cluster, std::slice::from_ref(each), most_moves),
            false => Err("it takes pods of the nodes that are emptied".to_owned()),
        };
        match tried {
            Ok(trial) => {
                keep(trial, &mut most_moves);
                most_nodes -= 1;
            }
            Err(why) => {
                plan.kept.insert(each.0.clone(), why);
            }
        }
    }
    plan.after = room(cluster, standings);
    plan
}

/// Nodes in use that may be emptied, those with the fewest pods first, of these the least used.
fn candidates(cluster: &Cluster, standings: &BTreeMap<String, Standing>, aim: &Aim) -> Vec<String> {
    let wanted = |node: &&Arc<Node>| match &aim.free {
        Some(free) => node.name == *free,
        // Somebody else is at work on a node that is cordoned.
        None => !node.unschedulable,
    };
    let mut found: Vec<(usize, i64, String)> = cluster
        .nodes()
        .filter(wanted)
        .map(|node| {
            let pods = cluster.pods_on(&node.name);
            let held = pods.iter().filter(|pod| !is_of_node(standings, pod)).count();
            let cpu = pods.iter().map(|pod| pod.requests.cpu.0).sum();
            (held, cpu, node.name.clone())
        })
        .filter(|(held, ..)| *held > 0)
        .collect();
    found.sort();
    found.into_iter().map(|(.., name)| name).collect()
}

fn is_of_node(standings: &BTreeMap<String, Standing>, pod: &Pod) -> bool {
    matches!(standings.get(&pod.uid), Some(Standing::OfNode))
}

/// A pod and what will be in its stead.
type Pair = (Arc<Pod>, Arc<Pod>);

/// The pods that must leave a node so that it is empty, in their order; or why one may not.
fn leaving(
    cluster: &Cluster,
    standings: &BTreeMap<String, Standing>,
    budgets: &[Budget],
    name: &str,
) -> Result<Vec<Pair>, String> {
    let mut leaving: Vec<Pair> = Vec::new();
    for pod in cluster.pods_on(name) {
        let whose = || format!("{}/{}", pod.namespace, pod.name);
        match standings.get(&pod.uid) {
            Some(Standing::OfNode) => continue,
            Some(Standing::Moves(successor)) => leaving.push((pod.clone(), successor.clone())),
            Some(Standing::Pinned(why)) => return Err(format!("{} {why}", whose())),
            None => return Err(format!("{} is not known well enough", whose())),
        }
        let held = |budget: &&Budget| {
            budget.namespace == pod.namespace && budget.selector.matches(&pod.labels)
        };
        let held: Vec<&Budget> = budgets.iter().filter(held).collect();
        if held.len() > 1 {
            return Err(format!("{} has several budgets, so nothing may evict it", whose()));
        }
        if held.iter().any(|budget| budget.allowed < 1) {
            return Err(format!("the budget of {} lets none go now", whose()));
        }
    }
    let size = |pod: &Pod| (pod.requests.cpu, pod.requests.memory);
    leaving.sort_by(|(one, _), (other, _)| {
        let by_size = size(other).cmp(&size(one));
        one.priority.cmp(&other.priority).then(by_size).then_with(|| one.uid.cmp(&other.uid))
    });
    Ok(leaving)
}

/// Moves that were made on the cluster, and can be taken back.
#[derive(Default)]
struct Trial {
    moves: Vec<Move>,
    done: Vec<Pair>,
    /// As they were before they were cordoned.
    nodes: Vec<Arc<Node>>,
}

impl Trial {
    /// Empties all of `nodes`, or none.
    fn run(
        cluster: &mut Cluster,
        nodes: &[(String, Vec<Pair>)],
        most: usize,
    ) -> Result<Self, String> {
        let wanted: usize = nodes.iter().map(|(_, leaving)| leaving.len()).sum();
        if wanted > most {
            return Err(format!("it takes {wanted} moves, and {most} are left"));
        }
        let mut trial = Self::default();
        let named = |node: &&Arc<Node>| nodes.iter().any(|(name, _)| *name == node.name);
        // In the order in which they are emptied, which is the order of the plan.
        trial.nodes = cluster.nodes().filter(named).cloned().collect();
        trial.nodes.sort_by_key(|node| nodes.iter().position(|(name, _)| *name == node.name));
        for node in &trial.nodes {
            cluster.set_node(Node { unschedulable: true, ..Node::clone(node) });
        }
        for (from, leaving) in nodes {
            for (pod, successor) in leaving {
                cluster.remove(&pod.uid);
                let placement = match cluster.decide(successor) {
                    Ok(placement) => placement,
                    Err(why) => {
                        cluster.place(Arc::clone(pod), from);
                        trial.undo(cluster);
                        return Err(format!("no room for {}/{}: {why}", pod.namespace, pod.name));
                    }
                };
                let given = cluster.with_devices(successor, &placement.node);
                cluster.place(given, &placement.node);
                trial.done.push((Arc::clone(pod), Arc::clone(successor)));
                trial.moves.push(Move {
                    namespace: pod.namespace.clone(),
                    pod: pod.name.clone(),
                    uid: pod.uid.clone(),
                    from: from.clone(),
                    to: placement.node,
                });
            }
        }
        Ok(trial)
    }

    fn undo(self, cluster: &mut Cluster) {
        for (_, successor) in &self.done {
            cluster.remove(&successor.uid);
        }
        for ((pod, _), each) in self.done.into_iter().zip(&self.moves) {
            cluster.place(pod, &each.from);
        }
        for node in self.nodes {
            cluster.set_node(Node::clone(&node));
        }
    }
}

fn room(cluster: &Cluster, standings: &BTreeMap<String, Standing>) -> Room {
    let mut room = Room::default();
    for node in cluster.nodes() {
        let pods = cluster.pods_on(&node.name);
        let in_use = pods.iter().any(|pod| !is_of_node(standings, pod));
        room.nodes_in_use += usize::from(in_use);
        room.nodes_empty += usize::from(!in_use);
        let mut used = Amounts::default();
        for pod in pods {
            used += &pod.requests;
        }
        let gpus = |amounts: &Amounts| amounts.extended.get(DEVICES).copied().unwrap_or(0);
        let free = gpus(&node.allocatable) - gpus(&used);
        let all = &node.allocatable;
        room.most_cpu_milli = room.most_cpu_milli.max(all.cpu.0 - used.cpu.0);
        room.most_memory_bytes = room.most_memory_bytes.max(all.memory.0 - used.memory.0);
        room.gpus_free += free;
        room.most_gpus = room.most_gpus.max(free);
    }
    room
}

#[cfg(test)]
mod tests {
    use berth_api::Selector;

    use super::*;
    use crate::amount::{Bytes, Millicores};
    use crate::profile::Profile;

    struct Scene {
        cluster: Cluster,
        standings: BTreeMap<String, Standing>,
    }

    impl Scene {
        /// Nodes of ten cores.
        fn new(nodes: &[&str]) -> Self {
            let mut cluster = Cluster::new(vec![Profile::standard(0)]);
            for name in nodes {
                cluster.set_node(Node {
                    name: (*name).to_owned(),
                    allocatable: amounts(10),
                    pods: 100,
                    ..Node::default()
                });
            }
            Self { cluster, standings: BTreeMap::new() }
        }

        fn pod(&mut self, name: &str, cores: i64, node: &str, priority: i32) -> &mut Self {
            let pod = Pod {
                namespace: "n".into(),
                name: name.into(),
                uid: name.into(),
                labels: BTreeMap::from([("app".into(), name.into())]),
                requests: amounts(cores),
                weighed: amounts(cores),
                priority,
                node: Some(node.into()),
                ..Pod::default()
            };
            let successor = Pod { uid: format!("{name}+"), node: None, ..pod.clone() };
            self.cluster.place(Arc::new(pod), node);
            self.standings.insert(name.into(), Standing::Moves(Arc::new(successor)));
            self
        }

        fn stands(&mut self, name: &str, standing: Standing) -> &mut Self {
            self.standings.insert(name.into(), standing);
            self
        }

        fn plan(&mut self, budgets: &[Budget], aim: &Aim) -> Plan {
            plan(&mut self.cluster, &self.standings, budgets, aim)
        }
    }

    fn amounts(cores: i64) -> Amounts {
        Amounts { cpu: Millicores(cores * 1000), memory: Bytes(cores << 30), ..Amounts::default() }
    }

    fn aim() -> Aim {
        Aim { most_moves: 50, ..Aim::default() }
    }

    #[test]
    fn half_empty_nodes_are_emptied_into_the_others() {
        let mut scene = Scene::new(&["a", "b", "c"]);
        scene.pod("a1", 4, "a", 0).pod("b1", 3, "b", 0).pod("c1", 3, "c", 0).pod("c2", 3, "c", 0);
        let plan = scene.plan(&[], &aim());
        assert_eq!(plan.freed.len(), 1, "13 cores need two nodes: {plan:?}");
        assert_eq!((plan.before.nodes_in_use, plan.after.nodes_in_use), (3, 2));
        assert_eq!(plan.after.most_cpu_milli, 10_000);
        assert!(plan.moves.iter().all(|each| !plan.freed.contains(&each.to)), "{plan:?}");
    }

    #[test]
    fn a_node_that_cannot_be_emptied_whole_is_left_as_it_was() {
        let mut scene = Scene::new(&["a", "b"]);
        scene.pod("small", 1, "a", 0).pod("large", 6, "a", 0).pod("b1", 5, "b", 0);
        let aim = Aim { free: Some("a".into()), ..aim() };
        let plan = scene.plan(&[], &aim);
        assert!(plan.moves.is_empty() && plan.freed.is_empty(), "{plan:?}");
        assert!(plan.kept["a"].starts_with("no room for n/large"), "{plan:?}");
        assert_eq!(plan.before, plan.after);
        assert_eq!(scene.cluster.node_of("small"), Some("a"));
        assert!(scene.cluster.nodes().all(|node| !node.unschedulable));
    }

    #[test]
    fn who_may_not_move_holds_the_node_and_its_own_pods_do_not() {
        fn check(standing: Standing, budget: Option<i64>, freed: bool, why: &str) {
            let mut scene = Scene::new(&["a", "b"]);
            scene.pod("x", 1, "a", 0).pod("y", 2, "a", 0);
            scene.stands("x", standing);
            let budgets: Vec<Budget> = budget
                .into_iter()
                .map(|allowed| Budget {
                    namespace: "n".into(),
                    selector: Selector::labels([(&"app".to_owned(), &"y".to_owned())]),
                    allowed,
                })
                .collect();
            let plan = scene.plan(&budgets, &Aim { free: Some("a".into()), ..aim() });
            assert_eq!(!plan.freed.is_empty(), freed, "{plan:?}");
            assert!(freed || plan.kept["a"].contains(why), "{plan:?}");
        }
        check(Standing::OfNode, None, true, "");
        check(Standing::Pinned("is nobody's".into()), None, false, "n/x is nobody's");
        check(Standing::OfNode, Some(0), false, "lets none go");
        check(Standing::OfNode, Some(1), true, "");
    }

    #[test]
    fn a_target_and_a_number_of_moves_end_it() {
        let four = || {
            let mut scene = Scene::new(&["a", "b", "c", "d"]);
            scene.pod("a1", 1, "a", 0).pod("b1", 1, "b", 0).pod("c1", 1, "c", 0);
            scene.pod("d1", 1, "d", 0);
            scene
        };
        assert_eq!(four().plan(&[], &aim()).after.nodes_in_use, 1);
        let two = Aim { target_nodes: Some(2), ..aim() };
        assert_eq!(four().plan(&[], &two).after.nodes_in_use, 2);
        let plan = four().plan(&[], &Aim { most_moves: 1, ..Aim::default() });
        assert_eq!((plan.moves.len(), plan.freed.len()), (1, 1));
    }

    #[test]
    fn the_least_important_moves_first() {
        let mut scene = Scene::new(&["a", "b"]);
        scene.pod("high", 3, "a", 100).pod("low", 1, "a", 0).pod("mid", 1, "a", 50);
        let plan = scene.plan(&[], &Aim { free: Some("a".into()), ..aim() });
        let order: Vec<&str> = plan.moves.iter().map(|each| each.pod.as_str()).collect();
        assert_eq!(order, ["low", "mid", "high"]);
    }
}
