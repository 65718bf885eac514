//! The group `balancer-l7`: HTTP through ours, nginx and HAProxy, one thread each, in the same run.
//!
//! The proxies share one processor; the generator (wrk) and the server behind them have the other.
//! Rounds go to one after the other in turn. What counts is a proxy's processor time for a request:
//! on a shared machine it is the steadier figure.

mod behind;
mod servers;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::budget::{Budget, median};
use crate::group_api::side::{self, Place};
use crate::server::Server;
use behind::Behind;

const ROUNDS: usize = 7;
const SECONDS: u32 = 2;
const CONNECTIONS: u32 = 64;
const HOSTS: u32 = 1000;

/// Measures it.
pub fn measure() -> Result<Vec<Budget>> {
    let dir = tempfile::tempdir()?;
    let own = i32::try_from(std::process::id())?;
    side::pin(own, Place::Client)?;
    let measured = l7(dir.path());
    side::pin(own, Place::Anywhere)?;
    measured
}

/// Requests for one host, and for one of a thousand at random.
fn l7(dir: &Path) -> Result<Vec<Budget>> {
    let behind = Behind::start()?;
    let servers = [
        Some(servers::ours(dir, behind.port, HOSTS)?),
        servers::nginx(dir, behind.port, HOSTS)?,
        servers::haproxy(dir, behind.port, HOSTS)?,
    ];
    let servers: Vec<Server> = servers.into_iter().flatten().collect();
    let one = rounds(dir, &servers, 1)?;
    let many = rounds(dir, &servers, HOSTS)?;
    let best = |seen: &[Vec<f64>]| seen.iter().skip(1).map(|one| median(one)).reduce(f64::min);
    let ours = one.first().cloned().context("ours is always measured")?;
    let ours_many = many.first().cloned().context("ours is always measured")?;
    let (peer, peer_many) = (best(&one), best(&many));
    let (goal, base) = (peer.unwrap_or(f64::INFINITY), median(&ours));
    eprintln!("ours: {:.0} MiB resident with {HOSTS} hosts", servers[0].resident()?);
    Ok(vec![
        Budget::at_most("balancer-l7-one-host_us", goal, ours).beside(peer),
        Budget::at_most("balancer-l7-1000-hosts-beside-one_us", base * 1.1, ours_many.clone())
            .beside(Some(base)),
        Budget::at_most("balancer-l7-1000-hosts_us", peer_many.unwrap_or(f64::INFINITY), ours_many)
            .beside(peer_many),
    ])
}

/// Microseconds of processor time a request, for each server a sample a round.
fn rounds(dir: &Path, servers: &[Server], hosts: u32) -> Result<Vec<Vec<f64>>> {
    let mut seen = vec![Vec::new(); servers.len()];
    let mut rates = vec![Vec::new(); servers.len()];
    for round in 0..=ROUNDS {
        for (at, server) in servers.iter().enumerate() {
            let before = server.cpu();
            let done = load(dir, server.port, hosts)
                .with_context(|| format!("requests through {}", server.name))?;
            let used = server.cpu().saturating_sub(before);
            // The first round only opens connections and fills caches.
            if round > 0 {
                seen[at].push(used.as_secs_f64() * 1e6 / done as f64);
                rates[at].push(done as f64 / f64::from(SECONDS));
            }
        }
    }
    for (at, server) in servers.iter().enumerate() {
        let (cost, rate) = (median(&seen[at]), median(&rates[at]));
        eprintln!(
            "{}, {hosts} hosts: {cost:.1} µs of processor a request, {rate:.0}/s",
            server.name
        );
    }
    Ok(seen)
}

/// How many requests were answered.
fn load(dir: &Path, port: u16, hosts: u32) -> Result<u64> {
    let script = dir.join("hosts.lua");
    let text = format!(
        "local all = {{}}\nfunction init(args)\n  for i = 0, {hosts} - 1 do\n    \
         all[i] = wrk.format('GET', '/', {{Host = 'h' .. i .. '.bench.example'}})\n  end\nend\n\
         function request() return all[math.random(0, {hosts} - 1)] end\n"
    );
    std::fs::write(&script, text)?;
    let ran = Command::new("wrk")
        .args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{SECONDS}s"), "-s"])
        .arg(&script)
        .arg(format!("http://127.0.0.1:{port}/"))
        .output()
        .context("running wrk")?;
    let text = String::from_utf8_lossy(&ran.stdout);
    ensure!(ran.status.success(), "wrk: {}", String::from_utf8_lossy(&ran.stderr));
    ensure!(!text.contains("Non-2xx"), "answers that are none: {text}");
    ensure!(!text.contains("Socket errors"), "connections broke: {text}");
    let line = text.lines().find(|line| line.contains(" requests in "));
    let count = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    let count = count.with_context(|| format!("wrk's output: {text}"))?;
    ensure!(count > 1000, "{count} requests in {:?}", Duration::from_secs(u64::from(SECONDS)));
    Ok(count)
}
