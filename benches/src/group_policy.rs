//! Placing pods on nodes with GPUs: the published figures, ours beside them, the same on workloads
//! made from the default one, machines saved, speed.
//!
//! Means over two seeds; `BERTH_POLICY_SEEDS=10` takes as many as the published figures.
//! `BERTH_POLICY_ONLY` takes parts of it: `published`, `derived`, `machines`, `speed`, between
//! commas. The trace lies in `BERTH_TRACES`, else beside the checkout.

mod derived;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use berth_scheduler::gpu::Cluster;
use berth_sim::compaction::machines_needed;
use berth_sim::measure::SizeClass;
use berth_sim::trace::Trace;
use berth_sim::{PolicyKind, Recording, Run, openb};

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
/// Orders of removal for the machines needed.
const ORDERS: u64 = 10;
/// Asked of FGD in process.
const FGD_PER_SECOND: f64 = 20_000.0;

pub fn measure() -> Result<Vec<Budget>> {
    let seeds = match std::env::var("BERTH_POLICY_SEEDS") {
        Ok(number) => number.parse().context("BERTH_POLICY_SEEDS is no number")?,
        Err(_) => 2,
    };
    ensure!(seeds > 0, "BERTH_POLICY_SEEDS is 0");
    let only = std::env::var("BERTH_POLICY_ONLY").unwrap_or_default();
    let wanted = |part| only.is_empty() || only.split(',').any(|word| word == part);
    println!("policy: means over {seeds} seeds, machines over {ORDERS} orders of removal");
    let mut budgets = Vec::new();
    if wanted("published") {
        published(seeds, &mut budgets)?;
    }
    if wanted("derived") {
        derived(seeds, &mut budgets)?;
    }
    if wanted("machines") {
        machines(&mut budgets)?;
    }
    if wanted("speed") {
        speed(&mut budgets)?;
    }
    Ok(budgets)
}

fn published(seeds: u64, budgets: &mut Vec<Budget>) -> Result<()> {
    for (workload, published) in PUBLISHED {
        let trace = Trace::of(&recording(workload)?)?;
        for (policy, wanted) in BASELINES.into_iter().zip(published) {
            let found = mean(&trace, workload, policy, seeds)?;
            for (mark, found, wanted) in [(100, found.at, wanted.0), (130, found.end, wanted.1)] {
                let name = format!("policy-{workload}-{policy}-at-{mark}-off_points");
                let off = (found - wanted).abs();
                budgets.push(Budget::at_most(&name, TOLERANCE, vec![off]));
            }
        }
        let kube = mean(&trace, workload, PolicyKind::Kube, seeds)?;
        let fgd = mean(&trace, workload, PolicyKind::Fgd, seeds)?;
        let [.., (at, end)] = published;
        let goal = Means { at, end, first: fgd.first };
        for policy in [PolicyKind::Archimedes, PolicyKind::ArchimedesCold] {
            let ours = mean(&trace, workload, policy, seeds)?;
            judge(workload, policy, &ours, &goal, &kube, budgets);
        }
    }
    Ok(())
}

/// Ours against FGD in the same run: what is published was measured on other draws.
fn derived(seeds: u64, budgets: &mut Vec<Budget>) -> Result<()> {
    let default = recording("default")?;
    for derived in derived::ALL {
        let trace = Trace::of(&derived.of(&default))?;
        let (at, end) = derived.published;
        let name = derived.name;
        println!("policy: {name:16} fgd             {at:.2} / {end:.2}, as published");
        mean(&trace, derived.name, PolicyKind::Random, seeds)?;
        mean(&trace, derived.name, PolicyKind::BestFit, seeds)?;
        let fgd = mean(&trace, derived.name, PolicyKind::Fgd, seeds)?;
        let kube = mean(&trace, derived.name, PolicyKind::Kube, seeds)?;
        for policy in [PolicyKind::Archimedes, PolicyKind::ArchimedesCold] {
            let ours = mean(&trace, derived.name, policy, seeds)?;
            judge(derived.name, policy, &ours, &fgd, &kube, budgets);
        }
    }
    Ok(())
}

fn judge(
    workload: &str,
    policy: PolicyKind,
    ours: &Means,
    goal: &Means,
    kube: &Means,
    budgets: &mut Vec<Budget>,
) {
    for (what, ours, goal, kube) in [
        ("allocated-at-100_percent", ours.at, goal.at, kube.at),
        ("allocated-at-130_percent", ours.end, goal.end, kube.end),
        ("first-failure_percent", ours.first, goal.first, kube.first),
    ] {
        let name = format!("policy-{workload}-{policy}-{what}");
        budgets.push(Budget::at_least(&name, goal, vec![ours]).beside(Some(kube)));
    }
}

/// The 90th percentile of each, kube-scheduler's as the peer.
fn machines(budgets: &mut Vec<Budget>) -> Result<()> {
    for (workload, _) in PUBLISHED {
        let trace = Trace::of(&recording(workload)?)?;
        let machines = |policy| {
            let needed = machines_needed(&trace, policy, ORDERS, 1, |_| ());
            needed.context("the workload fits on no number of clusters")
        };
        let kube = machines(PolicyKind::Kube)?.machines as f64;
        for policy in [PolicyKind::Fgd, PolicyKind::Archimedes] {
            let needed = machines(policy)?;
            println!(
                "policy: {workload:16} {policy:15} needs {} machines, kube {kube}: {:.0} % fewer; {:?}",
                needed.machines,
                (1.0 - needed.machines as f64 / kube) * 100.0,
                needed.needed
            );
            let name = format!("policy-{workload}-{policy}-machines");
            let needed = vec![needed.machines as f64];
            budgets.push(Budget::at_most(&name, kube, needed).beside(Some(kube)));
        }
    }
    Ok(())
}

fn speed(budgets: &mut Vec<Budget>) -> Result<()> {
    let trace = Trace::of(&recording("default")?)?;
    for nodes in [5_000, 10_000] {
        for policy in [PolicyKind::Fgd, PolicyKind::Archimedes] {
            let name = format!("policy-{policy}-{nodes}-nodes_per_s");
            let rate = rate(&trace, policy, nodes);
            budgets.push(Budget::at_least(&name, FGD_PER_SECOND, vec![rate]));
        }
    }
    Ok(())
}

struct Means {
    at: f64,
    end: f64,
    first: f64,
}

/// Over seeds 1 to `seeds`, two at once.
fn mean(trace: &Trace, workload: &str, policy: PolicyKind, seeds: u64) -> Result<Means> {
    let run = |seed| {
        let stream = trace.saturated(130, seed);
        Run { policy, seed }.replay(&stream, |_| ()).figures
    };
    let half = |first: u64| (first..=seeds).step_by(2).map(run).collect::<Vec<_>>();
    let (mut all, odd) = std::thread::scope(|scope| {
        let odd = scope.spawn(|| half(1));
        (half(2), odd.join())
    });
    all.extend(odd.map_err(|_| anyhow!("a replay broke off"))?);
    let mut means = Means { at: 0.0, end: 0.0, first: 0.0 };
    let mut left = [0.0; SizeClass::ALL.len()];
    for figures in all {
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
        "policy: {workload:16} {policy:15} {:.2} / {:.2}, first failure {:.1}, left over: {}",
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

fn recording(workload: &str) -> Result<Recording> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/openb");
    let place = std::env::var_os("BERTH_TRACES").map_or(beside, PathBuf::from);
    openb::import(&place, workload).context("set BERTH_TRACES to the trace")
}
