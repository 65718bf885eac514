//! The kernel's rules beside plain routing: a router with them and one without, each between a
//! client and a pod in namespaces of their own, all on one processor, rounds in turn.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};

use super::{ROUNDS, example};
use crate::budget::{Budget, median};

/// How long a round is.
const ROUND_MS: u32 = 1000;
/// What the rules may cost of what routing alone does.
const REQUEST: f64 = 1.14;
const CONNECTION: f64 = 1.25;

/// Processor time a request on an open connection, and a connection of one request.
pub fn measure() -> Result<Vec<Budget>> {
    let (mut service, mut routed) = (Way::start("service")?, Way::start("routed")?);
    let mut budgets = Vec::new();
    for (kind, most) in [("request", REQUEST), ("connection", CONNECTION)] {
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let (with, without) = (service.round(kind)?, routed.round(kind)?);
            // The first round only fills caches.
            if round > 0 {
                ours.push(with);
                plain.push(without);
            }
        }
        let peer = median(&plain);
        let name = format!("balancer-l4-kernel-{kind}-beside-routed_us");
        budgets.push(Budget::at_most(&name, peer * most, ours).beside(Some(peer)));
    }
    Ok(budgets)
}

/// One router; ended when dropped.
struct Way {
    process: Child,
    asked: ChildStdin,
    told: BufReader<ChildStdout>,
}

impl Way {
    fn start(kind: &str) -> Result<Self> {
        let program = example("l4_path")?;
        let mut process = Command::new("taskset")
            .args(["-c", "0", "unshare", "-n"])
            .arg(program)
            .arg(kind)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("taskset and unshare (root is needed)")?;
        let asked = process.stdin.take().context("it was piped")?;
        let told = BufReader::new(process.stdout.take().context("it was piped")?);
        Ok(Self { process, asked, told })
    }

    /// Microseconds each.
    fn round(&mut self, kind: &str) -> Result<f64> {
        writeln!(self.asked, "{kind}s {ROUND_MS}")?;
        let mut line = String::new();
        self.told.read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("l4_path said {line:?}"))
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
