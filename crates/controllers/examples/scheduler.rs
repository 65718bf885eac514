//! The scheduler alone, as `berth scheduler` runs it, for measuring: `scheduler KUBECONFIG CONFIG`.
//!
//! The configuration is that of `berth scheduler`, as JSON.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use berth_controllers::World;
use berth_controllers::scheduler::{self, Config};
use berth_daemon::Tasks;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// As in `berth` itself, so that figures are its own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<()> {
    berth_daemon::init_telemetry(None)?;
    let mut args = std::env::args().skip(1);
    let path = args.next().context("the first argument is the kubeconfig")?;
    let config = args.next().context("the second argument is the configuration's file")?;
    let config = std::fs::read_to_string(&config).with_context(|| format!("reading {config}"))?;
    let config =
        serde_json::from_str::<Config>(&config).context("the configuration")?.validate()?;
    let kubeconfig = Kubeconfig::read_from(&path).with_context(|| format!("reading {path}"))?;
    let options = KubeConfigOptions::default();
    let config_of_client = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    let client = berth_controllers::driver::connect(config_of_client)?;
    let tasks = Tasks::new();
    let world = Arc::new(World::for_scheduler(client.clone(), &tasks));
    scheduler::start_with(client, &world, config, &tasks);
    berth_daemon::wait_for_end().await?;
    tasks.stop(Duration::from_secs(5)).await;
    Ok(())
}
