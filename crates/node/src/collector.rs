//! Log directories of Apps on the nodes of any other Kubernetes, and what containers do there: what
//! Berth's own node does for its pods (`app_logs`, `meters`), done beside a kubelet.
//!
//! ```text
//!  kubelet's directory/pods/UID/volumes/…/logs-0 ─┐
//!  /proc/PID/root/DIR, where the container's ─────┴─▶ app_logs ──▶ DIR/NS_APP/log
//!  KUBERNETES_FILELOGS names it                                       │
//!  /proc/PID/{task,io} ──▶ meters ──▶ load and I/O ──────────────────┤
//!  person ──▶ API server's service proxy ──▶ HTTPS, token ──▶ merge ◀─┘ ◀── other nodes' collectors
//! ```
//!
//! One runs on each node, in a pod that sees the node's processes (`hostPID`). Whatever the runtime
//! is: directories are reached through /proc. They are held open, and so are the files that are
//! being written, so that the last lines are read after container and pod have gone.
//!
//! What an image names in its variable is collected where it lies in the container's own file
//! system, of files that were made since the container started. What lies on other volumes is left
//! alone: it may be others' too.

mod access;
mod directories;
mod gather;
mod kubelet;
mod lines;
mod merge;
mod peers;
mod pods;
mod processes;
mod serve;
mod stats;

use std::net::SocketAddr;
use std::path::PathBuf;

use berth_daemon::Tasks;
use kube::Client;

use crate::app_logs;
use crate::server::ServerError;

/// What a collector is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node it is on.
    pub node: String,
    /// Where it keeps what it collected; everything it writes is below.
    pub dir: PathBuf,
    /// Where it is asked, HTTPS.
    pub listen: SocketAddr,
    /// Certificate and key for that, PEM.
    pub serving: (String, String),
}

/// Why a collector did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be made.
    #[error("cannot keep logs in {}", dir.display())]
    Directory {
        /// Which one.
        dir: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The kubelet's directory is not found.
    #[error("cannot find where the kubelet keeps the volumes of pods")]
    Kubelet(#[source] std::io::Error),
    /// The port, or the certificate.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// Collects and answers until `tasks` stop.
///
/// # Errors
/// See [`StartError`].
pub async fn start(client: Client, settings: Settings, tasks: &Tasks) -> Result<(), StartError> {
    let dir = settings.dir.clone();
    std::fs::create_dir_all(&dir).map_err(|source| StartError::Directory { dir, source })?;
    let kubelet = kubelet::Volumes::find().map_err(StartError::Kubelet)?;
    tracing::info!(pods = %kubelet.path().display(), "the kubelet keeps volumes there");
    let pods = pods::Pods::follow(client.clone(), &settings.node, tasks);
    pods::make_readers(client.clone(), pods.clone(), tasks);
    let stats = stats::Stats::start(pods.clone(), tasks);
    let routes = serve::routes(client, &settings, stats);
    serve::start(&settings, routes, tasks).await?;
    let held = directories::Held::new(kubelet, settings.dir.clone(), pods.clone());
    let own = tasks.clone();
    tasks.spawn_until_stop("collector", async move {
        // Before all are known, none would be taken for gone.
        pods.known().await;
        app_logs::run(app_logs::Collector::new(settings.dir, Box::new(held)), &own);
    });
    Ok(())
}
