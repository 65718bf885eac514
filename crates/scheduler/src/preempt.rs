//! Which pods must go so that a more important one fits.
//!
//! Each node is tried without every pod of lower priority; where that would do, pods are kept one
//! after the other, those that a budget protects and the more important ones first, as long as the
//! newcomer still fits. What is left are that node's victims.
//!
//! # Guarantees
//! No victim has the priority of the pod or a higher one.
//!
//! Refuses pods of another node as victims.
//!
//! Source: Kubernetes' documentation of pod priority and preemption, and the order of its criteria
//! for choosing a node.

use std::cmp::Reverse;
use std::sync::Arc;

use berth_api::Selector;

use crate::class::Class;
use crate::cluster::Cluster;
use crate::snapshot::Pod;
use crate::world::{Place, World};

/// At least so many nodes are tried to the end, or a tenth of all: as kube-scheduler does.
const LEAST_TRIED: usize = 100;

/// What a disruption budget still allows.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Whose pods it protects.
    pub namespace: String,
    /// Which of them.
    pub selector: Selector,
    /// How many may go now.
    pub allowed: i64,
}

/// A node, and who must leave it.
#[derive(Clone, Debug)]
pub struct Preemption {
    /// Its name.
    pub node: String,
    /// Who must go, the least important last.
    pub victims: Vec<Arc<Pod>>,
    /// How many of them a budget protects.
    pub violations: usize,
}

/// Why no preemption helps, as Kubernetes words it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("preemption: {0}")]
pub struct NoVictims(pub String);

/// The node where making room for `pod` does least harm.
///
/// # Errors
/// [`NoVictims`] says why there is none.
pub fn preempt(
    cluster: &mut Cluster,
    pod: &Arc<Pod>,
    budgets: &[Budget],
) -> Result<Preemption, NoVictims> {
    if !pod.preempts {
        return Err(NoVictims("not eligible due to preemptionPolicy=Never.".to_owned()));
    }
    if awaits_an_end(cluster, pod) {
        let text = "not eligible due to a terminating pod on the nominated node.";
        return Err(NoVictims(text.to_owned()));
    }
    cluster.with_class(pod, |class, world| {
        let enough = LEAST_TRIED.max(world.alive / 10);
        let start = start(pod, world.nodes.len());
        let (mut found, mut hopeless, mut tried) = (Vec::new(), 0, 0);
        for step in 0..world.nodes.len() {
            let at = ((start + step) % world.nodes.len()) as u32;
            if !world.nodes[at as usize].alive {
                continue;
            }
            if !could_help(class, at) {
                hopeless += 1;
                continue;
            }
            tried += 1;
            found.extend(victims(class, world, at, pod, budgets));
            if found.len() >= enough {
                break;
            }
        }
        found.into_iter().min_by_key(harm).ok_or_else(|| {
            let mut parts = Vec::new();
            if tried > 0 {
                parts.push(format!("{tried} No preemption victims found for incoming pod"));
            }
            if hopeless > 0 {
                parts.push(format!("{hopeless} Preemption is not helpful for scheduling"));
            }
            let all = tried + hopeless;
            NoVictims(format!("0/{all} nodes are available: {}.", parts.join(", ")))
        })
    })
}

/// Whether room is being made for it already: somebody less important is ending where it is to go.
pub(crate) fn awaits_an_end(cluster: &Cluster, pod: &Pod) -> bool {
    cluster.world.nominated(&pod.uid).is_some_and(|at| {
        let place = &cluster.world.nodes[at as usize];
        place.pods.iter().any(|other| other.terminating && other.priority < pod.priority)
    })
}

fn start(pod: &Pod, nodes: usize) -> usize {
    let hash = pod
        .uid
        .bytes()
        .fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte)));
    hash.checked_rem(nodes).unwrap_or(0)
}

fn could_help(class: &Class, at: u32) -> bool {
    match class.state(at) {
        Err(refusal) => refusal.is_some_and(|why| why.is_resolvable()),
        Ok((bucket, _)) => class.bucket_refuses(bucket).is_some_and(|why| why.is_resolvable()),
    }
}

/// The more important first: priority, then who has run longer.
fn importance(pod: &Pod) -> (Reverse<i32>, i64, &str) {
    (Reverse(pod.priority), pod.start.unwrap_or(i64::MAX), &pod.uid)
}

fn victims(
    class: &Class,
    world: &World,
    at: u32,
    pod: &Pod,
    budgets: &[Budget],
) -> Option<Preemption> {
    let real = &world.nodes[at as usize];
    let mut lower: Vec<&Arc<Pod>> =
        real.pods.iter().filter(|other| other.priority < pod.priority).collect();
    if lower.is_empty() {
        return None;
    }
    lower.sort_by(|one, other| importance(one).cmp(&importance(other)));
    let mut trial = Place::new(Arc::clone(&real.node), real.rank);
    trial.nominated = real.nominated.iter().filter(|each| each.uid != pod.uid).cloned().collect();
    trial.load = real.load;
    for other in real.pods.iter().filter(|other| other.priority >= pod.priority) {
        trial.put(Arc::clone(other));
    }
    let mut gone: Vec<&Pod> = lower.iter().map(|other| &***other).collect();
    let fits = |trial: &Place, gone: &[&Pod]| {
        class.ask.refuses(world, at, trial).is_none()
            && class.node_refuses(world, at, gone).is_none()
    };
    if !fits(&trial, &gone) {
        return None;
    }
    let (protected, free) = protected(&lower, budgets);
    let violating = protected.len();
    let mut victims: Vec<(bool, Arc<Pod>)> = Vec::new();
    for (index, other) in protected.into_iter().chain(free).enumerate() {
        trial.put(Arc::clone(other));
        let position = gone.iter().position(|each| each.uid == other.uid)?;
        let back = gone.remove(position);
        if !fits(&trial, &gone) {
            trial.take(&other.uid);
            gone.push(back);
            victims.push((index < violating, Arc::clone(other)));
        }
    }
    let violations = victims.iter().filter(|(violates, _)| *violates).count();
    let mut victims: Vec<Arc<Pod>> = victims.into_iter().map(|(_, victim)| victim).collect();
    victims.sort_by(|one, other| importance(one).cmp(&importance(other)));
    (!victims.is_empty()).then(|| Preemption { node: real.node.name.clone(), victims, violations })
}

/// Parts pods, the most important first, into those whose going a budget forbids and the others.
fn protected<'a>(
    pods: &[&'a Arc<Pod>],
    budgets: &[Budget],
) -> (Vec<&'a Arc<Pod>>, Vec<&'a Arc<Pod>>) {
    let mut left: Vec<i64> = budgets.iter().map(|budget| budget.allowed).collect();
    pods.iter().partition(|pod| {
        let mut violates = false;
        for (budget, left) in budgets.iter().zip(&mut left) {
            if budget.namespace == pod.namespace && budget.selector.matches(&pod.labels) {
                *left -= 1;
                violates |= *left < 0;
            }
        }
        violates
    })
}

/// What is compared between nodes, the least harm first.
fn harm(preemption: &Preemption) -> (usize, i32, i64, usize, Reverse<i64>) {
    let victims = &preemption.victims;
    let highest = victims.iter().map(|pod| pod.priority).max().unwrap_or(i32::MIN);
    let sum = victims.iter().map(|pod| i64::from(pod.priority) + i64::from(i32::MAX) + 1).sum();
    let earliest = victims
        .iter()
        .filter(|pod| pod.priority == highest)
        .map(|pod| pod.start.unwrap_or(i64::MAX))
        .min()
        .unwrap_or(i64::MAX);
    (preemption.violations, highest, sum, victims.len(), Reverse(earliest))
}
