//! How long a changed endpoint takes to get traffic, for measurements: `l4_changes SERVICES`.
//!
//! Wants a network namespace of its own (`unshare -n`): it loads so many Services of five endpoints
//! each into the kernel, changes one endpoint again and again, and prints for each change the
//! milliseconds until a connection reached it. A connection that fails meanwhile is an error.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use berth_balancer::l4::{self, Config, Snapshot};
use berth_daemon::{Ready, Tasks};
use serde_json::json;
use tokio::sync::watch;

const NODE: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);
const CHANGES: usize = 30;
const ENDPOINTS: usize = 5;
const START: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let services: u32 = std::env::args().nth(1).ok_or("l4_changes SERVICES")?.parse()?;
    for words in [
        "link set lo up",
        "link add bench0 type bridge",
        "address add 10.42.0.1/24 dev bench0",
        "link set bench0 up",
    ] {
        let done = Command::new("ip").args(words.split(' ')).status()?;
        if !done.success() {
            return Err(format!("ip {words}").into());
        }
    }
    // Each counts what reaches it.
    let listeners: Vec<_> = (0..=ENDPOINTS).map(|_| listen()).collect::<Result<_, _>>()?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(measure(services, &listeners))
}

type Counted = (u16, Arc<AtomicUsize>);

fn listen() -> std::io::Result<Counted> {
    let listener = TcpListener::bind((NODE, 0))?;
    let port = listener.local_addr()?.port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        while listener.accept().is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    Ok((port, count))
}

fn slice(
    number: u32,
    ports: &[u16],
) -> Result<Arc<k8s_openapi::api::discovery::v1::EndpointSlice>, serde_json::Error> {
    // Of all but the first, nobody listens at the endpoints: they fill the maps.
    let name = format!("s{number}");
    let endpoints: Vec<_> = (0..ENDPOINTS as u32)
        .map(|k| {
            let [_, a, b, c] = (number * 8 + k).to_be_bytes();
            json!({"addresses": [if number == 0 { NODE.to_string() } else { format!("10.{}.{b}.{c}", 100 + a) }]})
        })
        .collect();
    // On one address only ports tell endpoints apart, and a slice has one: so five slices' worth.
    let ports = if number == 0 { ports } else { &[8080] };
    serde_json::from_value(json!({
        "metadata": {"namespace": "n", "name": format!("{name}-{}", ports[0]),
            "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"port": ports[0], "protocol": "TCP"}]}))
    .map(Arc::new)
}

async fn measure(count: u32, listeners: &[Counted]) -> Result<(), Box<dyn std::error::Error>> {
    let mut services = Vec::new();
    let mut slices = Vec::new();
    for number in 0..count {
        let [_, _, a, b] = number.to_be_bytes();
        let object = json!({"metadata": {"namespace": "n", "name": format!("s{number}")},
            "spec": {"clusterIP": format!("10.43.{a}.{b}"), "ports": [{"port": 80}]}});
        services.push(Arc::new(serde_json::from_value(object)?));
        if number > 0 {
            slices.push(slice(number, &[8080])?);
        }
    }
    let snapshot = |at: usize| -> Result<_, serde_json::Error> {
        let mut slices = slices.clone();
        // Four that stay, and one of two.
        let used = (0..ENDPOINTS - 1).chain([ENDPOINTS - 1 + at % 2]);
        for index in used {
            slices.push(slice(0, &[listeners[index].0])?);
        }
        Ok(Some(Arc::new(Snapshot { services: services.clone(), slices })))
    };
    let config = Config {
        instance: "bench".into(),
        pod_range: "10.42.0.0/24".parse()?,
        service_range: "10.43.0.0/16".parse()?,
        node_address: NODE,
        bridge: "bench0".into(),
    };
    let (tasks, ready) = (Tasks::new(), Ready::default());
    let (sender, snapshots) = watch::channel(None);
    tasks.spawn_until_stop("l4", l4::run(config, snapshots, ready.clone()));
    sender.send_replace(snapshot(0)?);
    let started = Instant::now();
    tokio::time::timeout(START, ready.wait()).await?;
    eprintln!("{count} Services in the kernel after {:.1} s", started.elapsed().as_secs_f64());
    let first = SocketAddr::from(([10, 43, 0, 0], 80));
    while TcpStream::connect_timeout(&first, Duration::from_millis(100)).is_err() {
        if started.elapsed() > START {
            return Err("no route to the Services".into());
        }
    }
    for change in 1..=CHANGES {
        let next = snapshot(change)?;
        let new = &listeners[ENDPOINTS - 1 + change % 2].1;
        let before = new.load(Ordering::SeqCst);
        let begun = Instant::now();
        sender.send_replace(next);
        while new.load(Ordering::SeqCst) == before {
            let mut stream = TcpStream::connect_timeout(&first, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            // Accepted and closed: then it is counted.
            let _ = stream.read(&mut [0]);
            if begun.elapsed() > START {
                return Err("the change is not in the data path".into());
            }
            tokio::task::yield_now().await;
        }
        println!("{:.3}", begun.elapsed().as_secs_f64() * 1000.0);
    }
    tasks.stop(Duration::from_secs(1)).await;
    Ok(())
}
