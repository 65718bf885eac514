//! TCP and UDP in user space, on loopback.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use berth_balancer::l7::Snapshot;
use berth_balancer::proxy_protocol::{self, Ends, Version};
use berth_balancer::streams::{self, Config};
use berth_daemon::{Stopped, Tasks};

use crate::hello::hello;

pub const SOON: Duration = Duration::from_secs(20);

/// A server that says its name and the first bytes that it got, then repeats what comes.
pub struct Pod {
    pub address: SocketAddrV4,
    tasks: Tasks,
}

impl Pod {
    pub async fn start(name: &'static str) -> Self {
        Self::at(name, Ipv4Addr::LOCALHOST).await
    }

    /// At an address that an EndpointSlice may have: this machine's own.
    pub async fn routable(name: &'static str) -> Self {
        let probe = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        // Nothing is sent: the kernel only says which address it would send from.
        let own = match probe.connect("192.0.2.1:9").await {
            Ok(()) => probe.local_addr().unwrap().ip(),
            Err(_) => Ipv4Addr::LOCALHOST.into(),
        };
        let std::net::IpAddr::V4(own) = own else { unreachable!("the socket is IPv4") };
        Self::at(name, own).await
    }

    async fn at(name: &'static str, ip: Ipv4Addr) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!() };
        let tasks = Tasks::new();
        let group = tasks.clone();
        tasks.spawn_until_stop("pod", async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                group.spawn_until_stop("pod-connection", async move {
                    let mut buffer = vec![0; 4096];
                    let _ = stream.write_all(format!("{name}|").as_bytes()).await;
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        if stream.write_all(&buffer[..read]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, tasks }
    }

    pub async fn stop(self) {
        assert_eq!(self.tasks.stop(SOON).await, Stopped::Drained);
    }
}

pub fn free_port() -> u16 {
    let [port] = berth_tests::free_ports().unwrap();
    port
}

fn service(name: &str, annotations: &[(&str, &str)]) -> Value {
    let annotations: serde_json::Map<_, _> =
        annotations.iter().map(|(key, value)| (format!("berth.dev/{key}"), json!(value))).collect();
    json!({"metadata": {"namespace": "n", "name": name, "annotations": annotations},
        "spec": {"ports": [{"name": "main", "port": 1}, {"name": "udp", "port": 2, "protocol": "UDP"}]}})
}

/// One slice an endpoint: their ports differ on loopback.
fn slices(service: &str, protocol: &str, endpoints: &[SocketAddrV4]) -> Vec<Value> {
    let port = if protocol == "UDP" { "udp" } else { "main" };
    let slice = |(index, at): (usize, &SocketAddrV4)| {
        json!({"metadata": {"namespace": "n", "name": format!("{service}-{index}"),
                "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "endpoints": [{"addresses": [at.ip()]}],
            "ports": [{"name": port, "port": at.port(), "protocol": protocol}]})
    };
    endpoints.iter().enumerate().map(slice).collect()
}

fn snapshot(services: Vec<Value>, slices: Vec<Value>) -> Option<Arc<Snapshot>> {
    Some(Arc::new(Snapshot {
        services: services
            .into_iter()
            .map(|s| Arc::new(serde_json::from_value(s).unwrap()))
            .collect(),
        slices: slices.into_iter().map(|s| Arc::new(serde_json::from_value(s).unwrap())).collect(),
        ..Snapshot::default()
    }))
}

struct Running {
    sender: watch::Sender<Option<Arc<Snapshot>>>,
    tasks: Tasks,
    served: tokio::task::JoinHandle<()>,
}

#[allow(clippy::disallowed_methods)] // a test ends with what it spawned
async fn start(first: Option<Arc<Snapshot>>) -> Running {
    let mut config =
        Config::new(Ipv4Addr::LOCALHOST.into(), SocketAddr::from(([127, 0, 0, 1], free_port())));
    config.drain = Duration::from_secs(5);
    config.hello_timeout = Duration::from_millis(500);
    let health = config.health;
    let (sender, mut snapshots) = watch::channel(first);
    let tasks = Tasks::new();
    let its_tasks = tasks.clone();
    snapshots.mark_changed();
    let served = tokio::spawn(async move {
        streams::serve(config, snapshots, &its_tasks).await.unwrap();
    });
    let ready = async {
        loop {
            if let Ok(mut stream) = TcpStream::connect(health).await {
                let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
                let mut answer = String::new();
                let _ = stream.read_to_string(&mut answer).await;
                if answer.contains(" 200 ") {
                    return;
                }
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, ready).await.unwrap();
    Running { sender, tasks, served }
}

/// Sends and gives the whole answer, up to where it has `length` bytes.
async fn ask(port: u16, say: &[u8], length: usize) -> std::io::Result<Vec<u8>> {
    let talk = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(say).await?;
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    };
    timeout(SOON, talk).await.unwrap()
}

pub async fn name_of(port: u16) -> std::io::Result<String> {
    Ok(String::from_utf8(ask(port, b"", 2).await?).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_announced_by_the_proxy_protocol_both_ways() {
    let (pod, dead) = (Pod::start("a").await, SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port()));
    let (plain, announced) = (free_port(), free_port());
    let in_and_out =
        [("listen", &*format!("tcp/{announced}=main")), ("proxy-protocol", "in,out-v2")];
    let running = start(snapshot(
        vec![service("p", &[("listen", &format!("tcp/{plain}=main"))]), service("q", &in_and_out)],
        [slices("p", "TCP", &[pod.address, dead]), slices("q", "TCP", &[pod.address, dead])]
            .concat(),
    ))
    .await;
    // One of the endpoints refuses: nobody notices.
    for _ in 0..20 {
        assert_eq!(ask(plain, b"hello", 7).await.unwrap(), b"a|hello");
    }
    let ends = Ends { from: "192.0.2.7:777".parse().unwrap(), to: "192.0.2.1:80".parse().unwrap() };
    let say = [proxy_protocol::write(Version::One, ends), b"hello".to_vec()].concat();
    let expected = [b"a|".to_vec(), proxy_protocol::write(Version::Two, ends), b"hello".to_vec()];
    let expected = expected.concat();
    assert_eq!(ask(announced, &say, expected.len()).await.unwrap(), expected);
    // Who does not say who he is, or nothing in time, is not let in.
    for say in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), b"PROXY TCP4 "] {
        assert!(ask(announced, say, 2).await.is_err());
    }
    running.tasks.cancel();
    running.served.await.unwrap();
    pod.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_goes_by_its_name_and_arrives_untouched() {
    let (a, b, port) = (Pod::start("a").await, Pod::start("b").await, free_port());
    let listen = format!("tls/{port}=main");
    let running = start(snapshot(
        vec![
            service("a", &[("listen", &listen), ("sni", "a.example")]),
            service("b", &[("listen", &listen), ("sni", "*.b.example")]),
        ],
        [slices("a", "TCP", &[a.address]), slices("b", "TCP", &[b.address])].concat(),
    ))
    .await;
    for (name, pod) in [("a.example", "a|"), ("x.b.example", "b|")] {
        let say = hello(name);
        let expected = [pod.as_bytes(), &say].concat();
        assert_eq!(ask(port, &say, expected.len()).await.unwrap(), expected, "{name}");
    }
    assert!(ask(port, &hello("c.example"), 1).await.is_err());
    assert!(ask(port, b"GET / HTTP/1.1\r\n\r\n", 1).await.is_err());
    running.tasks.cancel();
    running.served.await.unwrap();
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn udp_flows_stay_and_move_on_when_their_endpoint_goes() {
    let tasks = Tasks::new();
    let mut pods = Vec::new();
    for name in ["a", "b"] {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let SocketAddr::V4(address) = socket.local_addr().unwrap() else { unreachable!() };
        let group = tasks.child();
        group.spawn_until_stop("pod", async move {
            let mut buffer = [0; 16];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer).await {
                let _ = socket.send_to(name.as_bytes(), peer).await;
            }
        });
        pods.push((name, address, group));
    }
    let port = free_port();
    let services = || vec![service("u", &[("listen", &format!("udp/{port}=udp"))])];
    let both = [pods[0].1, pods[1].1];
    let running = start(snapshot(services(), slices("u", "UDP", &both))).await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(("127.0.0.1", port)).await.unwrap();
    let asked = async || {
        let started = Instant::now();
        while started.elapsed() < SOON {
            let _ = client.send(b"?").await;
            let mut buffer = [0; 16];
            let answer = timeout(Duration::from_millis(200), client.recv(&mut buffer)).await;
            if let Ok(Ok(length)) = answer {
                return String::from_utf8_lossy(&buffer[..length]).into_owned();
            }
        }
        String::new()
    };
    let first = asked().await;
    for _ in 0..10 {
        assert_eq!(asked().await, first);
    }
    // Nobody listens there any more, and the API does not know it yet.
    let (gone, stays) = if first == "a" { (0, 1) } else { (1, 0) };
    pods[gone].2.cancel();
    let started = Instant::now();
    while asked().await != pods[stays].0 {
        assert!(started.elapsed() < SOON);
    }
    // Taken out by the API: the flow moves at its next datagram. (Both names are of one server.)
    running.sender.send_replace(snapshot(services(), slices("u", "UDP", &[both[stays]])));
    assert_eq!(asked().await, pods[stays].0);
    running.tasks.cancel();
    running.served.await.unwrap();
    tasks.stop(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_open_connections_go_on_and_takes_no_new_ones() {
    let (pod, port) = (Pod::start("a").await, free_port());
    let services = vec![service("s", &[("listen", &format!("tcp/{port}=main"))])];
    let running = start(snapshot(services, slices("s", "TCP", &[pod.address]))).await;
    let mut open = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    open.write_all(b"1").await.unwrap();
    let mut three = [0; 3];
    open.read_exact(&mut three).await.unwrap();
    running.tasks.cancel();
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
        assert!(started.elapsed() < SOON);
    }
    for _ in 0..10 {
        open.write_all(b"x").await.unwrap();
        assert_eq!(open.read_u8().await.unwrap(), b'x');
    }
    assert!(!running.served.is_finished());
    drop(open);
    timeout(SOON, running.served).await.unwrap().unwrap();
    pod.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flapping_endpoints_lose_no_connection_and_all_dead_come_back() {
    let (a, b, c) = (Pod::start("a").await, Pod::start("b").await, Pod::start("c").await);
    let port = free_port();
    let services = || vec![service("s", &[("listen", &format!("tcp/{port}=main"))])];
    let with = |pods: &[SocketAddrV4]| snapshot(services(), slices("s", "TCP", pods));
    let running = start(with(&[a.address, b.address])).await;
    // A hundred changes a second, each with another set of endpoints, one of which is dead.
    let dead = SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port());
    let sets =
        [vec![a.address, dead], vec![b.address, c.address], vec![dead, c.address], vec![a.address]];
    let over = AtomicBool::new(false);
    let flapping = async {
        for round in 0..200 {
            running.sender.send_replace(with(&sets[round % sets.len()]));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        over.store(true, Ordering::Relaxed);
    };
    let asking = async {
        let mut answered = 0;
        while !over.load(Ordering::Relaxed) {
            name_of(port).await.unwrap();
            answered += 1;
        }
        answered
    };
    let ((), answered) = tokio::join!(flapping, asking);
    assert!(answered > 100, "{answered}");
    // All dead: refused at once, not hung; and one that comes is used at once.
    running.sender.send_replace(with(&[dead]));
    let started = Instant::now();
    while name_of(port).await.is_ok() {
        assert!(started.elapsed() < SOON);
    }
    running.sender.send_replace(with(&[dead, a.address]));
    let started = Instant::now();
    while name_of(port).await.is_err() {
        assert!(started.elapsed() < SOON);
    }
    // Nobody tells anything any more: what is known holds.
    let Running { sender, tasks, served } = running;
    drop(sender);
    for _ in 0..20 {
        assert_eq!(name_of(port).await.unwrap(), "a|");
    }
    tasks.cancel();
    served.await.unwrap();
    for pod in [a, b, c] {
        pod.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_leaves_its_port_to_the_next_one() {
    let (pod, port) = (Pod::start("a").await, free_port());
    let own = std::env::current_exe().unwrap();
    let program = own.ancestors().nth(2).unwrap().join("examples/stream_serve");
    let process = || {
        let words = [port.to_string(), pod.address.to_string()];
        tokio::process::Command::new(&program).args(words).kill_on_drop(true).spawn().unwrap()
    };
    let mut last = process();
    for _ in 0..3 {
        let started = Instant::now();
        while name_of(port).await.is_err() {
            assert!(started.elapsed() < SOON);
        }
        // Connections are open, and their ends linger.
        let mut open = Vec::new();
        for _ in 0..20 {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.read_exact(&mut [0; 2]).await.unwrap();
            open.push(stream);
        }
        last.kill().await.unwrap();
        last = process();
    }
    let started = Instant::now();
    while name_of(port).await.is_err() {
        assert!(started.elapsed() < SOON);
    }
    last.kill().await.unwrap();
    pod.stop().await;
}
