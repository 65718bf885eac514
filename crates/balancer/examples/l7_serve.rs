//! The L7 balancer on one thread, for measurements: `l7_serve HTTP ROUTES_FILE [ACCESS_LOG]`.
//!
//! It serves what a balancer saved and follows nothing, as one does while the API server is away.
//! HTTPS is at the next port, health at the one after it.

use std::net::SocketAddr;
use std::path::PathBuf;

use berth_balancer::l7::{self, AccessLog, Config};
use berth_daemon::Tasks;
use tokio::sync::watch;

// As the binary that this is a part of.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let usage = "l7_serve HTTP ROUTES_FILE [off|errors|ONE_IN]";
    let http: SocketAddr = words.next().ok_or(usage)?.parse()?;
    let routes: PathBuf = words.next().ok_or(usage)?.into();
    let beside = |offset| SocketAddr::new(http.ip(), http.port() + offset);
    let mut config = Config::new(http, beside(1), beside(2));
    config.snapshot = Some(routes);
    config.access_log = match words.next().as_deref() {
        None | Some("off") => AccessLog::Off,
        Some("errors") => AccessLog::Errors,
        Some(many) => AccessLog::OneIn(many.parse()?),
    };
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    threads.worker_threads(1).enable_all().build()?.block_on(async {
        let tasks = Tasks::new();
        let (_sender, snapshots) = watch::channel(None);
        let mut serving = std::pin::pin!(l7::serve(config, snapshots, &tasks));
        tokio::select! {
            served = &mut serving => return served,
            ended = berth_daemon::wait_for_end() => drop(ended),
        }
        tasks.cancel();
        serving.await
    })?;
    Ok(())
}
