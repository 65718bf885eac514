//! A replay: pods arrive and leave by a virtual clock, a policy places them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use berth_scheduler::gpu::Placed;

use crate::measure::{Figures, SizeClass};
use crate::policy::{Policy, PolicyKind, workload};
use crate::trace::Trace;

/// Which policy, with which seed.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The policy.
    pub policy: PolicyKind,
    /// Where its chance starts.
    pub seed: u64,
}

/// What came of a replay.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Where each pod went, by arrival; none where it was left over.
    pub placements: Vec<Option<Placed>>,
    /// What was measured on the way and at the end.
    pub figures: Figures,
    /// How long the decisions took.
    pub deciding: Duration,
}

/// How far a replay is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Pods decided.
    pub done: usize,
    /// Pods there are.
    pub of: usize,
    /// Virtual seconds.
    pub at_s: u64,
}

/// Pods between two reports of progress.
const REPORT_EVERY: usize = 4096;

impl Run {
    /// Replays `trace` on its empty cluster. `progress` is told now and then.
    ///
    /// # Guarantees
    /// Same trace, policy and seed: same placements and figures (but for the time it took).
    pub fn replay(&self, trace: &Trace, progress: impl FnMut(Progress)) -> Outcome {
        replay(self.policy.start(trace, trace.cluster(), self.seed), trace, progress)
    }
}

/// Replays `trace` on the empty cluster of `policy`. `progress` is told now and then.
///
/// Pods that a more important one displaced are tried once more, at once.
pub fn replay(
    mut policy: Box<dyn Policy>,
    trace: &Trace,
    mut progress: impl FnMut(Progress),
) -> Outcome {
    let mut marks = Marks::new(trace);
    let mut placements = Vec::with_capacity(trace.arrivals.len());
    let mut leaving: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut deciding = Duration::ZERO;
    for (index, arrival) in trace.arrivals.iter().enumerate() {
        while let Some(Reverse((at, gone))) = leaving.peek().copied() {
            if at > arrival.arrived_s {
                break;
            }
            leaving.pop();
            let left = &trace.arrivals[gone];
            let placed: Option<Placed> = placements[gone];
            if let Some(placed) = placed {
                policy.remove(gone, left, placed);
                marks.left(left.demand.gpu_total());
            }
        }
        let begun = Instant::now();
        let placed = policy.place(index, arrival);
        deciding += begun.elapsed();
        marks.decided(&arrival.demand, placed.is_some());
        let mut displaced = policy.displaced();
        while let Some(victim) = displaced.pop() {
            let again = &trace.arrivals[victim];
            marks.left(again.demand.gpu_total());
            let begun = Instant::now();
            placements[victim] = policy.place(victim, again);
            deciding += begun.elapsed();
            marks.tried_again(&again.demand, placements[victim].is_some());
            displaced.extend(policy.displaced());
        }
        if let (Some(_), Some(gone)) = (placed, arrival.gone_s) {
            leaving.push(Reverse((gone, index)));
        }
        placements.push(placed);
        if index % REPORT_EVERY == 0 {
            let (of, at_s) = (trace.arrivals.len(), arrival.arrived_s);
            progress(Progress { done: index + 1, of, at_s });
        }
    }
    let figures = marks.figures(policy.as_ref(), trace);
    Outcome { placements, figures, deciding }
}

/// What is noted as pods arrive.
struct Marks {
    capacity: u64,
    arrived: u64,
    used: u64,
    most_used: u64,
    at_capacity: Option<f64>,
    first_failure: Option<f64>,
    left: [usize; SizeClass::ALL.len()],
    placed: usize,
    displaced: usize,
    curve: Vec<(f64, f64)>,
}

impl Marks {
    fn new(trace: &Trace) -> Self {
        let capacity = trace.cluster().gpu_capacity();
        let left = [0; SizeClass::ALL.len()];
        Self {
            capacity,
            arrived: 0,
            used: 0,
            most_used: 0,
            at_capacity: None,
            first_failure: None,
            left,
            placed: 0,
            displaced: 0,
            curve: Vec::new(),
        }
    }

    fn decided(&mut self, demand: &berth_scheduler::gpu::Demand, placed: bool) {
        let gpus = u64::from(demand.gpu_total());
        self.arrived += gpus;
        if placed {
            self.used += gpus;
            self.placed += 1;
            self.most_used = self.most_used.max(self.used);
        } else {
            self.left[SizeClass::of(demand) as usize] += 1;
            self.first_failure.get_or_insert(percent(self.arrived, self.capacity));
        }
        let (arrived, used) =
            (percent(self.arrived, self.capacity), percent(self.used, self.capacity));
        if self.curve.last().is_none_or(|(last, _)| arrived - last >= 1.0) {
            self.curve.push((arrived, used));
        }
        if self.arrived >= self.capacity && self.capacity > 0 {
            self.at_capacity.get_or_insert(percent(self.used, self.capacity));
        }
    }

    /// A pod that was displaced found another place, or none.
    fn tried_again(&mut self, demand: &berth_scheduler::gpu::Demand, placed: bool) {
        self.displaced += 1;
        if placed {
            self.used += u64::from(demand.gpu_total());
        } else {
            self.placed -= 1;
            self.left[SizeClass::of(demand) as usize] += 1;
        }
    }

    fn left(&mut self, gpus: u32) {
        self.used -= u64::from(gpus);
    }

    fn figures(self, policy: &dyn Policy, trace: &Trace) -> Figures {
        let mut figures = Figures::of(policy.cluster(), &workload(trace));
        figures.arrived_percent = percent(self.arrived, self.capacity);
        figures.allocated_at_capacity_percent = self.at_capacity;
        figures.allocated_percent = percent(self.used, self.capacity);
        figures.allocated_most_percent = percent(self.most_used, self.capacity);
        figures.first_failure_percent = self.first_failure;
        figures.placed = self.placed;
        figures.displaced = self.displaced;
        figures.curve = self.curve;
        figures.left_over = SizeClass::ALL.map(|class| (class, self.left[class as usize])).into();
        figures
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}
