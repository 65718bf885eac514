//! Runs the controllers and the scheduler against any cluster, to try them by hand:
//! `cargo run -p berth-controllers --example run -- KUBECONFIG`.

use std::time::Duration;

use anyhow::{Context, Result};
use berth_controllers::{Config, start, start_scheduler};
use berth_daemon::Tasks;
use kube::config::{KubeConfigOptions, Kubeconfig};

#[tokio::main]
async fn main() -> Result<()> {
    berth_daemon::init_telemetry(None)?;
    let path = std::env::args().nth(1).context("usage: run KUBECONFIG")?;
    let kubeconfig = Kubeconfig::read_from(&path).with_context(|| format!("read {path}"))?;
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let ca_pem = config.root_cert.iter().flatten().map(|der| pem(der)).collect();
    let client = kube::Client::try_from(config)?;
    let tasks = Tasks::new();
    let world = start(client.clone(), Config::new(ca_pem), &tasks);
    start_scheduler(client, &world, &tasks);
    berth_daemon::wait_for_end().await?;
    tasks.stop(Duration::from_secs(5)).await;
    Ok(())
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
