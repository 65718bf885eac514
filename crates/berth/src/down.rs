//! `berth down`: ends the control plane, then all that it left running on purpose.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};

use crate::cli::Global;
use crate::failure::{Exit, Failure};
use crate::instance::Instance;
use crate::progress::Steps;

/// How long the control plane may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(50);

/// `berth down`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Remove the data directory too
    #[arg(long)]
    purge: bool,
}

/// Stops everything of the instance; what is gone already is no failure.
///
/// # Errors
/// What could not be removed.
pub async fn run(global: &Global, options: &Options) -> Result<()> {
    let instance = Instance::to_end(global)?;
    if !nix::unistd::geteuid().is_root() {
        let message = "stopping containers needs root";
        return Err(Failure::new(Exit::Machine, message, "run it as root").into());
    }
    let mut steps = Steps::new();
    if let Some(pid) = instance.running() {
        steps.begin("control plane");
        kill(pid, Signal::SIGTERM).context("ending the control plane")?;
        let gone = async {
            while instance.running().is_some() {
                tokio::time::sleep(TICK).await;
            }
        };
        if tokio::time::timeout(PATIENCE, gone).await.is_err() {
            kill(pid, Signal::SIGKILL).context("ending the control plane")?;
            while instance.running().is_some() {
                tokio::time::sleep(TICK).await;
            }
        }
    }
    // Ours until the end: no `berth up` starts on ground that is being cleared.
    let taken = instance.lock()?;
    steps.begin("containers and what the kernel was told");
    berth_node::teardown(&instance.dir, &instance.name).await?;
    berth_balancer::l4::teardown(&instance.name).await?;
    if options.purge {
        steps.begin("data");
        let others = instance.purge()?;
        steps.done();
        if others {
            eprintln!("{} stays: not all in it is Berth's", instance.dir.display());
        }
    }
    drop(taken);
    steps.done();
    Ok(())
}
