//! `berth collector`: keeps what Apps on a node of any Kubernetes write into their log directories,
//! and answers who may read it. On Berth's own node its agent does that.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use berth_daemon::Tasks;
use berth_node::collector::{self, Settings};

use crate::cli::{Global, until_the_end};
use crate::connect;

const DRAIN: Duration = Duration::from_secs(5);

/// `berth collector`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// The node whose pods these are
    #[arg(long, env = "BERTH_NODE")]
    node: String,
    /// Where lines are kept
    #[arg(long, default_value = "/var/lib/berth-collector")]
    dir: PathBuf,
    /// Where it is asked, HTTPS; all collectors have the same port
    #[arg(long, default_value = "0.0.0.0:10265")]
    listen: SocketAddr,
}

/// Runs until it is told to end. It needs the node's processes (`hostPID`), and a kubelet's pod
/// around itself.
///
/// # Errors
/// A port in use, a cluster that does not answer, no kubelet around.
pub fn run(global: &Global, options: Options) -> Result<()> {
    berth_daemon::init_telemetry(None)?;
    // What is read waits for disks; two threads answer all the same.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(global, options))
}

async fn serve(global: &Global, options: Options) -> Result<()> {
    let client = connect::inside_or_named(global).await?;
    let made = rcgen::generate_simple_self_signed(vec!["berth-collector".to_owned()]);
    let made = made.context("making a certificate")?;
    let serving = (made.cert.pem(), made.signing_key.serialize_pem());
    let Options { node, dir, listen } = options;
    let tasks = Tasks::new();
    collector::start(client, Settings { node, dir, listen, serving }, &tasks).await?;
    until_the_end(&tasks, DRAIN).await
}
