//! The group `dns-xdp`: hot names answered in the kernel, beside Knot by sockets and by AF_XDP, over
//! virtual cables. The floor is a program that sends every question back (`dns_reflector`).
//!
//! Each server has a cable of its own between two network namespaces. Both ends of a cable are
//! polled by a kernel thread: the server's on the servers' processor, the client's on the client's.
//! Rates are offered, not waited for, and climb until the answers no longer do; rounds go to one
//! server after the other in turn.

mod cable;

use anyhow::{Context, Result, ensure};

use crate::budget::{Budget, median};
use crate::group_api::side::{self, Place};
use cable::{Cable, Kind};

const ROUNDS: usize = 5;
const ROUND_MS: u64 = 500;
const NAMES: u32 = 100_000;
/// Questions a second.
const OFFERED: [u64; 8] = [50_000, 100_000, 150_000, 200_000, 300_000, 400_000, 600_000, 1_000_000];
/// What a server is offered when it is to be overrun.
const OVERLOAD: f64 = 2.5;
const MOST_NS: f64 = 400.0;
/// Questions a second while the program is timed: many, and fewer than the peak.
const PROGRAM_RATE: u64 = 200_000;
const SLOW_RATE: u64 = 50_000;

/// Measures it.
pub fn measure() -> Result<Vec<Budget>> {
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root");
    let dir = tempfile::tempdir()?;
    let own = i32::try_from(std::process::id())?;
    side::pin(own, Place::Client)?;
    let measured = beside(dir.path());
    side::pin(own, Place::Anywhere)?;
    measured
}

/// What a server gave.
#[derive(Default)]
struct Seen {
    /// Answers a second at most, and microseconds of processor for each, round by round.
    peaks: Vec<f64>,
    costs: Vec<f64>,
}

fn beside(dir: &std::path::Path) -> Result<Vec<Budget>> {
    let zone = cable::zone(dir, NAMES)?;
    let mut cables = Vec::new();
    for kind in [Kind::Ours, Kind::Knot, Kind::KnotXdp, Kind::Reflector] {
        cables.extend(Cable::start(kind, dir, &zone)?);
    }
    let mut seen: Vec<Seen> = cables.iter().map(|_| Seen::default()).collect();
    for round in 0..=ROUNDS {
        for (cable, seen) in cables.iter_mut().zip(&mut seen) {
            let (peak, cost) = climb(cable)?;
            // The first round only fills caches.
            if round > 0 {
                seen.peaks.push(peak);
                seen.costs.push(cost);
            }
        }
    }
    for (cable, seen) in cables.iter().zip(&seen) {
        let (peak, cost) = (median(&seen.peaks), median(&seen.costs));
        eprintln!("{}: {peak:.0}/s at most, {cost:.2} µs of processor each then", cable.name());
    }
    let of = |kind: Kind, figure: fn(&Seen) -> &Vec<f64>| {
        let at = cables.iter().position(|cable| cable.kind == kind)?;
        Some(median(figure(&seen[at])))
    };
    let ours = seen.first().context("ours is always measured")?;
    let mut budgets = Vec::new();
    for (name, kind, factor) in [
        ("knot", Kind::Knot, 2.5),
        ("knot-af-xdp", Kind::KnotXdp, 1.6),
        ("reflector", Kind::Reflector, 0.7),
    ] {
        let peak = of(kind, |seen| &seen.peaks);
        let goal = peak.map_or(0.0, |peak| peak * factor);
        let rates = ours.peaks.clone();
        let name_s = format!("dns-xdp-beside-{name}_per_s");
        budgets.push(Budget::at_least(&name_s, goal, rates).beside(peak));
        let cost = of(kind, |seen| &seen.costs);
        let goal = cost.map_or(f64::INFINITY, |cost| cost / factor);
        let name_us = format!("dns-xdp-beside-{name}_us");
        budgets.push(Budget::at_most(&name_us, goal, ours.costs.clone()).beside(cost));
    }
    let peak = median(&ours.peaks);
    let ours = cables.first_mut().context("ours is always measured")?;
    let mut overrun = Vec::new();
    for _ in 0..ROUNDS {
        let done = ours.run((peak * OVERLOAD) as u64, ROUND_MS, NAMES)?;
        eprintln!("overrun: {:.0}/s sent, {:.0}/s answered", done.sent, done.answered);
        if done.sent < peak * 2.0 {
            eprintln!("the client could not send more: this is no proof of an overload");
        }
        overrun.push(done.answered / peak * 100.0);
    }
    budgets.push(Budget::at_least("dns-xdp-overrun_percent", 90.0, overrun));
    let all = run_times(ours, PROGRAM_RATE, NAMES)?;
    let one = run_times(ours, PROGRAM_RATE, 1)?;
    let slow = run_times(ours, SLOW_RATE, NAMES)?;
    for (what, times) in [("one name", &one), ("all names", &all)] {
        let time = median(times);
        eprintln!("the program, {what} at {PROGRAM_RATE}/s: {time:.0} ns a run");
    }
    eprintln!("the program, all names at {SLOW_RATE}/s: {:.0} ns a run", median(&slow));
    let floor = cables.iter_mut().find(|cable| cable.kind == Kind::Reflector);
    if let Some(floor) = floor {
        let time = median(&run_times(floor, PROGRAM_RATE, NAMES)?);
        eprintln!("the reflector: {time:.0} ns a run, most of it the counting itself");
    }
    budgets.push(Budget::at_most("dns-xdp-program_ns", MOST_NS, all));
    Ok(budgets)
}

/// Offers more and more; the most answers a second, and what each cost then.
fn climb(cable: &mut Cable) -> Result<(f64, f64)> {
    let mut best = (0.0, 0.0);
    let mut behind = 0;
    for offered in OFFERED {
        let before = cable.cpu()?;
        let done = cable.run(offered, ROUND_MS, NAMES)?;
        let used = cable.cpu()?.saturating_sub(before).as_secs_f64() * 1e6;
        ensure!(done.wrong == 0.0, "{} answered {}/s wrongly", cable.name(), done.wrong);
        if done.answered > best.0 {
            let answers = done.answered * done.seconds;
            best = (done.answered, used / answers);
            behind = 0;
        } else {
            behind += 1;
        }
        // Twice no more than before: it has been over the top.
        if behind == 2 {
            break;
        }
    }
    ensure!(best.0 > 1000.0, "{} answers {}/s", cable.name(), best.0);
    Ok(best)
}

/// Nanoseconds of the program for a question, as the kernel counts them: two looks at the clock are
/// counted with it.
fn run_times(cable: &mut Cable, rate: u64, names: u32) -> Result<Vec<f64>> {
    const COUNTING: &str = "/proc/sys/kernel/bpf_stats_enabled";
    let before = std::fs::read_to_string(COUNTING)?;
    std::fs::write(COUNTING, "1")?;
    let mut measure = || {
        let mut all = Vec::new();
        for _ in 0..ROUNDS {
            let (time, runs) = cable.program()?;
            cable.run(rate, ROUND_MS, names)?;
            let (after, more) = cable.program()?;
            ensure!(more > runs, "the program did not run");
            all.push((after - time) as f64 / (more - runs) as f64);
        }
        Ok(all)
    };
    let measured = measure();
    std::fs::write(COUNTING, before.trim())?;
    measured
}
