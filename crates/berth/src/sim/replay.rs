//! `berth sim run` and `berth sim compare`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use berth_sim::compaction::machines_needed;
use berth_sim::compare::{self, Stage};
use berth_sim::trace::Trace;
use berth_sim::{PolicyKind, Recording, Run, chart};
use clap::Args;

use super::policy;
use crate::cli::Global;

#[derive(Args, Debug)]
struct Replay {
    /// The recording
    file: PathBuf,
    /// Where chance starts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Let pods arrive in random order, again and again, until so many % of all GPUs are asked for;
    /// nobody leaves (the protocol of the published figures: 130)
    #[arg(long, value_name = "PERCENT")]
    saturate: Option<u64>,
    /// Also count the machines needed, over so many orders of removal
    #[arg(long, value_name = "ORDERS", default_value_t = 0)]
    compact: u64,
    /// Also write everything as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What `run` takes.
#[derive(Args, Debug)]
pub struct RunOptions {
    #[command(flatten)]
    replay: Replay,
    /// random, bestfit, fgd, kube, archimedes or archimedes-cold
    #[arg(long, value_parser = policy, default_value = "archimedes")]
    policy: PolicyKind,
}

/// What `compare` takes.
#[derive(Args, Debug)]
pub struct CompareOptions {
    #[command(flatten)]
    replay: Replay,
    /// The two policies: random, bestfit, fgd, kube, archimedes or archimedes-cold
    #[arg(long = "policy", value_parser = policy, num_args = 1, required = true)]
    policies: Vec<PolicyKind>,
    /// Also draw it
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// A line on standard error at most so often.
const BETWEEN_LINES: Duration = Duration::from_secs(2);

impl Replay {
    /// The recording as it is packed, and as it arrives.
    fn traces(&self) -> Result<(Trace, Trace)> {
        let shown = || format!("reading {}", self.file.display());
        let recording = Recording::read(&self.file).with_context(shown)?;
        let trace = Trace::of(&recording).with_context(shown)?;
        if trace.left_out > 0 {
            eprintln!("{} nodes were unschedulable, they are left out", trace.left_out);
        }
        let stream = match self.saturate {
            Some(percent) => trace.saturated(percent, self.seed),
            None => trace.clone(),
        };
        Ok((trace, stream))
    }
}

/// Replays under one policy.
///
/// # Errors
/// When the recording cannot be read, or the results not written.
pub fn run(global: &Global, options: &RunOptions) -> Result<()> {
    let RunOptions { replay, policy } = options;
    let (trace, stream) = replay.traces()?;
    let mut lines = Lines::new();
    let run = Run { policy: *policy, seed: replay.seed };
    let outcome = run.replay(&stream, |at| {
        lines.tell(|| format!("{policy}: {} of {} pods, {} s", at.done, at.of, at.at_s));
    });
    let orders = replay.compact;
    let compaction = (orders > 0).then(|| {
        machines_needed(&trace, *policy, orders, replay.seed, |order| {
            lines.tell(|| format!("{policy}: machines needed, order {order} of {orders}"));
        })
    });
    let side = compare::side(*policy, &outcome, compaction.flatten());
    write_json(replay.json.as_deref(), &side)?;
    global.output.print(&side, || compare::table(&[&side]))
}

/// Replays under two policies.
///
/// # Errors
/// When the recording cannot be read, or the results not written.
pub fn compare(global: &Global, options: &CompareOptions) -> Result<()> {
    let CompareOptions { replay, policies, svg } = options;
    let policies: [PolicyKind; 2] = policies
        .as_slice()
        .try_into()
        .with_context(|| format!("--policy is given {} times, not twice", policies.len()))?;
    let (trace, stream) = replay.traces()?;
    let mut lines = Lines::new();
    let mut comparison = compare::compare(&stream, policies, replay.seed, |policy, stage| {
        let Stage::Replay(at) = stage else { return };
        lines.tell(|| format!("{policy}: {} of {} pods, {} s", at.done, at.of, at.at_s));
    });
    if replay.compact > 0 {
        comparison.compact(&trace, policies, replay.compact, |policy, stage| {
            let Stage::Order(order, of) = stage else { return };
            lines.tell(|| format!("{policy}: machines needed, order {order} of {of}"));
        });
    }
    write_json(replay.json.as_deref(), &comparison)?;
    if let Some(file) = svg {
        std::fs::write(file, chart::svg(&comparison))
            .with_context(|| format!("writing {}", file.display()))?;
    }
    global.output.print(&comparison, || comparison.table())
}

fn write_json(file: Option<&Path>, value: &impl serde::Serialize) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    std::fs::write(file, serde_json::to_string_pretty(value)?)
        .with_context(|| format!("writing {}", file.display()))
}

/// Progress on standard error, not more often than one can read.
struct Lines(Instant);

impl Lines {
    fn new() -> Self {
        Self(Instant::now())
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.0.elapsed() >= BETWEEN_LINES {
            eprintln!("{}", line());
            self.0 = Instant::now();
        }
    }
}
