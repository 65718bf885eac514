//! `berth sim cluster`: hollow nodes until it is told to end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use berth_sim::hollow::{self, Counts};
use clap::Args;

use crate::cli::{Global, on_one_thread};
use crate::connect;

/// What `berth sim cluster` takes.
#[derive(Args, Debug)]
pub struct Options {
    /// How many nodes
    #[arg(long, default_value_t = 100)]
    nodes: usize,
    /// What their names begin with
    #[arg(long, default_value = "hollow")]
    prefix: String,
    /// Cores of each
    #[arg(long, default_value_t = 32)]
    cores: u32,
    /// GiB of memory of each
    #[arg(long, default_value_t = 128)]
    memory_gib: u32,
    /// Most pods of each
    #[arg(long, default_value_t = 110)]
    pods: u32,
    /// GPUs of each
    #[arg(long, default_value_t = 0)]
    gpus: u32,
    /// Let only pods in that bear the taint berth.dev/hollow
    #[arg(long)]
    taint: bool,
    /// Most requests at once
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Remove all hollow nodes with the pods bound to them, and end
    #[arg(long)]
    clean: bool,
}

const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Registers the nodes and keeps them alive, or removes them.
///
/// # Errors
/// When the cluster does not answer, or refuses a node.
pub fn run(global: &Global, options: Options) -> Result<()> {
    on_one_thread(drive(global, options))
}

async fn drive(global: &Global, options: Options) -> Result<()> {
    let client = connect::client(global).await?;
    if options.clean {
        let count =
            hollow::clean(&client, options.in_flight).await.map_err(|error| anyhow!(error))?;
        println!("{count} hollow nodes removed");
        return Ok(());
    }
    let options = hollow::Options {
        nodes: options.nodes,
        prefix: options.prefix,
        cores: options.cores,
        memory_gib: options.memory_gib,
        pods: options.pods,
        gpus: options.gpus,
        taint: options.taint,
        in_flight: options.in_flight,
    };
    let counts = Counts::default();
    let begun = Instant::now();
    tokio::select! {
        registered = hollow::register(&client, &options, &counts) => {
            registered.map_err(|error| anyhow!(error))?;
        }
        end = berth_daemon::wait_for_end() => return Ok(end?),
    }
    println!("{} nodes registered in {:.1} s", options.nodes, begun.elapsed().as_secs_f64());
    tokio::select! {
        () = hollow::live(client, &options, &counts) => {}
        () = tell(&counts) => {}
        end = berth_daemon::wait_for_end() => end?,
    }
    println!("the nodes stay registered; `berth sim cluster --clean` removes them");
    Ok(())
}

/// A line whenever pods were acknowledged.
async fn tell(counts: &Counts) {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (mut before, mut at) = (0, Instant::now());
    loop {
        tokio::time::sleep(BETWEEN_LINES).await;
        let (running, removed) = (read(&counts.running), read(&counts.removed));
        if running + removed == before {
            at = Instant::now();
            continue;
        }
        let rate = (running + removed - before) as f64 / at.elapsed().as_secs_f64();
        let (beats, failed) = (read(&counts.beats), read(&counts.failed));
        println!(
            "running {running}, removed {removed}, {rate:.0} pods/s, beats {beats}, failed {failed}"
        );
        (before, at) = (running + removed, Instant::now());
    }
}
