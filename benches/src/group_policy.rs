//! Placing pods on nodes with GPUs: the published figures, ours beside them, machines saved, speed.
//!
//! Means over two seeds; `BERTH_POLICY_SEEDS=10` takes as many as the published figures. The trace
//! lies in `BERTH_TRACES`, else beside the checkout.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use berth_scheduler::gpu::Cluster;
use berth_sim::compaction::machines_needed;
use berth_sim::measure::SizeClass;
use berth_sim::trace::Trace;
use berth_sim::{PolicyKind, Run, openb};

use crate::budget::Budget;

/// Published: Random, BestFit, FGD, each when 100 % and 130 % had arrived.
const PUBLISHED: [(&str, [(f64, f64); 3]); 3] = [
    ("default", [(86.30, 87.47), (92.86, 93.08), (95.23, 95.39)]),
    ("cpu250", [(80.00, 80.42), (91.21, 91.45), (93.20, 93.41)]),
    ("gpushare100", [(78.90, 79.44), (84.62, 85.01), (86.64, 86.90)]),
];
const BASELINES: [PolicyKind; 3] = [PolicyKind::Random, PolicyKind::BestFit, PolicyKind::Fgd];
/// How far a reproduced figure may lie from the published one, in points.
const TOLERANCE: f64 = 0.3;
/// Asked of FGD in process.
const FGD_PER_SECOND: f64 = 20_000.0;

pub fn measure() -> Result<Vec<Budget>> {
    let seeds = match std::env::var("BERTH_POLICY_SEEDS") {
        Ok(number) => number.parse().context("BERTH_POLICY_SEEDS is no number")?,
        Err(_) => 2,
    };
    ensure!(seeds > 0, "BERTH_POLICY_SEEDS is 0");
    println!("policy: means over {seeds} seeds, machines over {} orders of removal", orders(seeds));
    let mut budgets = Vec::new();
    for (workload, published) in PUBLISHED {
        let trace = trace(workload)?;
        for (policy, wanted) in BASELINES.into_iter().zip(published) {
            let found = mean(&trace, workload, policy, seeds)?;
            for (mark, found, wanted) in [(100, found.at, wanted.0), (130, found.end, wanted.1)] {
                let name = format!("policy-{workload}-{policy}-at-{mark}-off_points");
                let off = (found - wanted).abs();
                budgets.push(Budget::at_most(&name, TOLERANCE, vec![off]));
            }
        }
        let kube = mean(&trace, workload, PolicyKind::Kube, seeds)?;
        let ours = mean(&trace, workload, PolicyKind::Archimedes, seeds)?;
        let fgd = mean(&trace, workload, PolicyKind::Fgd, seeds)?;
        mean(&trace, workload, PolicyKind::ArchimedesCold, seeds)?;
        let [.., (at, end)] = published;
        for (what, ours, goal, kube) in [
            ("allocated-at-100_percent", ours.at, at, kube.at),
            ("allocated-at-130_percent", ours.end, end, kube.end),
            ("first-failure_percent", ours.first, fgd.first, kube.first),
        ] {
            let name = format!("policy-{workload}-archimedes-{what}");
            budgets.push(Budget::at_least(&name, goal, vec![ours]).beside(Some(kube)));
        }
        let machines = |policy| {
            let needed = machines_needed(&trace, policy, orders(seeds), 1, |_| ());
            needed.context("the workload fits on no number of clusters")
        };
        let (kube, ours) = (machines(PolicyKind::Kube)?, machines(PolicyKind::Archimedes)?);
        let name = format!("policy-{workload}-machines");
        let needed = ours.needed.iter().map(|machines| *machines as f64).collect();
        let kube = kube.machines as f64;
        budgets.push(Budget::at_most(&name, kube, needed).beside(Some(kube)));
    }
    let trace = trace("default")?;
    for nodes in [5_000, 10_000] {
        for policy in [PolicyKind::Fgd, PolicyKind::Archimedes] {
            let name = format!("policy-{policy}-{nodes}-nodes_per_s");
            let rate = rate(&trace, policy, nodes);
            budgets.push(Budget::at_least(&name, FGD_PER_SECOND, vec![rate]));
        }
    }
    Ok(budgets)
}

/// Orders of removal for the machines needed: they take longest by far.
fn orders(seeds: u64) -> u64 {
    seeds.min(3)
}

struct Means {
    at: f64,
    end: f64,
    first: f64,
}

fn mean(trace: &Trace, workload: &str, policy: PolicyKind, seeds: u64) -> Result<Means> {
    let mut means = Means { at: 0.0, end: 0.0, first: 0.0 };
    let mut left = [0.0; SizeClass::ALL.len()];
    for seed in 1..=seeds {
        let stream = trace.saturated(130, seed);
        let figures = Run { policy, seed }.replay(&stream, |_| ()).figures;
        let at = figures.allocated_at_capacity_percent.context("less than 100 % arrived")?;
        means.at += at / seeds as f64;
        means.end += figures.allocated_percent / seeds as f64;
        means.first += figures.first_failure_percent.unwrap_or(130.0) / seeds as f64;
        for (class, count) in &figures.left_over {
            left[*class as usize] += *count as f64 / seeds as f64;
        }
    }
    let left = SizeClass::ALL.map(|class| format!("{} {:.0}", class.words(), left[class as usize]));
    println!(
        "policy: {workload:11} {policy:10} {:.2} / {:.2}, first failure {:.1}, left over: {}",
        means.at,
        means.end,
        means.first,
        left.join(", ")
    );
    Ok(means)
}

/// Decisions each second while so many nodes fill up to 95 %, in process.
fn rate(trace: &Trace, policy: PolicyKind, nodes: usize) -> f64 {
    let shapes = trace.shapes.iter().copied().cycle().take(nodes).collect();
    let cluster = Cluster::new(shapes);
    let most = cluster.gpu_capacity() * 95 / 100;
    let mut policy = policy.start(trace, cluster, 1);
    let stream = trace.saturated(130, 1);
    let (mut asked, mut decided) = (0, 0_u32);
    let begun = Instant::now();
    for (index, arrival) in stream.arrivals.iter().cycle().enumerate() {
        asked += u64::from(arrival.demand.gpu_total());
        if asked > most {
            break;
        }
        policy.place(index, arrival);
        decided += 1;
    }
    f64::from(decided) / begun.elapsed().as_secs_f64()
}

fn trace(workload: &str) -> Result<Trace> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/openb");
    let place = std::env::var_os("BERTH_TRACES").map_or(beside, PathBuf::from);
    let recording = openb::import(&place, workload).context("set BERTH_TRACES to the trace")?;
    Ok(Trace::of(&recording)?)
}
