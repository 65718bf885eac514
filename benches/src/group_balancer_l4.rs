//! The group `balancer-l4`: TCP in user space beside HAProxy in TCP mode, one thread each on one
//! processor, clients and backend on the other, rounds in turn; and how long a changed endpoint
//! takes to get traffic with few Services and with many.
//! And the kernel's rules beside plain routing.

mod kernel;
mod load;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::budget::{Budget, median};
use crate::group_api::side::{self, Place};
use crate::server::Server;
use load::{Backend, Kind};

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(1500);
const FEW: u32 = 100;
const MANY: u32 = 10_000;

/// Measures it.
pub fn measure() -> Result<Vec<Budget>> {
    let dir = tempfile::tempdir()?;
    let own = i32::try_from(std::process::id())?;
    side::pin(own, Place::Client)?;
    let proxied = proxies(dir.path());
    side::pin(own, Place::Anywhere)?;
    let mut budgets = proxied?;
    budgets.extend(kernel::measure()?);
    budgets.extend(changes()?);
    Ok(budgets)
}

/// Processor time a request on open connections, and a connection of one request.
fn proxies(dir: &Path) -> Result<Vec<Budget>> {
    let backend = Backend::start()?;
    let ours = ours(backend.port)?;
    let haproxy = haproxy(dir, backend.port)?;
    let proxies: Vec<&Server> = std::iter::once(&ours).chain(&haproxy).collect();
    let mut budgets = Vec::new();
    for (kind, name) in [(Kind::Requests, "request"), (Kind::Connections, "connection")] {
        let mut seen = vec![Vec::new(); proxies.len()];
        for round in 0..=ROUNDS {
            for (at, proxy) in proxies.iter().enumerate() {
                let before = proxy.cpu();
                let done = load::run(kind, proxy.port, ROUND)?;
                let used = proxy.cpu().saturating_sub(before);
                ensure!(done > 100, "{} did {done} of kind {name}", proxy.name);
                // The first round only fills caches.
                if round > 0 {
                    seen[at].push(used.as_secs_f64() * 1e6 / done as f64);
                }
            }
        }
        let peer = seen.get(1).map(|samples| median(samples));
        let goal = peer.unwrap_or(f64::INFINITY);
        let ours = seen.swap_remove(0);
        let name = format!("balancer-l4-tcp-{name}-beside-haproxy_us");
        budgets.push(Budget::at_most(&name, goal, ours).beside(peer));
    }
    Ok(budgets)
}

/// From the change to the first connection, or request, that reached the new endpoint.
fn changes() -> Result<Vec<Budget>> {
    let mut budgets = Vec::new();
    for (name, program) in [("l4", "l4_changes"), ("l7", "l7_changes")] {
        let (few, many) = (changed(program, FEW)?, changed(program, MANY)?);
        let name = format!("balancer-{name}-change-of-10000x5_ms");
        budgets.push(Budget::at_most(&name, 100.0, many).beside(Some(median(&few))));
    }
    Ok(budgets)
}

fn changed(program: &str, services: u32) -> Result<Vec<f64>> {
    let path = example(program)?;
    let done = Command::new("unshare")
        .args(["-n", "sh", "-c", "ip link set lo up && exec \"$0\" \"$1\""])
        .args([&path.display().to_string(), &services.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .context("unshare (root is needed)")?;
    ensure!(done.status.success(), "{program} {services}: {}", done.status);
    let text = String::from_utf8(done.stdout)?;
    text.lines().map(|line| Ok(line.parse()?)).collect()
}

fn example(name: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("examples").join(name))
}

fn ours(backend: u16) -> Result<Server> {
    // Health is at the next port.
    let [port] = berth_tests::free_ports()?;
    let words = [port.to_string(), format!("127.0.0.1:{backend}")];
    Server::example("ours", "stream_serve", &words, port, listens)
}

/// `None` where it is not installed.
fn haproxy(dir: &Path, backend: u16) -> Result<Option<Server>> {
    let [port] = berth_tests::free_ports()?;
    let file = dir.join("haproxy.cfg");
    let text = format!(
        "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
         timeout client 60s\n  timeout server 60s\nlisten bench\n  bind 127.0.0.1:{port}\n  \
         server one 127.0.0.1:{backend}\n"
    );
    std::fs::write(&file, text)?;
    let words = ["-db".to_owned(), "-f".to_owned(), file.display().to_string()];
    Server::installed("haproxy", "/usr/sbin/haproxy", &words, port, listens)
}

fn listens(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}
