//! TCP in user space on one thread, for measurements: `stream_serve PORT ENDPOINT`.
//!
//! One Service with one endpoint; health is at the next port.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use berth_balancer::l7::Snapshot;
use berth_balancer::streams::{self, Config};
use berth_daemon::Tasks;
use serde_json::json;
use tokio::sync::watch;

// As the binary that this is a part of.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let usage = "stream_serve PORT ENDPOINT";
    let port: u16 = words.next().ok_or(usage)?.parse()?;
    let endpoint: SocketAddrV4 = words.next().ok_or(usage)?.parse()?;
    let service = json!({"metadata": {"namespace": "n", "name": "s",
            "annotations": {"berth.dev/listen": format!("tcp/{port}=main")}},
        "spec": {"ports": [{"name": "main", "port": 1}]}});
    let slice = json!({"metadata": {"namespace": "n", "name": "s-1",
            "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "endpoints": [{"addresses": [endpoint.ip()]}],
        "ports": [{"name": "main", "port": endpoint.port()}]});
    let snapshot = Snapshot {
        services: vec![Arc::new(serde_json::from_value(service)?)],
        slices: vec![Arc::new(serde_json::from_value(slice)?)],
        ..Snapshot::default()
    };
    let health = SocketAddr::from((Ipv4Addr::LOCALHOST, port + 1));
    let config = Config::new(Ipv4Addr::LOCALHOST.into(), health);
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    threads.worker_threads(1).enable_all().build()?.block_on(async {
        let tasks = Tasks::new();
        let (sender, snapshots) = watch::channel(None);
        sender.send_replace(Some(Arc::new(snapshot)));
        let mut serving = std::pin::pin!(streams::serve(config, snapshots, &tasks));
        tokio::select! {
            served = &mut serving => return served,
            ended = berth_daemon::wait_for_end() => drop(ended),
        }
        tasks.cancel();
        serving.await
    })?;
    Ok(())
}
