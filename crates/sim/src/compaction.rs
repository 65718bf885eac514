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

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use berth_scheduler::gpu::WHOLE;
use serde::Serialize;

use crate::chance::Chance;
use crate::policy::Contender;
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

/// The machines that `policy` needs for the pods of `trace`, over `orders` orders of removal, as
/// many at once as there are cores. None when it does not fit on 16 copies of the cluster.
///
/// # Guarantees
/// The same orders for every policy: order `n` of seed `s` is the same for all, on any machine.
pub fn machines_needed(
    trace: &Trace,
    policy: impl Into<Contender>,
    orders: u64,
    seed: u64,
    mut progress: impl FnMut(u64),
) -> Option<Compaction> {
    let (policy, orders) = (policy.into(), orders.max(1));
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let (next, hopeless) = (AtomicU64::new(0), AtomicBool::new(false));
    let (told, done) = mpsc::channel();
    let needed: Vec<Option<usize>> = std::thread::scope(|scope| {
        for _ in 0..threads.min(orders) {
            let (told, policy, next, hopeless) = (told.clone(), &policy, &next, &hopeless);
            scope.spawn(move || {
                // What does not fit in one order is not tried in the others.
                while !hopeless.load(Ordering::Relaxed) {
                    let order = next.fetch_add(1, Ordering::Relaxed);
                    if order >= orders {
                        break;
                    }
                    let needed = one_order(trace, policy, seed.wrapping_add(order));
                    hopeless.fetch_or(needed.is_none(), Ordering::Relaxed);
                    if told.send((order, needed)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(told);
        let mut found: Vec<(u64, Option<usize>)> = Vec::new();
        for one in done {
            found.push(one);
            progress(found.len() as u64);
        }
        found.sort_unstable();
        found.into_iter().map(|(_, needed)| needed).collect()
    });
    let needed: Vec<usize> = needed.into_iter().collect::<Option<_>>()?;
    let mut sorted = needed.clone();
    sorted.sort_unstable();
    let rank = (sorted.len() * 9).div_ceil(10).max(1) - 1;
    let of = trace.shapes.len();
    Some(Compaction { machines: sorted[rank], needed, of })
}

fn one_order(trace: &Trace, policy: &Contender, seed: u64) -> Option<usize> {
    let mut chance = Chance::new(seed);
    let mut pods: Vec<usize> = (0..trace.arrivals.len()).collect();
    chance.shuffle(&mut pods);
    // The copies are shuffled one by one: the first one's order does not hang on how many there are.
    let mut machines: Vec<usize> = Vec::new();
    let fits = |machines: &[usize]| {
        let mut policy = policy.start_on(trace, machines, seed);
        let mut left = 0;
        pods.iter().all(|pod| {
            left += usize::from(policy.place(*pod, &trace.arrivals[*pod]).is_none());
            // Whoever was displaced is tried once more, as in a replay.
            for again in policy.displaced() {
                left += usize::from(policy.place(again, &trace.arrivals[again]).is_none());
            }
            left <= pods.len() / MAY_BE_LEFT
        })
    };
    let asked: (u64, u64) = pods.iter().fold((0, 0), |(cpu, gpu), pod| {
        let demand = &trace.arrivals[*pod].demand;
        (cpu + u64::from(demand.cpu_milli), gpu + u64::from(demand.gpu_total()))
    });
    // Nine tenths of what is asked: the pods that may be left over could be the largest.
    let too_small = |machines: &[usize]| {
        let mut room = (0, 0);
        let small = machines.iter().take_while(|machine| {
            let shape = &trace.shapes[**machine];
            room.0 += u64::from(shape.cpu_milli);
            room.1 += u64::from(shape.gpus) * u64::from(WHOLE);
            room.0 * 10 < asked.0 * 9 || room.1 * 10 < asked.1 * 9
        });
        small.count()
    };
    for _ in 0..MOST_COPIES {
        let mut copy: Vec<usize> = (0..trace.shapes.len()).collect();
        chance.shuffle(&mut copy);
        let too_few = machines.len();
        machines.extend(copy);
        if fits(&machines) {
            let (mut too_few, mut enough) = (too_few.max(too_small(&machines)), machines.len());
            while enough - too_few > 1 {
                let middle = usize::midpoint(too_few, enough);
                if fits(&machines[..middle]) {
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
