//! `berth up`: a whole cluster in one process, and the pods that it puts beside itself.
//!
//! Order: what can be refused is refused before anything starts; then registry and API server,
//! then node agent, controllers and scheduler, which all are clients of it; then DNS, balancer
//! and console as pods. Ending stops the process alone: containers, addresses and names go on.

mod backups;
mod cluster;
mod console;
mod detach;
mod issuer;
pub mod parts;
mod system;

use std::time::Duration;

use anyhow::Result;
use berth_daemon::Tasks;

use crate::cli::Global;
use crate::instance::{Instance, Options};
use crate::ports;
use crate::progress::Steps;

/// How long open requests may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or Ctrl-C; with `--detach`, starts such a process and returns when it is
/// ready.
pub fn run(global: &Global, options: Options) -> Result<()> {
    let mut options = options;
    if let Ok(last) = Instance::of(global) {
        options.keep(&last.options);
    }
    let instance = Instance::new(&global.data_dir, options)?;
    cluster::preflight(&instance)?;
    crate::cli::on_one_thread(crate::store::preflight(&instance))?;
    if instance.options.detach {
        return detach::run(&instance);
    }
    let taken = instance.take()?;
    ports::check(&instance.ports(), &instance.name)?;
    instance.remember_options()?;
    berth_daemon::init_telemetry(Some(&instance.dir.join("logs/berth.log")))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(&instance));
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(taken);
    result
}

async fn serve(instance: &Instance) -> Result<()> {
    let tasks = Tasks::new();
    let mut end = std::pin::pin!(berth_daemon::wait_for_end());
    let started = tokio::select! {
        started = start(instance, &tasks) => Some(started),
        _ = &mut end => None,
        () = tasks.stopping() => None,
    };
    if let Some(Ok(())) = started {
        tokio::select! {
            ended = end => ended?,
            () = tasks.stopping() => {}
        }
    }
    eprintln!("stopping; containers go on, `berth up` takes them up again");
    tasks.stop(DRAIN).await;
    if tasks.has_panicked() {
        anyhow::bail!("a part failed: see {}", instance.dir.join("logs/berth.log").display());
    }
    started.unwrap_or(Ok(()))
}

async fn start(instance: &Instance, tasks: &Tasks) -> Result<()> {
    let mut steps = Steps::new();
    steps.begin("API server and node");
    detach::tell("STATUS=API server and node");
    let mut cluster = cluster::start(instance, tasks).await?;
    cluster.wait_for_node().await?;
    steps.done();
    let ready = steps.elapsed();
    steps.begin("DNS and balancer");
    detach::tell("STATUS=DNS and balancer");
    let image = cluster.own_image().await?;
    system::apply(cluster.client(), instance, &image).await?;
    console::apply(cluster.client(), instance, cluster.pki(), &image).await?;
    system::wait(cluster.client()).await?;
    steps.done();
    let flag = flag(instance);
    let console = console::welcome(cluster.client(), instance, &flag).await;
    eprintln!("{}{console}", welcome(instance, ready, &flag));
    detach::tell("READY=1");
    Ok(())
}

/// What tells other commands which instance is meant.
fn flag(instance: &Instance) -> String {
    match instance.name.as_str() {
        "berth0" => String::new(),
        _ => format!(" --data-dir {}", instance.dir.display()),
    }
}

/// What to do next.
fn welcome(instance: &Instance, ready: Duration, flag: &str) -> String {
    let (domain, port) = (&instance.options.apps_domain, instance.options.http_port);
    format!(
        "berth is up: node {} ready after {:.1} s\n\n  \
         berth deploy examples/hello --name hello --replicas 3{flag}\n  \
         curl --resolve hello.{domain}:{port}:127.0.0.1 http://hello.{domain}:{port}/\n  \
         kubectl --kubeconfig {} get pods -A",
        instance.node_name,
        ready.as_secs_f32(),
        instance.kubeconfig().display(),
    )
}
