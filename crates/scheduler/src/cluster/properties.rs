//! Random clusters against a slow evaluator that looks at every node and every pod anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_api::Selector;
use proptest::prelude::*;

use super::Cluster;
use crate::amount::{Amounts, Bytes, Millicores};
use crate::preempt::{Budget, preempt};
use crate::profile::Profile;
use crate::snapshot::{Effect, HostPort, Near, Node, Pod, Spread, Taint, Toleration};

fn labels(pairs: &[(&str, String)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

fn app(name: u8) -> Selector {
    Selector::labels(&labels(&[("app", name.to_string())]))
}

fn amounts(cpu: i64, memory: i64) -> Amounts {
    Amounts { cpu: Millicores(cpu), memory: Bytes(memory), ..Amounts::default() }
}

fn a_node(at: usize) -> impl Strategy<Value = Node> {
    (0_u8..4, 1_i64..5, 1_i64..5, 1_i64..6, 0_u8..8).prop_map(
        move |(zone, cpu, memory, pods, trouble)| {
            let name = format!("n{at}");
            let mut own = labels(&[("host", name.clone())]);
            if zone > 0 {
                own.insert("zone".into(), zone.to_string());
            }
            let taint = Taint { key: "t".into(), value: String::new(), effect: Effect::NoSchedule };
            Node {
                name,
                labels: own,
                allocatable: amounts(cpu * 1000, memory * 1000),
                pods,
                unschedulable: trouble == 1,
                taints: if trouble == 2 { vec![taint] } else { Vec::new() },
                ..Node::default()
            }
        },
    )
}

fn near(name: u8, key: &str) -> Near {
    Near {
        selector: app(name),
        namespaces: ["default".to_owned()].into(),
        namespace_selector: Selector::nothing(),
        topology_key: key.into(),
    }
}

/// A pod of one of few kinds, so that classes are met again.
fn a_pod(name: usize, kind: u16, priority: i32) -> Arc<Pod> {
    let own = (kind % 3) as u8;
    let key = if kind & 8 == 0 { "zone" } else { "host" };
    let mut pod = Pod {
        namespace: "default".into(),
        name: format!("p{name}"),
        uid: format!("p{name}"),
        labels: labels(&[("app", own.to_string())]),
        priority,
        preempts: true,
        requests: amounts(i64::from(kind % 5) * 400, i64::from(kind % 7) * 200),
        ..Pod::default()
    };
    pod.weighed = pod.requests.clone();
    match (kind / 16) % 8 {
        1 => pod.anti_affinity = vec![near(own, key)],
        2 => pod.affinity = vec![near(own, key)],
        3 | 4 => {
            pod.spread = vec![Spread {
                selector: app(own),
                topology_key: key.into(),
                max_skew: 1,
                min_domains: if kind & 1 == 0 { 1 } else { 3 },
                required: (kind / 16) % 8 == 3,
                honour_affinity: true,
                honour_taints: kind & 4 == 0,
            }];
        }
        5 => pod.near_preferences = vec![(5, near(own, key)), (-3, near((own + 1) % 3, "host"))],
        6 => {
            let port = HostPort { protocol: "TCP".into(), address: "0.0.0.0".into(), port: 80 };
            pod.host_ports = vec![port];
        }
        7 => pod.tolerations = vec![Toleration::default()],
        _ => {}
    }
    Arc::new(pod)
}

/// Every node with every pod on it, and nothing remembered.
struct Naive<'a>(Vec<(&'a Node, Vec<&'a Pod>)>);

/// Pods that a node is being cleared for.
type Awaited = Vec<(Arc<Pod>, String)>;

impl<'a> Naive<'a> {
    fn of(cluster: &'a Cluster) -> Self {
        let pods = |node: &Node| cluster.pods_on(&node.name).iter().map(|pod| &**pod).collect();
        Self(cluster.nodes().map(|node| (&**node, pods(node))).collect())
    }

    fn in_domain(&self, node: &Node, key: &str, means: impl Fn(&Pod) -> bool) -> usize {
        let Some(value) = node.labels.get(key) else { return 0 };
        let alike = self.0.iter().filter(|(other, _)| other.labels.get(key) == Some(value));
        alike.flat_map(|(_, pods)| pods).filter(|other| means(other)).count()
    }

    fn takes(&self, pod: &Pod, node: &Node, pods: &[&Pod]) -> bool {
        let sum =
            |of: fn(&Amounts) -> i64| pods.iter().map(|other| of(&other.requests)).sum::<i64>();
        let fits = |of: fn(&Amounts) -> i64| {
            of(&pod.requests) == 0 || sum(of) + of(&pod.requests) <= of(&node.allocatable)
        };
        let bears = !pod.tolerations.is_empty();
        let means = |term: &Near, other: &Pod| {
            term.namespaces.contains(&other.namespace) && term.selector.matches(&other.labels)
        };
        (bears || !node.unschedulable && node.taints.is_empty())
            && fits(|amounts| amounts.cpu.0)
            && fits(|amounts| amounts.memory.0)
            && (pods.len() as i64) < node.pods
            && (pod.host_ports.is_empty() || pods.iter().all(|other| other.host_ports.is_empty()))
            && pod.spread.iter().filter(|spread| spread.required).all(|spread| {
                let tainted =
                    |node: &Node| spread.honour_taints && !bears && !node.taints.is_empty();
                let mut domains: BTreeMap<&str, i64> = BTreeMap::new();
                for (other, pods) in &self.0 {
                    if let Some(value) = other.labels.get(&spread.topology_key)
                        && !tainted(other)
                    {
                        let alike = pods.iter().filter(|pod| spread.selector.matches(&pod.labels));
                        *domains.entry(value).or_default() += alike.count() as i64;
                    }
                }
                let enough = domains.len() as i64 >= spread.min_domains;
                let fewest = if enough { domains.values().min().copied().unwrap_or(0) } else { 0 };
                node.labels.get(&spread.topology_key).is_some_and(|value| {
                    let there = domains.get(value.as_str()).copied().unwrap_or(0);
                    there + 1 - fewest <= spread.max_skew
                })
            })
            && pod.anti_affinity.iter().all(|term| {
                self.in_domain(node, &term.topology_key, |other| means(term, other)) == 0
            })
            && pod.affinity.iter().all(|term| {
                let first = self.0.iter().all(|(node, pods)| {
                    !node.labels.contains_key(&term.topology_key)
                        || pods.iter().all(|other| !means(term, other))
                });
                node.labels.contains_key(&term.topology_key)
                    && (first
                        || self.in_domain(node, &term.topology_key, |other| means(term, other)) > 0)
            })
            && self.0.iter().all(|(there, pods)| {
                pods.iter().flat_map(|other| &other.anti_affinity).all(|term| {
                    let key = &term.topology_key;
                    let (here, there) = (node.labels.get(key), there.labels.get(key));
                    !means(term, pod) || there.is_none() || here != there
                })
            })
    }

    fn takers(&self, pod: &Pod) -> Vec<String> {
        let takers = self.0.iter().filter(|(node, pods)| self.takes(pod, node, pods));
        takers.map(|(node, _)| node.name.clone()).collect()
    }

    /// Those that take the pod with the awaited ones on them, and without.
    fn takers_beside(&self, pod: &Pod, awaited: &Awaited) -> Vec<String> {
        let mut takers = self.takers(pod);
        takers.retain(|name| {
            let mut full = Self(self.0.clone());
            let (_, there) = full.0.iter_mut().find(|(node, _)| node.name == *name).expect("it is");
            let here = awaited.iter().filter(|(_, node)| node == name).map(|(pod, _)| &**pod);
            there.extend(here.filter(|other| other.priority >= pod.priority));
            full.takers(pod).contains(name)
        });
        takers
    }
}

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    (1_usize..7).prop_flat_map(|count| (0..count).map(a_node).collect::<Vec<_>>())
}

fn build(nodes: &[Node], seed: u64) -> Cluster {
    let mut cluster = Cluster::new(vec![Profile::standard(seed)]);
    for node in nodes {
        cluster.set_node(node.clone());
    }
    cluster
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn decisions_agree_with_looking_at_everything(
        nodes in nodes(),
        steps in prop::collection::vec((0_u16..128, 0_u8..12), 1..40),
        seed in 0_u64..4,
    ) {
        let mut cluster = build(&nodes, seed);
        let mut twin = build(&nodes, seed);
        let mut awaited = Awaited::new();
        for (name, (kind, what)) in steps.iter().enumerate() {
            let pod = a_pod(name, *kind, i32::from(*kind % 2));
            match what {
                // Now and then one goes, or a node is cordoned, lost or comes back.
                0 | 1 => {
                    let gone = format!("p{}", usize::from(*kind) % (name + 1));
                    cluster.remove(&gone);
                    twin.remove(&gone);
                }
                2 => {
                    let mut node = nodes[usize::from(*kind) % nodes.len()].clone();
                    node.unschedulable = kind & 1 == 1;
                    cluster.set_node(node.clone());
                    twin.set_node(node);
                }
                3 => {
                    let node = &nodes[usize::from(*kind) % nodes.len()];
                    cluster.remove_node(&node.name);
                    twin.remove_node(&node.name);
                    awaited.retain(|(_, on)| *on != node.name);
                }
                // Room is being made for somebody.
                4 => {
                    let node = &nodes[usize::from(*kind / 3) % nodes.len()].name;
                    if cluster.has_node(node) {
                        let pod = a_pod(1000 + name, *kind, i32::from(*kind % 3));
                        cluster.nominate(&pod, Some(node));
                        twin.nominate(&pod, Some(node));
                        awaited.push((pod, node.clone()));
                    }
                }
                5 => {
                    if let Some((pod, _)) = awaited.pop() {
                        cluster.nominate(&pod, None);
                        twin.nominate(&pod, None);
                    }
                }
                _ => {}
            }
            let takers = Naive::of(&cluster).takers_beside(&pod, &awaited);
            let outcome = cluster.decide(&pod);
            prop_assert_eq!(&outcome, &twin.decide(&pod), "same seed, same answer");
            match &outcome {
                Ok(placement) => {
                    prop_assert!(takers.contains(&placement.node), "{:?} {:?}", placement, takers);
                    prop_assert_eq!(placement.candidates, takers.len());
                }
                Err(why) => {
                    prop_assert!(takers.is_empty(), "{} but {:?}", why, takers);
                    prop_assert_eq!(why.by_filter.values().sum::<usize>(), cluster.nodes().count());
                }
            }
            // What is remembered must not differ from what is found out anew.
            let mut fresh = build(&[], seed);
            for node in cluster.nodes() {
                fresh.set_node(Node::clone(node));
            }
            for node in cluster.nodes() {
                for other in cluster.pods_on(&node.name) {
                    fresh.place(Arc::clone(other), &node.name);
                }
            }
            for (other, node) in &awaited {
                fresh.nominate(other, Some(node));
            }
            prop_assert_eq!(&fresh.decide(&pod), &outcome);
            if let Ok(placement) = outcome {
                cluster.place(Arc::clone(&pod), &placement.node);
                twin.place(pod, &placement.node);
            }
        }
    }

    #[test]
    fn preemption_takes_only_the_less_important_and_makes_room(
        nodes in nodes(),
        there in prop::collection::vec((0_u16..128, 0_i32..5), 1..30),
        kind in 0_u16..128,
        priority in 0_i32..6,
        allowed in 0_i64..3,
    ) {
        let mut cluster = build(&nodes, 1);
        for (name, (kind, priority)) in there.iter().enumerate() {
            let pod = a_pod(name, *kind, *priority);
            if let Ok(placement) = cluster.decide(&pod) {
                cluster.place(pod, &placement.node);
            }
        }
        let pod = a_pod(999, kind, priority);
        if cluster.decide(&pod).is_ok() {
            return Ok(());
        }
        let budget = Budget { namespace: "default".into(), selector: app(0), allowed };
        if let Ok(found) = preempt(&mut cluster, &pod, &[budget]) {
            prop_assert!(found.victims.iter().all(|victim| victim.priority < priority));
            for victim in &found.victims {
                prop_assert_eq!(cluster.node_of(&victim.uid), Some(&*found.node));
                cluster.remove(&victim.uid);
            }
            prop_assert!(Naive::of(&cluster).takers(&pod).contains(&found.node));
            // Each victim is needed.
            for victim in &found.victims {
                cluster.place(Arc::clone(victim), &found.node);
                prop_assert!(!Naive::of(&cluster).takers(&pod).contains(&found.node));
                cluster.remove(&victim.uid);
            }
        }
    }

    #[test]
    fn gangs_are_placed_whole_or_leave_no_trace(
        nodes in nodes(),
        kinds in prop::collection::vec(0_u16..128, 1..8),
        least in 1_usize..8,
    ) {
        let mut cluster = build(&nodes, 1);
        let gang: Vec<_> = kinds.iter().enumerate().map(|(at, kind)| a_pod(at, *kind, 0)).collect();
        let placed = crate::gang::place(&mut cluster, &gang, 0, least);
        let there = gang.iter().filter(|pod| cluster.node_of(&pod.uid).is_some()).count();
        prop_assert!(there == 0 || there >= least, "{there} of at least {least}");
        prop_assert_eq!(placed.is_ok(), there >= least);
    }
}
