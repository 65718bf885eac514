//! How many machines a workload needs under a policy.
//!
//! Machines are removed in a random order, the whole workload is packed again from scratch each
//! time, until it no longer fits; that is repeated with other orders, and the 90th percentile is
//! told, which a few lucky orders cannot better. A workload that does not fit at first gets a copy
//! of the whole cluster beside it. One pod in 500 may be left over, so that one picky pod does not
//! decide.
//!
//! Between "fits" and "does not" the search halves: packing is not quite monotonic, and Borg's own
//! measure has the same blur.
//!
//! Source: Borg (EuroSys '15), §5.1.

use berth_scheduler::gpu::{Cluster, Shape, WHOLE};
use serde::Serialize;

use crate::chance::Chance;
use crate::policy::PolicyKind;
use crate::trace::Trace;

/// One pod in so many may be left over.
const MAY_BE_LEFT: usize = 500;
/// Most copies of the cluster that are tried.
const MOST_COPIES: usize = 16;

/// Machines needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compaction {
    /// By order of removal.
    pub needed: Vec<usize>,
    /// At the 90th percentile.
    pub machines: usize,
    /// How many there are.
    pub of: usize,
}

/// The machines that `policy` needs for the pods of `trace`, over `orders` orders of removal.
/// None when it does not fit on 16 copies of the cluster.
///
/// # Guarantees
/// The same orders for every policy: order `n` of seed `s` is the same for all.
pub fn machines_needed(
    trace: &Trace,
    policy: PolicyKind,
    orders: u64,
    seed: u64,
    mut progress: impl FnMut(u64),
) -> Option<Compaction> {
    let mut needed = Vec::new();
    for order in 0..orders.max(1) {
        needed.push(one_order(trace, policy, seed.wrapping_add(order))?);
        progress(order + 1);
    }
    let mut sorted = needed.clone();
    sorted.sort_unstable();
    let rank = (sorted.len() * 9).div_ceil(10).max(1) - 1;
    let of = trace.shapes.len();
    Some(Compaction { machines: sorted[rank], needed, of })
}

fn one_order(trace: &Trace, policy: PolicyKind, seed: u64) -> Option<usize> {
    let mut chance = Chance::new(seed);
    let mut pods: Vec<usize> = (0..trace.arrivals.len()).collect();
    chance.shuffle(&mut pods);
    // The copies are shuffled one by one: the first one's order does not hang on how many there are.
    let mut shapes = Vec::new();
    let fits = |shapes: &[Shape]| {
        let cluster = Cluster::new(shapes.to_vec());
        let mut policy = policy.start(trace, cluster, seed);
        let mut left = 0;
        pods.iter().all(|pod| {
            left += usize::from(policy.place(*pod, &trace.arrivals[*pod]).is_none());
            left <= pods.len() / MAY_BE_LEFT
        })
    };
    let asked: (u64, u64) = pods.iter().fold((0, 0), |(cpu, gpu), pod| {
        let demand = &trace.arrivals[*pod].demand;
        (cpu + u64::from(demand.cpu_milli), gpu + u64::from(demand.gpu_total()))
    });
    // Nine tenths of what is asked: the pods that may be left over could be the largest.
    let too_small = |shapes: &[Shape]| {
        let mut room = (0, 0);
        let small = shapes.iter().take_while(|shape| {
            room.0 += u64::from(shape.cpu_milli);
            room.1 += u64::from(shape.gpus) * u64::from(WHOLE);
            room.0 * 10 < asked.0 * 9 || room.1 * 10 < asked.1 * 9
        });
        small.count()
    };
    for _ in 0..MOST_COPIES {
        let mut copy = trace.shapes.clone();
        chance.shuffle(&mut copy);
        let too_few = shapes.len();
        shapes.extend(copy);
        if fits(&shapes) {
            let (mut too_few, mut enough) = (too_few.max(too_small(&shapes)), shapes.len());
            while enough - too_few > 1 {
                let middle = usize::midpoint(too_few, enough);
                if fits(&shapes[..middle]) {
                    enough = middle;
                } else {
                    too_few = middle;
                }
            }
            return Some(enough);
        }
    }
    None
}
