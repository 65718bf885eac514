//! Two policies over the same trace, side by side.

use std::fmt::Write;

use serde::Serialize;

use crate::compaction::{Compaction, machines_needed};
use crate::measure::{Figures, SizeClass};
use crate::policy::Contender;
use crate::run::{Outcome, Progress, replay};
use crate::trace::Trace;

/// One side.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// Its policy.
    pub policy: String,
    /// What was measured.
    pub figures: Figures,
    /// Decisions each second, by the wall clock.
    pub decisions_per_second: f64,
    /// Machines needed, when it was asked for.
    pub compaction: Option<Compaction>,
}

/// Both, and what differs.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Where the trace is from.
    pub source: String,
    /// The seed of both.
    pub seed: u64,
    /// Pods that arrived.
    pub pods: usize,
    /// Nodes there are.
    pub nodes: usize,
    /// Both sides.
    pub sides: [Side; 2],
    /// Pods on another node.
    pub moved: usize,
    /// Pods that only the first placed.
    pub only_first: usize,
    /// Pods that only the second placed.
    pub only_second: usize,
    /// The pods on another node: name, node of the first, node of the second.
    pub moves: Vec<(String, String, String)>,
}

/// Replays `trace` under both policies.
pub fn compare(
    trace: &Trace,
    policies: &[Contender; 2],
    seed: u64,
    mut progress: impl FnMut(&str, Stage),
) -> Comparison {
    let outcomes = policies.each_ref().map(|policy| {
        let report = |done| progress(policy.name(), Stage::Replay(done));
        replay(policy.start(trace, seed), trace, report)
    });
    let [first, second] = &outcomes;
    let mut moves = Vec::new();
    let (mut only_first, mut only_second) = (0, 0);
    let both = first.placements.iter().zip(&second.placements).zip(&trace.arrivals);
    for ((first, second), arrival) in both {
        match (first, second) {
            (Some(a), Some(b)) if a.node != b.node => {
                let node = |index: usize| trace.nodes[index].clone();
                moves.push((arrival.name.clone(), node(a.node), node(b.node)));
            }
            (Some(_), None) => only_first += 1,
            (None, Some(_)) => only_second += 1,
            _ => {}
        }
    }
    Comparison {
        source: trace.source.clone(),
        seed,
        pods: trace.arrivals.len(),
        nodes: trace.nodes.len(),
        sides: [side(policies[0].name(), first, None), side(policies[1].name(), second, None)],
        moved: moves.len(),
        only_first,
        only_second,
        moves,
    }
}

/// How far a comparison is.
#[derive(Clone, Copy, Debug)]
pub enum Stage {
    /// Replaying.
    Replay(Progress),
    /// Orders of removal that are done, and how many there are.
    Order(u64, u64),
}

/// One side's figures.
pub fn side(policy: &str, outcome: &Outcome, compaction: Option<Compaction>) -> Side {
    let seconds = outcome.deciding.as_secs_f64().max(1e-9);
    Side {
        policy: policy.to_owned(),
        figures: outcome.figures.clone(),
        decisions_per_second: outcome.placements.len() as f64 / seconds,
        compaction,
    }
}

impl Comparison {
    /// Counts the machines that the pods of `trace` need under each, over `orders` orders of removal.
    pub fn compact(
        &mut self,
        trace: &Trace,
        policies: &[Contender; 2],
        orders: u64,
        mut progress: impl FnMut(&str, Stage),
    ) {
        for (side, policy) in self.sides.iter_mut().zip(policies) {
            let report = |order| progress(policy.name(), Stage::Order(order, orders));
            side.compaction = machines_needed(trace, policy.clone(), orders, self.seed, report);
        }
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{}: {} pods on {} nodes, seed {}\n",
            self.source, self.pods, self.nodes, self.seed
        );
        let sides: Vec<&Side> = self.sides.iter().collect();
        text.push_str(&table(&sides));
        let [a, b] = &self.sides;
        let _ = writeln!(
            text,
            "placements      {} on another node, {} only by {}, {} only by {}",
            self.moved, self.only_first, a.policy, self.only_second, b.policy
        );
        text
    }
}

/// Sides as columns.
pub fn table(sides: &[&Side]) -> String {
    let mut text = String::new();
    let width = sides.iter().map(|side| side.policy.chars().count() + 2).fold(14, usize::max);
    let mut row = |name: &str, cell: &dyn Fn(&Side) -> String| {
        let cells: Vec<String> =
            sides.iter().map(|side| format!("{:>width$}", cell(side))).collect();
        let _ = writeln!(text, "{name:<26}{}", cells.concat());
    };
    let percent =
        |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2} %"));
    row("", &|side| side.policy.clone());
    row("allocated at 100 % asked", &|side| percent(side.figures.allocated_at_capacity_percent));
    row("allocated at the end", &|side| percent(Some(side.figures.allocated_percent)));
    row("first failure at", &|side| percent(side.figures.first_failure_percent));
    row("fragments", &|side| percent(Some(side.figures.fragments_percent)));
    row("cores allocated", &|side| percent(Some(side.figures.cpu_percent)));
    row("cores of no use", &|side| percent(Some(side.figures.cpu_fragments_percent)));
    row("cores' deviation by node", &|side| format!("{:.1}", side.figures.cpu_deviation));
    row("empty nodes", &|side| side.figures.empty_nodes.to_string());
    row("placed", &|side| side.figures.placed.to_string());
    if sides.iter().any(|side| side.figures.displaced > 0) {
        row("displaced", &|side| side.figures.displaced.to_string());
    }
    for class in SizeClass::ALL {
        row(&format!("left over, {}", class.words()), &|side| {
            side.figures.left_over.get(&class).copied().unwrap_or(0).to_string()
        });
    }
    if sides.iter().any(|side| side.compaction.is_some()) {
        row("machines needed", &|side| match &side.compaction {
            Some(compaction) => format!("{} of {}", compaction.machines, compaction.of),
            None => "-".to_owned(),
        });
    }
    row("decisions each second", &|side| format!("{:.0}", side.decisions_per_second));
    text
}
