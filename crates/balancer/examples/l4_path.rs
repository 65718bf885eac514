//! The kernel's way to a Service beside plain routing, for measurements: `l4_path routed|service`.
//!
//! Wants a network namespace of its own (`unshare -n`), which becomes the router between a client's
//! and a pod's. With `service` the rules of many Services are loaded and the client asks a Service's
//! address; with `routed` there are no rules and it asks the pod's. For each line on standard input
//! (`requests MS` or `connections MS`) it prints the microseconds of processor time that one took:
//! the client's and the pod's threads together, in whose calls the packets travel.

use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use berth_balancer::l4::{self, Config, Snapshot};
use berth_daemon::{Ready, Tasks};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use serde_json::json;
use tokio::sync::watch;

const NODE: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);
const POD: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 2);
const POD_PORT: u16 = 8080;
const SERVICES: u32 = 1000;
const START: Duration = Duration::from_secs(60);
/// What a request and its answer have, bytes.
const LENGTH: usize = 64;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let service = match std::env::args().nth(1).as_deref() {
        Some("service") => true,
        Some("routed") => false,
        _ => return Err("l4_path routed|service".into()),
    };
    ip("link set lo up")?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    ip("link add bench0 type bridge")?;
    ip("address add 10.42.0.1/24 dev bench0")?;
    ip("link set bench0 up")?;
    let pod = namespace("pod0", "10.42.0.2/24", "10.42.0.1", || {
        let listener = TcpListener::bind((POD, POD_PORT))?;
        answer_all(&listener)
    })?;
    ip("link set pod0 master bench0")?;
    let (ask, asked) = channel();
    let (tell, told) = channel();
    let client = namespace("client0", "10.42.1.2/24", "10.42.1.1", move || {
        // More connections a minute than there are ports: those that linger are taken again.
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535")?;
        std::fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1")?;
        ask_all(&asked, &tell)
    })?;
    ip("address add 10.42.1.1/24 dev client0")?;
    if service {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (tasks, _sender) = runtime.block_on(rules())?;
        rounds(SocketAddr::from(([10, 43, 0, 0], 80)), [pod, client], &ask, &told)?;
        runtime.block_on(tasks.stop(Duration::from_secs(1)));
    } else {
        rounds((POD, POD_PORT).into(), [pod, client], &ask, &told)?;
    }
    Ok(())
}

fn ip(words: &str) -> Result<(), Failure> {
    let done = Command::new("ip").args(words.split(' ')).status()?;
    if done.success() { Ok(()) } else { Err(format!("ip {words}").into()) }
}

/// A thread in a namespace of its own, behind the cable `name`; gives its id.
fn namespace(
    name: &str,
    address: &str,
    gateway: &str,
    then: impl FnOnce() -> Result<(), Failure> + Send + 'static,
) -> Result<i32, Failure> {
    let (there, is_there) = channel();
    let (connected, is_connected) = channel::<()>();
    let (address, gateway) = (address.to_owned(), gateway.to_owned());
    std::thread::spawn(move || {
        let run = || -> Result<(), Failure> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let thread = gettid().as_raw();
            there.send(thread)?;
            is_connected.recv()?;
            ip("link set lo up")?;
            ip(&format!("address add {address} dev inside"))?;
            ip("link set inside up")?;
            ip(&format!("route add default via {gateway}"))?;
            then()
        };
        if let Err(error) = run() {
            eprintln!("l4_path: {error}");
            std::process::exit(1);
        }
    });
    let thread = is_there.recv()?;
    ip(&format!("link add {name} type veth peer name inside netns {thread}"))?;
    ip(&format!("link set {name} up"))?;
    connected.send(())?;
    Ok(thread)
}

/// The rules of many Services, the first of which leads to the pod.
async fn rules() -> Result<(Tasks, watch::Sender<Option<Arc<Snapshot>>>), Failure> {
    let (mut services, mut slices) = (Vec::new(), Vec::new());
    for number in 0..SERVICES {
        let [_, _, a, b] = number.to_be_bytes();
        let name = format!("s{number}");
        let object = json!({"metadata": {"namespace": "n", "name": name},
            "spec": {"clusterIP": format!("10.43.{a}.{b}"), "ports": [{"port": 80}]}});
        services.push(Arc::new(serde_json::from_value(object)?));
        let pod = if number == 0 { POD.to_string() } else { format!("10.42.{}.{b}", 2 + a) };
        let object = json!({"metadata": {"namespace": "n", "name": format!("{name}-1"),
                "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": [{"addresses": [pod]}],
            "ports": [{"port": POD_PORT, "protocol": "TCP"}]});
        slices.push(Arc::new(serde_json::from_value(object)?));
    }
    let config = Config {
        instance: "bench".into(),
        pod_range: "10.42.0.0/16".parse()?,
        service_range: "10.43.0.0/16".parse()?,
        node_address: NODE,
        bridge: "bench0".into(),
    };
    let (tasks, ready) = (Tasks::new(), Ready::default());
    let (sender, snapshots) = watch::channel(None);
    tasks.spawn_until_stop("l4", l4::run(config, snapshots, ready.clone()));
    sender.send_replace(Some(Arc::new(Snapshot { services, slices })));
    tokio::time::timeout(START, ready.wait()).await?;
    Ok((tasks, sender))
}

/// One client at a time: what is measured is the way, not how many fit on it.
fn answer_all(listener: &TcpListener) -> Result<(), Failure> {
    loop {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut buffer = [0; LENGTH];
        while let Ok(()) = stream.read_exact(&mut buffer) {
            if stream.write_all(&buffer).is_err() {
                break;
            }
        }
    }
}

struct Round {
    to: SocketAddr,
    connections: bool,
    length: Duration,
}

fn ask_all(asked: &Receiver<Round>, tell: &Sender<u64>) -> Result<(), Failure> {
    while let Ok(Round { to, connections, length }) = asked.recv() {
        let (begun, mut done, mut kept) = (Instant::now(), 0, None);
        while begun.elapsed() < length {
            let mut stream = match kept.take() {
                Some(stream) => stream,
                None => {
                    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
                    stream.set_nodelay(true)?;
                    stream
                }
            };
            let mut buffer = [7; LENGTH];
            stream.write_all(&buffer)?;
            stream.read_exact(&mut buffer)?;
            done += 1;
            if !connections {
                kept = Some(stream);
            }
        }
        tell.send(done)?;
    }
    Ok(())
}

fn rounds(
    to: SocketAddr,
    threads: [i32; 2],
    ask: &Sender<Round>,
    told: &Receiver<u64>,
) -> Result<(), Failure> {
    let cpu = || -> Result<u64, Failure> {
        let of = |thread: i32| -> Result<u64, Failure> {
            let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"))?;
            Ok(text.split(' ').next().ok_or("no time in schedstat")?.parse()?)
        };
        Ok(of(threads[0])? + of(threads[1])?)
    };
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (kind, ms) = line.split_once(' ').ok_or("KIND MS")?;
        let length = Duration::from_millis(ms.parse()?);
        let before = cpu()?;
        ask.send(Round { to, connections: kind == "connections", length })?;
        let done = told.recv()?;
        let used = cpu()? - before;
        println!("{:.4}", used as f64 / 1000.0 / done.max(1) as f64);
        std::io::stdout().flush()?;
    }
    Ok(())
}
