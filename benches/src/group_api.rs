//! The group `api`: our API server beside kube-apiserver and etcd, same client, same run.
//!
//! Ours is the API server alone (`serve`), the peer kube-apiserver with etcd; TLS on, synced writes
//! on both. Rounds go to one and the other in turn. Beside each rate stands the processor time of
//! the server's processes for one request: on a shared machine it is the steadier figure.

mod client;
mod load;
mod side;
mod watchers;

use std::time::Duration;

use anyhow::{Context, Result};

use crate::budget::{Budget, median};
use crate::peer::Peer;
use load::{Mix, Round};
use side::{Ours, Side};

const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(3);
/// What JD plans for a cluster of this size, over ten servers.
const WANTED_RATE: u32 = 8_500;
const RATES: [u32; 6] = [8_500, 6_000, 4_000, 2_500, 1_500, 800];
const RESTARTS: usize = 3;

/// Measures it.
pub fn measure() -> Result<Vec<Budget>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut ours = Ours::start()?;
    let peer = Peer::start_api()?;
    let mut sides = vec![ours.side()?];
    if let Some(peer) = &peer {
        sides.push(side::of_peer(peer)?);
    }
    let mut budgets = Vec::new();
    for side in &sides {
        runtime.block_on(load::prepare(side))?;
    }
    for (round, goal) in [(Round::Creates, 8.0), (Round::Reads, 15.0), (Round::Lists, 10.0)] {
        budgets.push(rates(&runtime, &sides, round, goal)?);
    }
    let mut late = Vec::new();
    for side in &sides {
        let seen = runtime.block_on(watchers::measure(side))?;
        eprintln!("{}: {seen}", side.name);
        late.push(seen.p99_ms);
    }
    let goal = late.get(1).map_or(f64::INFINITY, |peer| peer / 4.0);
    budgets.push(
        Budget::at_most("api-watch-delivery-p99_ms", goal, vec![late[0]])
            .beside(late.get(1).copied()),
    );
    let mut resident = Vec::new();
    for side in &sides {
        let took = runtime.block_on(load::populate(side))?;
        resident.push(side.resident());
        eprintln!("{}: filled in {took:.1?}, {:.0} MiB resident", side.name, side.resident());
    }
    let goal = resident.get(1).map_or(f64::INFINITY, |peer| peer / 5.0);
    budgets.push(
        Budget::at_most("api-filled-resident_mib", goal, vec![resident[0]])
            .beside(resident.get(1).copied()),
    );
    // The rest is of ours alone: the peer would only take its share of the processors.
    drop(peer);
    let mut starts = Vec::new();
    for _ in 0..RESTARTS {
        starts.push(ours.restart()?.as_secs_f64());
    }
    budgets.push(Budget::at_most("api-filled-start_s", 1.0, starts));
    let own = ours.side()?;
    budgets.extend(mixed(&runtime, &own)?);
    Ok(budgets)
}

/// Rounds of one and the other in turn.
fn rates(
    runtime: &tokio::runtime::Runtime,
    sides: &[Side],
    round: Round,
    factor: f64,
) -> Result<Budget> {
    let mut rates = vec![Vec::new(); sides.len()];
    let mut costs = vec![Vec::new(); sides.len()];
    for turn in 0..ROUNDS {
        for (at, side) in sides.iter().enumerate() {
            let before = side.cpu();
            let done = runtime.block_on(load::run(side, round, turn, ROUND))?;
            let used = side.cpu().saturating_sub(before);
            rates[at].push(done.rate);
            costs[at].push(used.as_micros() as f64 / done.count.max(1) as f64);
        }
    }
    for (at, side) in sides.iter().enumerate() {
        let (rate, cost) = (median(&rates[at]), median(&costs[at]));
        eprintln!("{}: {} {rate:.0}/s, {cost:.0} µs of processor each", side.name, round.name());
    }
    let peer = rates.get(1).map(|rates| median(rates));
    let goal = peer.map_or(0.0, |peer| peer * factor);
    let name = format!("api-{}-per-second", round.name());
    let ours = rates.into_iter().next().context("our own side is always measured")?;
    Ok(Budget::at_least(&name, goal, ours).beside(peer))
}

/// The highest rate of the mix that is held, and the p99 at the wanted one.
fn mixed(runtime: &tokio::runtime::Runtime, side: &Side) -> Result<Vec<Budget>> {
    let mix = Mix::new(&side.target);
    let mut wanted = f64::NAN;
    for rate in RATES {
        let before = side.cpu();
        let seen = runtime.block_on(load::paced(side, &mix, rate))?;
        let used = side.cpu().saturating_sub(before).as_secs_f64() / seen.took.as_secs_f64();
        eprintln!(
            "mix at {rate}/s: {:.0}/s done, p50 {:.1} ms, p99 {:.1} ms, {used:.2} processors, \
             {} failed",
            seen.rate, seen.p50_ms, seen.p99_ms, seen.failed
        );
        if rate == WANTED_RATE {
            wanted = seen.p99_ms;
        }
        if seen.p99_ms <= 50.0 && seen.failed == 0 {
            let held = vec![f64::from(rate)];
            return Ok(vec![
                Budget::at_most("api-mix-8500-p99_ms", 50.0, vec![wanted]),
                Budget::at_least("api-mix-held-per-second", f64::from(WANTED_RATE), held),
            ]);
        }
    }
    Ok(vec![
        Budget::at_most("api-mix-8500-p99_ms", 50.0, vec![wanted]),
        Budget::at_least("api-mix-held-per-second", f64::from(WANTED_RATE), vec![0.0]),
    ])
}
