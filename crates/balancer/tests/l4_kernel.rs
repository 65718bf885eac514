//! Layer 4. Here: Service addresses in a real kernel, a network namespace with a bridge, three pods
//! and their servers; needs root and nftables. In the modules: the other doors.
#![allow(clippy::unwrap_used)] // a test's helpers fail like the test

#[path = "l4_kernel/clusters.rs"]
mod clusters;
#[path = "l4_kernel/front.rs"]
mod front;
#[path = "support/hello.rs"]
mod hello;
#[path = "l4_kernel/keepalived.rs"]
mod keepalived;
#[path = "l4_kernel/killed.rs"]
mod killed;
#[path = "l4_kernel/nginx.rs"]
mod nginx;
#[path = "l4_kernel/streams.rs"]
mod streams;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tokio::sync::watch;

use berth_balancer::l4::{self, Config, Snapshot};
use berth_daemon::{Ready, Tasks};

const BRIDGE: &str = "bl4";
const VIP: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 5);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);
/// Load balancers' addresses, one of which does not answer this machine.
const FOR_US: [u8; 4] = [192, 0, 2, 81];
const FOR_OTHERS: [u8; 4] = [192, 0, 2, 82];
const SOON: Duration = Duration::from_secs(20);

fn run(words: &str) {
    let mut parts = words.split_whitespace();
    let done = Command::new(parts.next().unwrap()).args(parts).output().unwrap();
    assert!(done.status.success(), "{words}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A thread in a network namespace of its own; what it opens and starts is in there.
fn in_own_namespace(work: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        work();
    })
}

/// Starts a pod at 10.42.0.LAST whose servers answer with LAST and the client's address.
///
/// It ends with the sender that is returned.
fn pod(last: u8) -> mpsc::Sender<mpsc::Sender<String>> {
    let (ready, started) = mpsc::channel();
    let (asked, questions) = mpsc::channel::<mpsc::Sender<String>>();
    in_own_namespace(move || {
        let thread = std::fs::read_link("/proc/thread-self").unwrap();
        ready.send(format!("/proc/{}/ns/net", thread.display())).unwrap();
        // The bridge's side puts the cable in, then asks for the rest.
        let plugged = questions.recv().unwrap();
        run("ip link set lo up");
        run(&format!("ip address add 10.42.0.{last}/24 dev p{last}"));
        run(&format!("ip link set p{last} up"));
        run("ip route add default via 10.42.0.1");
        let tcp = TcpListener::bind("0.0.0.0:8080").unwrap();
        let udp = UdpSocket::bind("0.0.0.0:5353").unwrap();
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let (mut stream, name) = (stream.unwrap(), last.to_string());
                std::thread::spawn(move || {
                    let peer = stream.peer_addr().unwrap().ip();
                    // Answers as long as the client keeps asking.
                    let mut byte = [0];
                    while stream.read(&mut byte).is_ok_and(|read| read == 1) {
                        let _ = stream.write_all(format!("{name} {peer}\n").as_bytes());
                    }
                });
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(last.to_string().as_bytes(), peer);
            }
        });
        plugged.send("ready".into()).unwrap();
        // Each further question: what does this pod get from the Service?
        while let Ok(question) = questions.recv() {
            let _ =
                question.send(ask(SocketAddr::from((VIP, 80))).unwrap_or_else(|e| e.to_string()));
        }
    });
    let namespace = started.recv().unwrap();
    run(&format!("ip link add v{last} type veth peer name p{last} netns {namespace}"));
    run(&format!("ip link set v{last} master {BRIDGE} up"));
    run(&format!("bridge link set dev v{last} hairpin on"));
    let (plugged, is_ready) = mpsc::channel();
    asked.send(plugged).unwrap();
    is_ready.recv().unwrap();
    asked
}

fn line(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"?")?;
    let mut answer = String::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            return Ok(answer);
        }
        answer.push(char::from(byte[0]));
    }
}

fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}

/// "POD CLIENT" as the server saw it.
fn ask(to: SocketAddr) -> std::io::Result<String> {
    line(&mut connect(to)?)
}

fn services(affinity: &str) -> Vec<Arc<k8s_openapi::api::core::v1::Service>> {
    let service = |name: &str, spec: Value| {
        let object = json!({"metadata": {"namespace": "n", "name": name}, "spec": spec});
        Arc::new(serde_json::from_value(object).unwrap())
    };
    let guarded = |name: &str, ip: [u8; 4], from: &str| {
        let object = json!({"metadata": {"namespace": "n", "name": name},
            "spec": {"loadBalancerSourceRanges": [from], "ports": [{"name": "http", "port": 80}]},
            "status": {"loadBalancer": {"ingress": [{"ip": Ipv4Addr::from(ip)}]}}});
        Arc::new(serde_json::from_value(object).unwrap())
    };
    vec![
        guarded("for-us", FOR_US, "10.42.0.0/24"),
        guarded("for-others", FOR_OTHERS, "203.0.113.0/24"),
        service(
            "web",
            json!({"clusterIP": VIP, "externalIPs": ["192.0.2.77"], "sessionAffinity": affinity,
                "ports": [{"name": "http", "port": 80, "nodePort": 30080},
                          {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}]}),
        ),
        service(
            "empty",
            json!({"clusterIP": "10.43.0.6", "ports": [{"port": 80, "nodePort": 30081}]}),
        ),
    ]
}

fn snapshot(affinity: &str, pods: &[u8]) -> Option<Arc<Snapshot>> {
    let endpoints: Vec<_> =
        pods.iter().map(|last| json!({"addresses": [format!("10.42.0.{last}")]})).collect();
    let slice = |service: &str| {
        let object = json!({
            "metadata": {"namespace": "n", "name": format!("{service}-1"),
                "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080},
                {"name": "dns", "port": 5353, "protocol": "UDP"}],
        });
        Arc::new(serde_json::from_value(object).unwrap())
    };
    Some(Arc::new(Snapshot {
        services: services(affinity),
        slices: ["web", "for-us", "for-others"].map(slice).into(),
    }))
}

/// Who answers when asked `times` times, sorted, each once.
fn answering(to: SocketAddr, times: usize) -> Vec<String> {
    let mut pods: Vec<_> =
        (0..times).map(|_| ask(to).unwrap().split_once(' ').unwrap().0.to_owned()).collect();
    pods.sort();
    pods.dedup();
    pods
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < SOON, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    started.elapsed()
}

/// Whether this process may do what the tests need; on CI it has to.
fn may_run() -> bool {
    let tools = ["nft", "ip", "bridge", "conntrack"];
    let missing = tools.iter().find(|tool| Command::new(tool).arg("-V").output().is_err());
    let reason = match missing {
        Some(tool) => format!("{tool} is missing"),
        None if !nix::unistd::geteuid().is_root() => "not root".to_owned(),
        None => return true,
    };
    assert!(std::env::var_os("CI").is_none(), "cannot test service addresses: {reason}");
    eprintln!("skipped, service addresses need root and nftables: {reason}");
    false
}

#[test]
fn services_lead_to_their_pods() {
    if !may_run() {
        return;
    }
    let outcome = in_own_namespace(|| {
        run("ip link set lo up");
        run(&format!("ip link add {BRIDGE} type bridge"));
        run(&format!("ip address add {NODE}/24 dev {BRIDGE}"));
        run(&format!("ip link set {BRIDGE} up"));
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        // Everything, nft's processes too, stays on this thread and so in this namespace.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(lead_to_pods());
    });
    outcome.join().unwrap();
}

/// The table's line with its handle: a new table has another one.
fn table() -> String {
    let ran = Command::new("nft").args(["-a", "list", "table", "ip", "bl4test"]).output().unwrap();
    let listed = String::from_utf8(ran.stdout).unwrap();
    let line = listed.lines().next().unwrap_or_default();
    assert!(line.contains("# handle "), "{listed}");
    line.to_owned()
}

async fn lead_to_pods() {
    let config = Config {
        instance: "bl4test".into(),
        pod_range: "10.42.0.0/24".parse().unwrap(),
        service_range: "10.43.0.0/16".parse().unwrap(),
        node_address: NODE,
        bridge: BRIDGE.into(),
    };
    let pods = [pod(2), pod(3), pod(4)];
    let (sender, snapshots) = watch::channel(None);
    let (tasks, ready) = (Tasks::new(), Ready::default());
    tasks.spawn_until_stop("l4", l4::run(config.clone(), snapshots, ready.clone()));
    sender.send_replace(snapshot("None", &[2, 3, 4]));
    tokio::time::timeout(SOON, ready.wait()).await.unwrap();
    let written = table();

    let vip = SocketAddr::from((VIP, 80));
    let node_port = |ip: [u8; 4]| SocketAddr::from((ip, 30080));
    // The route of a machine without a default route comes with the bridge.
    until("a route to the services", || ask(vip).is_ok()).await;
    assert_eq!(answering(vip, 60), ["2", "3", "4"]);
    assert_eq!(answering(node_port([127, 0, 0, 1]), 60), ["2", "3", "4"]);
    assert_eq!(answering(node_port(NODE.octets()), 60), ["2", "3", "4"]);

    // Who is in the source ranges is answered, who is not hears nothing.
    run(&format!("ip route add 192.0.2.80/30 dev {BRIDGE}"));
    assert_eq!(answering(SocketAddr::from((FOR_US, 80)), 40), ["2", "3", "4"]);
    let others = SocketAddr::from((FOR_OTHERS, 80));
    let unheard = TcpStream::connect_timeout(&others, Duration::from_millis(300)).unwrap_err();
    assert_eq!(unheard.kind(), std::io::ErrorKind::TimedOut, "{unheard}");

    // From pods: another pod sees the client, a pod that meets itself sees the machine.
    for (pod, last) in pods.iter().zip([2, 3, 4]) {
        let mut met = Vec::new();
        for _ in 0..40 {
            let (question, answer) = mpsc::channel();
            pod.send(question).unwrap();
            met.push(answer.recv_timeout(SOON).unwrap());
        }
        met.sort();
        met.dedup();
        let other = |pod: i32| {
            if pod == last { format!("{pod} {NODE}") } else { format!("{pod} 10.42.0.{last}") }
        };
        assert_eq!(met, [other(2), other(3), other(4)]);
    }

    // Nobody there: refused, not left to wait, at every kind of address.
    let refused = [
        (Ipv4Addr::new(10, 43, 0, 6), 80),
        (Ipv4Addr::new(10, 43, 0, 99), 80),
        (VIP, 81),
        (Ipv4Addr::LOCALHOST, 30081),
    ];
    for (ip, port) in refused {
        let error = connect(SocketAddr::from((ip, port))).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{ip}:{port} {error}");
    }
    let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
    udp.set_read_timeout(Some(SOON)).unwrap();
    udp.connect((Ipv4Addr::new(10, 43, 0, 99), 53)).unwrap();
    // On the machine itself the kernel says so when sending; a pod gets the ICMP message.
    udp.send(b"?").and_then(|_| udp.recv(&mut [0; 8])).unwrap_err();

    // A socket that keeps asking over UDP moves on when its pod goes.
    let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
    udp.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let resolve = |port: u16, ip: Ipv4Addr| {
        udp.send_to(b"?", SocketAddrV4::new(ip, port)).unwrap();
        let mut buffer = [0; 8];
        let read = udp.recv(&mut buffer).unwrap_or_default();
        String::from_utf8_lossy(&buffer[..read]).parse::<u8>().unwrap_or_default()
    };
    let first = resolve(53, VIP);
    assert!((2..=4).contains(&first), "{first}");
    assert_eq!(resolve(53, VIP), first);

    // Connections that are open stay where they are while endpoints come and go.
    let mut open: Vec<_> = (0..20).map(|_| connect(vip).unwrap()).collect();
    let homes: Vec<_> = open.iter_mut().map(|stream| line(stream).unwrap()).collect();
    let others: Vec<u8> = [2, 3, 4].into_iter().filter(|last| *last != first).collect();
    for round in 0..10 {
        let only = [others[round % 2]];
        sender.send_replace(snapshot("None", &only));
        until("the change is in the kernel", || {
            (0..4).all(|_| ask(vip).unwrap().starts_with(&only[0].to_string()))
        })
        .await;
        let now: Vec<_> = open.iter_mut().map(|stream| line(stream).unwrap()).collect();
        assert_eq!(now, homes);
    }
    until("the resolver's socket moved on", || others.contains(&resolve(53, VIP))).await;

    // A client with affinity stays, from VIP to VIP connection, and moves when its pod goes.
    sender.send_replace(snapshot("ClientIP", &[2, 3, 4]));
    until("affinity", || answering(vip, 20).len() == 1).await;
    let home: u8 = answering(vip, 20)[0].parse().unwrap();
    let others: Vec<u8> = [2, 3, 4].into_iter().filter(|last| *last != home).collect();
    sender.send_replace(snapshot("ClientIP", &others));
    until("affinity moved", || ask(vip).unwrap().split_once(' ').unwrap().0 != home.to_string())
        .await;
    assert_eq!(answering(vip, 20).len(), 1);

    // A hundred changes a second lose no connection: every set of endpoints is whole.
    for round in 0..100 {
        sender.send_replace(snapshot("None", [&[2, 3][..], &[4], &[3, 4], &[2, 3, 4]][round % 4]));
        ask(vip).unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        ask(vip).unwrap();
    }

    // None of it was a new table.
    assert_eq!(table(), written);

    // All endpoints gone, and back.
    sender.send_replace(snapshot("None", &[]));
    until("refused", || connect(vip).is_err()).await;
    sender.send_replace(snapshot("None", &[2, 3, 4]));
    until("back", || ask(vip).is_ok()).await;

    // The rules outlive the process; the next one replaces them under open connections.
    tasks.stop(SOON).await;
    assert_eq!(answering(vip, 60), ["2", "3", "4"]);
    let (tasks, ready) = (Tasks::new(), Ready::default());
    let mut open = connect(vip).unwrap();
    let home = line(&mut open).unwrap();
    let (sender, snapshots) = watch::channel(None);
    tasks.spawn_until_stop("l4", l4::run(config.clone(), snapshots, ready.clone()));
    assert!(ask(vip).is_ok(), "the old rules work until the first snapshot");
    sender.send_replace(snapshot("None", &[2, 3, 4]));
    tokio::time::timeout(SOON, ready.wait()).await.unwrap();
    assert_eq!(line(&mut open).unwrap(), home);
    assert!(ask(vip).is_ok());

    // A refused change (somebody flushed the rules) is answered with the whole table.
    run("nft flush ruleset");
    sender.send_replace(snapshot("None", &[2, 3]));
    // Asked only when it is there: without rules an attempt blocks this thread, and so the driver.
    let listed =
        || Command::new("nft").args(["list", "chain", "ip", "bl4test", "dispatch"]).output();
    until("written anew", || listed().unwrap().status.success() && ask(vip).is_ok()).await;
    assert_eq!(answering(vip, 40), ["2", "3"]);

    tasks.stop(SOON).await;
    l4::teardown(&config.instance).await.unwrap();
    l4::teardown(&config.instance).await.unwrap();
    let tables = Command::new("nft").args(["list", "tables"]).output().unwrap();
    assert!(tables.stdout.is_empty(), "{}", String::from_utf8_lossy(&tables.stdout));
}
