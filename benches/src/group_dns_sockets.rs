//! The group `dns-sockets`: our server beside Knot, NSD, BIND, dnsdist and Unbound, one thread each, same
//! questions, same run. The floor is a responder that knows nothing (`dns_responder`).
//!
//! All servers share one processor and the client has the other; rounds go to one after the other
//! in turn. What counts is a server's processor time for a query: on a shared machine it is the
//! steadier figure. Names are asked at random.

mod clients;
mod load;
mod servers;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::budget::{Budget, median};
use crate::group_api::side::{self, Place};
use crate::server::Server;
use load::Load;

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(1500);
const NAMES: u32 = 100_000;
/// JD's mix: 30,000 names with one address, 10,000 with two, 10,000 with three to ten.
const MIX: u32 = 50_000;

/// Measures it.
pub fn measure() -> Result<Vec<Budget>> {
    let dir = tempfile::tempdir()?;
    let own = i32::try_from(std::process::id())?;
    side::pin(own, Place::Client)?;
    let measured = servings(dir.path()).and_then(|mut budgets| {
        budgets.extend(forwarding(dir.path())?);
        budgets.extend(mixes(dir.path())?);
        budgets.extend(sizes(dir.path())?);
        budgets.extend(changes()?);
        Ok(budgets)
    });
    side::pin(own, Place::Anywhere)?;
    measured
}

/// 100,000 names at random.
fn servings(dir: &std::path::Path) -> Result<Vec<Budget>> {
    let zone = servers::zone(dir, "plain", NAMES, |_| 1)?;
    let servers = [
        Some(servers::ours(&zone)?),
        Some(servers::responder()?),
        servers::knot(dir, &zone)?,
        servers::nsd(dir, &zone)?,
        servers::bind(dir, &zone)?,
    ];
    let servers: Vec<Server> = servers.into_iter().flatten().collect();
    let seen = rounds(&servers.iter().map(|server| (server, NAMES)).collect::<Vec<_>>())?;
    let of = |name: &str| {
        let at = servers.iter().position(|server| server.name == name)?;
        Some(median(&seen[at]))
    };
    let ours = seen.first().cloned().context("ours is always measured")?;
    clients::ask(dir, servers.first().context("ours is always measured")?.port, NAMES)?;
    let (knot, floor) = (of("knot"), of("responder"));
    let goal = |peer: Option<f64>, factor: f64| peer.map_or(f64::INFINITY, |peer| peer * factor);
    let budgets = vec![
        Budget::at_most("dns-100000-names-beside-knot_us", goal(knot, 0.8), ours.clone())
            .beside(knot),
        Budget::at_most("dns-100000-names-beside-nothing_us", goal(floor, 1.15), ours.clone())
            .beside(floor),
        Budget::at_most("dns-100000-names-beside-nsd_us", goal(of("nsd"), 1.0), ours)
            .beside(of("nsd")),
    ];
    Ok(budgets)
}

/// Names of another server, all of them in the cache.
fn forwarding(dir: &std::path::Path) -> Result<Vec<Budget>> {
    const CACHED: u32 = 10_000;
    let zone = servers::zone(dir, "upstream", CACHED, |_| 1)?;
    let upstream = servers::ours(&zone)?;
    let servers = [
        Some(servers::forwarding(upstream.port)?),
        servers::dnsdist(dir, upstream.port)?,
        Some(servers::responder()?),
        servers::unbound(dir, upstream.port)?,
        servers::bind_forwarding(dir, upstream.port)?,
    ];
    let servers: Vec<Server> = servers.into_iter().flatten().collect();
    for server in &servers {
        load::warm(server.port, CACHED).with_context(|| format!("warming {}", server.name))?;
    }
    let seen = rounds(&servers.iter().map(|server| (server, CACHED)).collect::<Vec<_>>())?;
    let peer = servers.iter().position(|server| server.name == "dnsdist");
    let peer = peer.map(|at| median(&seen[at]));
    let goal = peer.map_or(f64::INFINITY, |peer| peer * 0.8);
    let ours = seen.into_iter().next().context("ours is always measured")?;
    Ok(vec![Budget::at_most("dns-cached-forwarding_us", goal, ours).beside(peer)])
}

/// One name, and JD's mix of fifty thousand.
fn mixes(dir: &std::path::Path) -> Result<Vec<Budget>> {
    let zone = servers::zone(dir, "mix", MIX, |number| match number {
        0..30_000 => 1,
        30_000..40_000 => 2,
        _ => 3 + number % 8,
    })?;
    let server = servers::ours(&zone)?;
    let seen = rounds(&[(&server, 1), (&server, MIX)])?;
    let one = median(&seen[0]);
    let mix = seen.into_iter().nth(1).context("two were measured")?;
    Ok(vec![Budget::at_most("dns-mix-beside-one-name_us", one * 1.05, mix).beside(Some(one))])
}

/// A million names, and ten thousand.
fn sizes(dir: &std::path::Path) -> Result<Vec<Budget>> {
    const FEW: u32 = 10_000;
    const MANY: u32 = 1_000_000;
    let few = servers::ours(&servers::zone(dir, "few", FEW, |_| 1)?)?;
    let many = servers::ours(&servers::zone(dir, "many", MANY, |_| 1)?)?;
    let seen = rounds(&[(&few, FEW), (&many, MANY)])?;
    eprintln!("a million names: {:.0} MiB resident", many.resident()?);
    let base = median(&seen[0]);
    let large = seen.into_iter().nth(1).context("two were measured")?;
    let budget = Budget::at_most("dns-1000000-beside-10000-names_us", base * 1.15, large);
    Ok(vec![budget.beside(Some(base))])
}

/// One endpoint of many changes: how long until it is answered, with a thousand services and with
/// ten thousand.
fn changes() -> Result<Vec<Budget>> {
    const CHANGES: u32 = 100;
    let few = servers::changes(1_000, CHANGES)?;
    let many = servers::changes(10_000, CHANGES)?;
    let base = median(&few);
    let worst = many.iter().copied().fold(0.0, f64::max);
    eprintln!("one endpoint changes: 1,000 services {base:.3} ms, 10,000 {:.3} ms", median(&many));
    Ok(vec![
        Budget::at_most("dns-change-10000-services-worst_ms", 100.0, vec![worst]),
        // The same but for what a shared machine does to figures this small.
        Budget::at_most("dns-change-10000-beside-1000-services_ms", base * 1.5, many)
            .beside(Some(base)),
    ])
}

/// Microseconds of processor time a query, for each server a sample a round.
fn rounds(servers: &[(&Server, u32)]) -> Result<Vec<Vec<f64>>> {
    let mut seen = vec![Vec::new(); servers.len()];
    let mut rates = vec![Vec::new(); servers.len()];
    let mut load = Load::new()?;
    for round in 0..=ROUNDS {
        for (at, (server, names)) in servers.iter().enumerate() {
            let before = server.cpu();
            let done = load.run(server.port, *names, ROUND)?;
            let used = server.cpu().saturating_sub(before);
            ensure!(done.answered > 1000, "{} answered {}", server.name, done.answered);
            ensure!(done.wrong == 0, "{} answered {} wrongly", server.name, done.wrong);
            // The first round only fills caches.
            if round > 0 {
                seen[at].push(used.as_secs_f64() * 1e6 / done.answered as f64);
                rates[at].push(done.answered as f64 / ROUND.as_secs_f64());
            }
        }
    }
    for (at, (server, names)) in servers.iter().enumerate() {
        let (cost, rate) = (median(&seen[at]), median(&rates[at]));
        eprintln!("{}, {names} names: {cost:.2} µs of processor a query, {rate:.0}/s", server.name);
    }
    Ok(seen)
}
