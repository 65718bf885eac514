//! The group `api`: our API server beside kube-apiserver and etcd, same client, same run.
//!
//! Ours is the API server alone (`serve`), the peer kube-apiserver with etcd; TLS on, synced writes
//! on both, both filled with the same cluster first. Rounds go to one and the other in turn, the
//! client on one processor and the servers on another. Beside each rate stands the processor time
//! of the server's processes for one request: on a shared machine it is the steadier figure.

pub mod client;
mod load;
pub mod side;
mod streams;
mod watchers;

use std::time::Duration;

use anyhow::{Context, Result};

use crate::budget::{Budget, median};
use crate::peer::Peer;
use load::{Mix, Round};
use side::{Ours, Place, Side};

const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(3);
/// What JD plans for a cluster of this size, over ten servers.
const WANTED_RATE: u32 = 8_500;
const RATES: [u32; 7] = [8_500, 7_000, 5_500, 4_000, 2_500, 1_500, 800];
const PEER_RATES: [u32; 5] = [1_500, 800, 400, 200, 100];
const RESTARTS: usize = 3;
const WATCH_ROUNDS: usize = 3;
/// What a filled server still tidies up is not what it holds.
const SETTLED: Duration = Duration::from_secs(5);

/// Measures it.
pub fn measure() -> Result<Vec<Budget>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut ours = Ours::start()?;
    let mut peer = Peer::start_api()?;
    let mut budgets = Vec::new();
    let sides = |ours: &Ours, peer: &Option<Peer>| -> Result<Vec<Side>> {
        let peer = peer.as_ref().map(side::of_peer).transpose()?;
        Ok(std::iter::once(ours.side()?).chain(peer).collect())
    };
    let mut resident = Vec::new();
    for side in sides(&ours, &peer)? {
        runtime.block_on(load::prepare(&side))?;
        let took = runtime.block_on(load::populate(&side))?;
        std::thread::sleep(SETTLED);
        resident.push(side.resident());
        eprintln!("{}: filled in {took:.1?}, {:.0} MiB resident", side.name, side.resident());
    }
    let goal = resident.get(1).map_or(f64::INFINITY, |peer| peer / 5.0);
    budgets.push(
        Budget::at_most("api-filled-resident_mib", goal, vec![resident[0]])
            .beside(resident.get(1).copied()),
    );
    let mut starts = Vec::new();
    for _ in 0..RESTARTS {
        starts.push(ours.restart()?.as_secs_f64());
    }
    let start = peer.as_mut().map(Peer::restart).transpose()?;
    budgets.push(
        Budget::at_most("api-filled-start_s", 1.0, starts)
            .beside(start.map(|took| took.as_secs_f64())),
    );
    let sides = sides(&ours, &peer)?;
    for side in &sides {
        eprintln!("{}: {:.0} MiB resident once started on it", side.name, side.resident());
    }
    if is_wanted("mix") {
        budgets.extend(mixed(&runtime, &sides)?);
    }
    let own = i32::try_from(std::process::id())?;
    side::pin(own, Place::Client)?;
    sides.iter().try_for_each(|side| side.pin(Place::Server))?;
    for (round, goal) in [
        (Round::Reads, 15.0),
        (Round::StreamedReads, 15.0),
        (Round::Lists, 10.0),
        (Round::Creates, 8.0),
        (Round::StreamedCreates, 8.0),
    ] {
        if is_wanted(round.name()) {
            budgets.extend(rates(&runtime, &sides, round, goal)?);
        }
    }
    side::pin(own, Place::Anywhere)?;
    sides.iter().try_for_each(|side| side.pin(Place::Anywhere))?;
    if !is_wanted("watch") {
        return Ok(budgets);
    }
    let mut late = vec![Vec::new(); sides.len()];
    for _ in 0..WATCH_ROUNDS {
        for (at, side) in sides.iter().enumerate() {
            let seen = runtime.block_on(watchers::measure(side))?;
            eprintln!("{}: {seen}", side.name);
            late[at].push(seen.p99_ms);
        }
    }
    let peer = late.get(1).map(|late| median(late));
    let goal = peer.map_or(f64::INFINITY, |peer| peer / 4.0);
    let own = late.into_iter().next().context("our own side is always measured")?;
    budgets.push(Budget::at_most("api-watch-delivery-p99_ms", goal, own).beside(peer));
    Ok(budgets)
}

/// Whether `BERTH_API_PARTS`, names with commas between them, asks for a part; unset, for all.
fn is_wanted(part: &str) -> bool {
    std::env::var("BERTH_API_PARTS").map_or(true, |parts| parts.split(',').any(|one| one == part))
}

/// Rounds of one and the other in turn.
fn rates(
    runtime: &tokio::runtime::Runtime,
    sides: &[Side],
    round: Round,
    factor: f64,
) -> Result<[Budget; 2]> {
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
    let name = |what: &str| format!("api-{}-{what}", round.name());
    let mut sides = rates.into_iter();
    let ours = sides.next().context("our own side is always measured")?;
    let peer = sides.next().map(|rates| median(&rates));
    let goal = peer.map_or(0.0, |peer| peer * factor);
    let rate = Budget::at_least(&name("per-second"), goal, ours).beside(peer);
    let mut sides = costs.into_iter();
    let ours = sides.next().context("our own side is always measured")?;
    let peer = sides.next().map(|costs| median(&costs));
    let goal = peer.map_or(f64::INFINITY, |peer| peer / factor);
    Ok([rate, Budget::at_most(&name("processor_us"), goal, ours).beside(peer)])
}

/// The highest rate of the mix that each side holds, and our p99 at the wanted one.
fn mixed(runtime: &tokio::runtime::Runtime, sides: &[Side]) -> Result<Vec<Budget>> {
    let mut held = vec![0.0; sides.len()];
    let mut wanted = f64::NAN;
    for (at, side) in sides.iter().enumerate() {
        let mix = Mix::new(&side.target);
        for rate in if at == 0 { RATES.as_slice() } else { PEER_RATES.as_slice() } {
            let before = side.cpu();
            let seen = runtime.block_on(load::paced(side, &mix, *rate))?;
            let used = side.cpu().saturating_sub(before).as_secs_f64() / seen.took.as_secs_f64();
            eprintln!(
                "{}: mix at {rate}/s: {:.0}/s done, p50 {:.1} ms, p99 {:.1} ms, {used:.2} \
                 processors, {} failed",
                side.name, seen.rate, seen.p50_ms, seen.p99_ms, seen.failed
            );
            if at == 0 && *rate == WANTED_RATE {
                wanted = seen.p99_ms;
            }
            if seen.p99_ms <= 50.0 && seen.failed == 0 {
                held[at] = f64::from(*rate);
                break;
            }
        }
    }
    let peer = held.get(1).copied();
    Ok(vec![
        Budget::at_most("api-mix-8500-p99_ms", 50.0, vec![wanted]),
        Budget::at_least("api-mix-held-per-second", f64::from(WANTED_RATE), vec![held[0]])
            .beside(peer),
    ])
}
