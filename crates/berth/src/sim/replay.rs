//! `berth sim run` and `berth sim compare`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_sim::compaction::machines_needed;
use berth_sim::compare;
use berth_sim::trace::Trace;
use berth_sim::{Contender, Recording, chart, replay};
use clap::Args;

use super::policy::{PolicyWord, Words};
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
    /// Also count the machines needed, over 10 orders of removal or so many (--compact=20)
    #[arg(
        long,
        value_name = "ORDERS",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = 0,
        default_missing_value = "10"
    )]
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
    /// Who decides
    #[arg(long, value_parser = Words, default_value = "archimedes", value_name = "POLICY")]
    policy: PolicyWord,
}

/// What `compare` takes.
#[derive(Args, Debug)]
pub struct CompareOptions {
    #[command(flatten)]
    replay: Replay,
    /// Who decides; to be given twice
    #[arg(long = "policy", value_parser = Words, required = true, value_name = "POLICY")]
    policies: Vec<PolicyWord>,
    /// Also draw it
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// A line on standard error at most so often.
const BETWEEN_LINES: Duration = Duration::from_secs(2);

impl Replay {
    /// What is replayed by `policies`, and the policies ready to begin.
    fn set_up<const N: usize>(
        &self,
        policies: [&PolicyWord; N],
    ) -> Result<(Stage, [Contender; N])> {
        let shown = || format!("reading {}", self.file.display());
        let recording = Recording::read(&self.file).with_context(shown)?;
        for missing in &recording.missing {
            eprintln!("not in the recording: {missing}");
        }
        // Packers are told which kinds of node a pod may go to; profiles look for themselves.
        let by_kind = policies.iter().any(|policy| policy.is_packer());
        let trace = if by_kind { Trace::of(&recording) } else { Trace::without_kinds(&recording) };
        let trace = trace.with_context(shown)?;
        if trace.left_out > 0 {
            eprintln!("{} nodes were unschedulable, they are left out", trace.left_out);
        }
        let stream = match self.saturate {
            Some(percent) => trace.saturated(percent, self.seed),
            None => trace.clone(),
        };
        let ready: Vec<Contender> =
            policies.iter().map(|policy| policy.ready(&recording)).collect::<Result<_>>()?;
        let ready = ready.try_into().expect("one contender comes of each policy");
        Ok((Stage { trace, stream }, ready))
    }
}

/// A recording as it is packed, and as it arrives.
struct Stage {
    trace: Trace,
    stream: Trace,
}

/// Replays under one policy.
///
/// # Errors
/// When the recording cannot be read, or the results not written.
pub fn run(global: &Global, options: &RunOptions) -> Result<()> {
    let RunOptions { replay: asked, policy } = options;
    let (Stage { trace, stream }, [policy]) = asked.set_up([policy])?;
    let name = policy.name();
    let mut lines = Lines::new();
    let outcome = replay(policy.start(&stream, asked.seed), &stream, |at| {
        lines.tell(|| format!("{name}: {} of {} pods, {} s", at.done, at.of, at.at_s));
    });
    let orders = asked.compact;
    let compaction = (orders > 0).then(|| {
        machines_needed(&trace, policy.clone(), orders, asked.seed, |order| {
            lines.tell(|| format!("{name}: machines needed, order {order} of {orders}"));
        })
    });
    let side = compare::side(name, &outcome, compaction.flatten());
    write_json(asked.json.as_deref(), &side)?;
    global.output.print(&side, || compare::table(&[&side]))
}

/// Replays under two policies.
///
/// # Errors
/// When the recording cannot be read, or the results not written.
pub fn compare(global: &Global, options: &CompareOptions) -> Result<()> {
    let CompareOptions { replay, policies, svg } = options;
    let [first, second] = policies.as_slice() else {
        bail!("--policy is given {} times, not twice", policies.len());
    };
    let (Stage { trace, stream }, policies) = replay.set_up([first, second])?;
    let mut lines = Lines::new();
    let mut comparison = compare::compare(&stream, &policies, replay.seed, |policy, stage| {
        let compare::Stage::Replay(at) = stage else { return };
        lines.tell(|| format!("{policy}: {} of {} pods, {} s", at.done, at.of, at.at_s));
    });
    if replay.compact > 0 {
        comparison.compact(&trace, &policies, replay.compact, |policy, stage| {
            let compare::Stage::Order(order, of) = stage else { return };
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
