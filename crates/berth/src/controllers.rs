//! `berth controllers`: what makes Apps and Releases work, as a process of its own on any
//! Kubernetes. Everything else there is Kubernetes' own.
//!
//! Of several replicas one works, by a Lease. One that loses it ends, and is started again: so
//! nothing of what it had seen or begun is left when another has gone on.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_controllers::apps::serve;
use berth_controllers::apps::template::Domain;
use berth_controllers::scheduler::leader::{self, Leadership};
use berth_controllers::{Ground, Pauser};
use berth_daemon::Tasks;
use kube::Client;
use tokio::net::TcpListener;

use crate::cli::Global;
use crate::connect;
use crate::failure::{Exit, Failure};

/// Longer than any pause that a node waits for.
const DRAIN: Duration = Duration::from_secs(10);

/// `berth controllers`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// What the apps' names end in
    #[arg(long, default_value = "apps.berth.local")]
    apps_domain: String,
    /// Where the balancer's HTTP is reached: part of an app's URL
    #[arg(long, default_value_t = 80)]
    http_port: u16,
    /// Where the balancer's TLS is reached
    #[arg(long, default_value_t = 443)]
    https_port: u16,
    /// Where /healthz answers, and where nodes ask before they end a container, HTTP
    #[arg(long, default_value = "0.0.0.0:10263")]
    listen: SocketAddr,
    /// An address by which every node reaches --listen, for Kubernetes before 1.30
    /// [default: the Service berth-controllers, where there is one]
    #[arg(long, value_name = "HOST", env = "BERTH_CONTROLLERS_SERVICE_HOST")]
    pause_host: Option<String>,
    /// Its port
    #[arg(long, value_name = "PORT", env = "BERTH_CONTROLLERS_SERVICE_PORT")]
    #[arg(default_value_t = 80)]
    pause_port: u16,
    /// The Lease that replicas contend for, NAMESPACE/NAME
    #[arg(long, default_value = "berth-system/berth-controllers", value_parser = lease)]
    lease: (String, String),
    /// Work without a Lease: there is no other replica
    #[arg(long)]
    no_lease: bool,
    #[command(flatten)]
    acme: crate::acme::Options,
}

fn lease(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('/').filter(|(space, name)| !space.is_empty() && !name.is_empty());
    let (space, name) = parts.ok_or_else(|| "NAMESPACE/NAME is wanted".to_owned())?;
    Ok((space.to_owned(), name.to_owned()))
}

/// Runs them until they are told to end, or another process holds the Lease.
///
/// # Errors
/// A port in use, a cluster that does not answer, a Lease that was lost.
pub fn run(global: &Global, options: Options) -> Result<()> {
    berth_daemon::init_telemetry(None)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(global, options))
}

async fn serve(global: &Global, options: Options) -> Result<()> {
    let listener = TcpListener::bind(options.listen).await.map_err(|error| {
        let message = format!("--listen {}: {error}", options.listen);
        Failure::new(Exit::InUse, message, "choose another --listen")
    })?;
    let client = connect::inside_or_named_by(global, berth_controllers::driver::connect).await?;
    let ground = ground(&client, &options).await?;
    let tasks = Tasks::new();
    serve::serve(listener, &tasks);
    let leadership = contend(&client, &options, &tasks);
    let ended = tokio::select! {
        ended = work(client, ground, options, leadership, &tasks) => ended,
        ended = berth_daemon::wait_for_end() => ended.map_err(Into::into),
        () = tasks.stopping() => Ok(()),
    };
    tasks.stop(DRAIN).await;
    ensure!(!tasks.has_panicked(), "a task failed, see above");
    ended
}

/// Begins when this replica's turn has come; returns when it is over.
async fn work(
    client: Client,
    ground: Ground,
    options: Options,
    leadership: Leadership,
    tasks: &Tasks,
) -> Result<()> {
    let acme = options.acme.authority()?;
    leadership.held().await;
    let domain = Domain {
        name: options.apps_domain,
        http_port: options.http_port,
        https_port: options.https_port,
    };
    berth_controllers::start_apps(client, ground, domain, acme, tasks);
    tracing::info!("apps and releases are looked after here");
    leadership.lost().await;
    let (space, name) = options.lease;
    Err(anyhow::anyhow!("the lease {space}/{name} is lost: another replica works now"))
}

fn contend(client: &Client, options: &Options, tasks: &Tasks) -> Leadership {
    if options.no_lease {
        return Leadership::alone();
    }
    let leadership = Leadership::contested(std::sync::Arc::default());
    let (space, name) = options.lease.clone();
    let election = leader::elect(client.clone(), space, name, identity(), leadership.clone());
    tasks.spawn_until_stop("controllers-lease", election);
    leadership
}

/// A name that no other process has: the pod's, and when this process began.
fn identity() -> String {
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    let began = jiff::Timestamp::now().as_nanosecond();
    format!("{}_{}_{began:x}", host.unwrap_or_default(), std::process::id())
}

async fn ground(client: &Client, options: &Options) -> Result<Ground> {
    let port = options.pause_port;
    let pauser = options.pause_host.clone().map(|host| Pauser { host, port });
    Ground::discover(client, pauser).await.context("asking which kinds the server has")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_has_a_namespace_and_a_name() {
        assert_eq!(lease("a/b"), Ok(("a".to_owned(), "b".to_owned())));
        for wrong in ["", "a", "/b", "a/"] {
            assert!(lease(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_two_processes_have_one_name() {
        assert_ne!(identity(), identity());
    }
}
