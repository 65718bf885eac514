//! `berth scheduler`: the scheduler as a process of its own, on any Kubernetes.
//!
//! ```text
//!  kube-scheduler ── default-scheduler's pods ─┐
//!  berth scheduler ─ berth's pods ─────────────┴─▶ API server
//!         ▲ /filter /prioritize /bind: kube-scheduler asks, so that room is given by one alone
//! ```
//!
//! Two schedulers that do not ask each other can choose the same room at the same moment; then the
//! node's own admission refuses the second pod. With the extender they cannot.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use berth_controllers::driver::chain;
use berth_controllers::scheduler::{self, Config};
use berth_controllers::{World, advice, reclaim};
use berth_daemon::Tasks;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::cli::{Global, until_the_end};
use crate::connect;
use crate::failure::{Exit, Failure};

/// The Lease that replicas contend for unless the configuration names another.
const LEASE: &str = "kube-system/berth-scheduler";
const DRAIN: Duration = Duration::from_secs(5);
/// The configuration where none is given: one profile of our own.
pub const PLAIN_CONFIG: &str = "profiles:\n- schedulerName: berth\n";

/// `berth scheduler`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// The configuration: profiles, lease, limits (YAML or JSON) [default: one profile, `berth`]
    #[arg(long)]
    config: Option<PathBuf>,
    /// Where /healthz, /readyz and /metrics answer, HTTP
    #[arg(long, default_value = "127.0.0.1:10261")]
    listen: SocketAddr,
    /// Where kube-scheduler may ask as its extender, HTTP; whoever reaches it may bind pods
    #[arg(long, value_name = "ADDRESS")]
    extender: Option<SocketAddr>,
    /// Work without a Lease: there is no other replica
    #[arg(long)]
    no_lease: bool,
    /// Remember what workloads use, for `berth advise`
    #[arg(long)]
    advice: bool,
    /// Lend what online pods leave unused to batch pods, by the rules of kube-system/berth-reclaim
    #[arg(long)]
    reclaim: bool,
    /// Print the manifests that run this on a Kubernetes, and end
    #[arg(long)]
    render: bool,
    /// The image in these manifests
    #[arg(long, default_value = "berth:latest", requires = "render")]
    image: String,
}

/// Runs it until it is told to end.
///
/// # Errors
/// A wrong configuration, a port in use, a cluster that does not answer.
pub fn run(global: &Global, options: Options) -> Result<()> {
    let mut config = match &options.config {
        Some(path) => read_config(path)?,
        None => standalone(json!({}))?,
    };
    if options.no_lease {
        config.lease = None;
    }
    if options.render {
        print!("{}", manifests(&options)?);
        return Ok(());
    }
    berth_daemon::init_telemetry(None)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(global, options, config))
}

async fn serve(global: &Global, options: Options, config: Config) -> Result<()> {
    let health = bind("--listen", options.listen).await?;
    let extender = match options.extender {
        Some(address) => Some(bind("--extender", address).await?),
        None => None,
    };
    let client = connect::inside_or_named_by(global, berth_controllers::driver::connect).await?;
    let tasks = Tasks::new();
    let world = Arc::new(World::for_scheduler(client.clone(), &tasks));
    let scheduler = scheduler::start_with(client.clone(), &world, config, &tasks);
    if options.advice {
        let leader = scheduler.clone();
        let leads = move || leader.leads();
        advice::start(client.clone(), &world, advice::Config::default(), leads, &tasks);
    }
    if options.reclaim {
        let leader = scheduler.clone();
        let leads = move || leader.leads();
        reclaim::start(client, &world, reclaim::Config::default(), leads, &tasks);
    }
    scheduler::serve_health(scheduler.clone(), health, &tasks);
    if let Some(listener) = extender {
        scheduler::serve_extender(scheduler, listener, &tasks);
    }
    until_the_end(&tasks, DRAIN).await
}

async fn bind(option: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let message = format!("{option} {address}: {error}");
        Failure::new(Exit::InUse, message, format!("choose another {option}")).into()
    })
}

/// The configuration for who only asks: that of a file, or Kubernetes' default profile.
///
/// # Errors
/// As [`read_config`].
pub fn config_of(file: Option<&Path>) -> Result<Config> {
    match file {
        Some(path) => read_config(path),
        None => Ok(Config { measured_use: true, ..Config::default() }),
    }
}

/// The configuration in a file.
///
/// # Errors
/// Which key is wrong, and what would be right.
pub fn read_config(path: &Path) -> Result<Config> {
    let wrong = |error: String| {
        let message = format!("{}: {error}", path.display());
        Failure::new(Exit::Failed, message, "docs/SCHEDULER.md shows one that is right")
    };
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let read: Value = serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    standalone(read).map_err(|error| wrong(format!("{error:#}")).into())
}

/// What is left out is not as in the embedded cluster: the pods of others are not taken, and there
/// may be replicas.
fn standalone(mut read: Value) -> Result<Config> {
    if read.is_null() {
        read = json!({});
    }
    if let Some(keys) = read.as_object_mut() {
        keys.entry("profiles").or_insert_with(|| json!([{ "schedulerName": "berth" }]));
        keys.entry("lease").or_insert_with(|| json!(LEASE));
        keys.entry("measuredUse").or_insert_with(|| json!(true));
    }
    let config: Config = serde_json::from_value(read)?;
    config.validate().map_err(|error| anyhow::anyhow!(chain(&error)))
}

fn manifests(options: &Options) -> Result<String> {
    let config = match &options.config {
        Some(path) => std::fs::read_to_string(path)?,
        None => PLAIN_CONFIG.to_owned(),
    };
    Ok(manifests_of(&options.image, &config))
}

/// The manifests of a scheduler of this image and configuration.
pub fn manifests_of(image: &str, config: &str) -> String {
    let config: String = config.lines().map(|line| format!("    {line}\n")).collect();
    let config = config.trim_end();
    include_str!("scheduler/manifests.yaml")
        .replace("{{image}}", image)
        .replace("{{config}}", config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alone_it_takes_no_pods_of_others_and_holds_a_lease() {
        let config = standalone(json!(null)).unwrap();
        assert_eq!(config.profiles[0].scheduler_name, "berth");
        assert_eq!((config.profiles.len(), config.lease.as_deref()), (1, Some(LEASE)));
        assert_eq!(standalone(json!({ "lease": null })).unwrap().lease, None);
        let error = standalone(json!({ "bindings": 0 })).unwrap_err();
        assert!(error.to_string().contains("bindings is 0"), "{error}");
    }

    #[test]
    fn a_wrong_file_is_named_with_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scheduler.yaml");
        std::fs::write(&path, "profiles:\n- schedulerName: berth\n  loadCeiling: 0\n").unwrap();
        let error = read_config(&path).unwrap_err().to_string();
        assert!(error.contains("scheduler.yaml") && error.contains("loadCeiling"), "{error}");
        std::fs::write(&path, "profile: []\n").unwrap();
        let error = read_config(&path).unwrap_err().to_string();
        assert!(error.contains("unknown field `profile`"), "{error}");
    }
}
