//! The front before three backends, each in a network namespace of its own on one bridge, with the
//! server as a process of its own. Needs root.

#[path = "front/class.rs"]
mod class;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use serde_json::{Value, json};

use super::run;

const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
/// What the front is called where it translates.
const FRONT: [&str; 2] = ["10.77.0.2", "fd77::2"];
const PATIENCE: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(15);

/// A thread in namespaces of its own that does what it is told.
struct Side(mpsc::Sender<Box<dyn FnOnce() + Send>>, i32);

impl Side {
    fn new() -> Self {
        let (sender, jobs) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (told, id) = mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            run("mount --make-rprivate /");
            // What /sys says of interfaces is of the namespace that mounted it.
            run("mount -t sysfs sysfs /sys");
            run("ip link set lo up");
            told.send(gettid().as_raw()).unwrap();
            jobs.iter().for_each(|job| job());
        });
        Self(sender, id.recv().unwrap())
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, done) = mpsc::channel();
        self.0.send(Box::new(move || drop(sender.send(job())))).unwrap();
        done.recv().expect("the job does not panic")
    }
}

/// A bridge with a client, a front and backends on it.
struct Net {
    bridge: Side,
    client: Side,
    front: Side,
    backends: Vec<Side>,
    _dir: tempfile::TempDir,
    file: PathBuf,
    pins: PathBuf,
}

/// Plugs `side` into the bridge as `name`, with that address.
fn plug(bridge: &Side, side: &Side, name: &'static str, last: u8) {
    let other = side.1;
    bridge.run(move || {
        run(&format!("ip link add p-{name} type veth peer name {name} netns {other}"));
        run(&format!("ip link set p-{name} master br0 up"));
    });
    side.run(move || {
        run(&format!("ip address add 10.77.0.{last}/24 dev {name}"));
        run(&format!("ip address add fd77::{last}/64 dev {name} nodad"));
        run(&format!("ip link set {name} up"));
    });
}

/// Says its number to whoever sends a byte, over TCP and UDP; at port 8080 to the front alone.
fn serve(last: u8) {
    for port in [80, 8080] {
        let tcp = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip().to_canonical().to_string();
                let number = if port == 80 || FRONT.contains(&&*peer) { last } else { 0 };
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read(&mut byte).is_ok_and(|read| read == 1) {
                        let _ = stream.write_all(&[number]);
                    }
                });
            }
        });
    }
    let own: [IpAddr; 4] = [
        VIP.into(),
        VIP6.into(),
        Ipv4Addr::new(10, 77, 0, last).into(),
        format!("fd77::{last}").parse().unwrap(),
    ];
    for address in own {
        let udp = UdpSocket::bind((address, 53)).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(&[last], peer);
            }
        });
    }
}

impl Net {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (bridge, client, front) = (Side::new(), Side::new(), Side::new());
        bridge.run(|| run("ip link add br0 type bridge"));
        bridge.run(|| run("ip link set br0 up"));
        plug(&bridge, &client, "c0", 1);
        plug(&bridge, &front, "f0", 2);
        client.run(|| run("ip route add 192.0.2.10 via 10.77.0.2"));
        client.run(|| run("ip route add 2001:db8::10 via fd77::2"));
        let pins = dir.path().join("bpf");
        std::fs::create_dir(&pins).unwrap();
        let mounted = pins.clone();
        front.run(move || {
            run(&format!("mount -t bpf bpf {}", mounted.display()));
            std::fs::write("/proc/sys/net/ipv4/conf/f0/forwarding", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/f0/forwarding", "1").unwrap();
        });
        let backends: Vec<Side> = ["b1", "b2", "b3"]
            .into_iter()
            .zip(11u8..)
            .map(|(name, last)| {
                let side = Side::new();
                plug(&bridge, &side, name, last);
                side.run(move || {
                    run("ip address add 192.0.2.10/32 dev lo");
                    run("ip address add 2001:db8::10/128 dev lo nodad");
                    serve(last);
                });
                side
            })
            .collect();
        let file = dir.path().join("front.json");
        Self { bridge, client, front, backends, _dir: dir, file, pins }
    }

    fn write(&self, mode: &str, way: &str, backends: Value) {
        let service = |port: u16, protocol: &str| {
            json!({"address": VIP, "port": port, "protocol": protocol, "way": way, "check": 80,
                "backends": backends})
        };
        self.write_all(mode, "61000-65535", &[service(80, "TCP"), service(53, "UDP")]);
    }

    fn write_all(&self, mode: &str, ports: &str, services: &[Value]) {
        let wanted = json!({"interface": "f0", "mode": mode, "pins": self.pins, "ports": ports,
            "services": services});
        // As an editor does it: never half of it.
        let new = self.file.with_extension("new");
        std::fs::write(&new, wanted.to_string()).unwrap();
        std::fs::rename(&new, &self.file).unwrap();
    }

    fn start(&self) -> Process {
        let file = self.file.clone();
        self.front.run(move || Process::start(&file))
    }

    /// Whether new connections go to these, and to nobody else.
    fn until_new_go_to(&self, expected: &[u8]) {
        self.until_new_at(VIP.into(), expected);
    }

    fn until_new_at(&self, address: IpAddr, expected: &[u8]) {
        let expected: BTreeSet<u8> = expected.iter().copied().collect();
        self.client.run(move || {
            let end = Instant::now() + SOON;
            loop {
                let all = (0..40).map(|_| ask_once(&mut connect_to(address)?).ok());
                let seen: Option<BTreeSet<u8>> = all.collect();
                if seen.as_ref() == Some(&expected) {
                    return;
                }
                assert!(Instant::now() < end, "{seen:?}, not {expected:?}");
            }
        });
    }
}

/// The server; ended when dropped.
struct Process(Child);

impl Process {
    fn start(file: &Path) -> Self {
        let own = std::env::current_exe().unwrap();
        let program = own.ancestors().nth(2).unwrap().join("examples/front_serve");
        let mut process = Command::new(program).arg(file).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(process)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn connect() -> Option<TcpStream> {
    connect_to(VIP.into())
}

fn connect_to(address: IpAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((address, 80)), PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Some(stream)
}

fn ask_once(stream: &mut TcpStream) -> std::io::Result<u8> {
    let mut byte = [0];
    stream.write_all(b"?")?;
    stream.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// Asks on each connection once more; those of `except` may be gone.
fn still_there(connections: &mut [(TcpStream, u8)], except: Option<u8>) {
    for (stream, backend) in connections.iter_mut().filter(|(_, of)| Some(*of) != except) {
        let said = ask_once(stream);
        assert!(matches!(said, Ok(byte) if byte == *backend), "{said:?} at {backend}");
    }
}

fn backends(lasts: &[u8]) -> Value {
    lasts.iter().map(|last| json!({"address": format!("10.77.0.{last}")})).collect()
}

fn connections_stay_where_they_are(mode: &'static str) {
    if !super::may_run() {
        return;
    }
    let net = Net::new();
    let mut other = None;
    if mode == "native" {
        // What a driver sends into a cable is only taken by an end that has a program too.
        let (pins, file) = (net.pins.clone(), net.file.with_extension("other"));
        let empty = json!({"interface": "p-f0", "mode": mode, "source": "10.77.0.3", "pins": pins,
            "services": []});
        std::fs::write(&file, empty.to_string()).unwrap();
        other = Some(net.bridge.run(move || {
            run(&format!("mount -t bpf bpf {}", pins.display()));
            std::fs::write("/proc/sys/net/ipv4/conf/p-f0/forwarding", "1").unwrap();
            Process::start(&file)
        }));
        // A cable carries packets without their checksums; a driver hands them on as they are.
        net.client.run(|| run("ethtool -K c0 tx off"));
    }
    net.write(mode, "routed", backends(&[11, 12]));
    let first = net.start();
    net.until_new_go_to(&[11, 12]);
    let mut open: Vec<(TcpStream, u8)> = net.client.run(|| {
        let connected = (0..40).map(|_| connect().expect("it connects"));
        connected.map(|mut stream| ask_once(&mut stream).map(|of| (stream, of)).unwrap()).collect()
    });
    assert_eq!(open.iter().map(|(_, of)| *of).collect::<BTreeSet<_>>(), [11, 12].into());

    // One more: nobody moves, and it gets new ones.
    net.write(mode, "routed", backends(&[11, 12, 13]));
    net.until_new_go_to(&[11, 12, 13]);
    still_there(&mut open, None);

    // One drains: it keeps its own, and gets no new ones.
    let mut draining = backends(&[11, 12, 13]);
    draining[1]["drain"] = json!(true);
    net.write(mode, "routed", draining);
    net.until_new_go_to(&[11, 13]);
    still_there(&mut open, None);

    // Killed, the kernel forwards on; the next process takes over, and nobody notices.
    drop(first);
    net.until_new_go_to(&[11, 13]);
    still_there(&mut open, None);
    let second = net.start();
    still_there(&mut open, None);

    // One goes: its own are refused, the others' stay.
    net.write(mode, "routed", backends(&[12, 13]));
    net.until_new_go_to(&[12, 13]);
    still_there(&mut open, Some(11));
    for (stream, _) in open.iter_mut().filter(|(_, of)| *of == 11) {
        assert!(ask_once(stream).is_err(), "another backend knows nothing of it");
    }

    // One that takes no connections gets none.
    net.backends[2].run(|| run("ip link set b3 down"));
    net.until_new_go_to(&[12]);
    net.backends[2].run(|| run("ip link set b3 up"));
    net.until_new_go_to(&[12, 13]);
    still_there(&mut open, Some(11));

    // UDP by the same way.
    let said = net.client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((VIP, 53)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(b"?").unwrap();
        let mut byte = [0];
        socket.recv(&mut byte).map(|_| byte[0])
    });
    assert!([12, 13].contains(&said.unwrap()));

    drop((second, other));
    let pins = net.pins.clone();
    let (shown, lost) = net.front.run(move || {
        let shown = berth_balancer::l4::front::show(&pins, "f0").unwrap();
        assert!(berth_balancer::l4::front::off(&pins, "f0").unwrap());
        assert!(!berth_balancer::l4::front::off(&pins, "f0").unwrap());
        shown
    });
    let load = |last: u8| {
        let of = shown.iter().filter(|one| one.backend == IpAddr::from([10, 77, 0, last]));
        of.map(|one| one.load.connections).sum::<u64>()
    };
    assert!(load(12) > 20 && load(13) > 20, "{shown:?}");
    assert!(lost.moved > 0, "{lost:?}");
    // The kernel takes a program off a moment after nobody holds it any more.
    let end = Instant::now() + SOON;
    loop {
        let told = net.front.run(|| {
            let ran = Command::new("ip").args(["link", "show", "dev", "f0"]).output().unwrap();
            String::from_utf8_lossy(&ran.stdout).into_owned()
        });
        if !told.contains("xdp") {
            return;
        }
        assert!(Instant::now() < end, "{told}");
    }
}

#[test]
fn before_the_network_stack() {
    connections_stay_where_they_are("generic");
}

#[test]
fn in_the_driver() {
    connections_stay_where_they_are("native");
}

/// Who answers a datagram to the service's port 53.
fn ask_udp(address: IpAddr) -> std::io::Result<u8> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((address, 53))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"?")?;
    let mut byte = [0];
    socket.recv(&mut byte).map(|_| byte[0])
}

/// Forty connections of the client's, and who answers each.
fn open_forty(net: &Net, address: IpAddr) -> Vec<(TcpStream, u8)> {
    net.client.run(move || {
        let connected = (0..40).map(|_| connect_to(address).expect("it connects"));
        connected.map(|mut stream| ask_once(&mut stream).map(|of| (stream, of)).unwrap()).collect()
    })
}

#[test]
fn ipv6_goes_by_the_same_ways() {
    if !super::may_run() {
        return;
    }
    let net = Net::new();
    let write = |lasts: &[u8]| {
        let backends: Vec<_> =
            lasts.iter().map(|last| json!({"address": format!("fd77::{last}")})).collect();
        let service = |port: u16, protocol: &str| {
            json!({"address": VIP6, "port": port, "protocol": protocol, "check": 80,
                "backends": backends})
        };
        net.write_all("generic", "61000-65535", &[service(80, "TCP"), service(53, "UDP")]);
    };
    write(&[11, 12]);
    let first = net.start();
    net.until_new_at(VIP6.into(), &[11, 12]);
    let mut open = open_forty(&net, VIP6.into());
    assert_eq!(open.iter().map(|(_, of)| *of).collect::<BTreeSet<_>>(), [11, 12].into());
    write(&[11, 12, 13]);
    net.until_new_at(VIP6.into(), &[11, 12, 13]);
    still_there(&mut open, None);
    drop(first);
    still_there(&mut open, None);
    let second = net.start();
    write(&[12, 13]);
    net.until_new_at(VIP6.into(), &[12, 13]);
    still_there(&mut open, Some(11));
    assert!([12, 13].contains(&net.client.run(|| ask_udp(VIP6.into())).unwrap()));
    drop(second);
}

#[test]
fn translated_backends_see_the_front_and_clients_the_service() {
    if !super::may_run() {
        return;
    }
    let net = Net::new();
    // A cable carries packets without their checksums, and who changes packets needs them.
    net.client.run(|| run("ethtool -K c0 tx off"));
    for (side, name) in net.backends.iter().zip(["b1", "b2", "b3"]) {
        side.run(move || run(&format!("ethtool -K {name} tx off")));
    }
    let write = |ports: &str, lasts: &[u8]| {
        let all = [(IpAddr::from(VIP), "10.77.0."), (VIP6.into(), "fd77::")];
        let services = all.map(|(address, network)| {
            let backends = |port: u16| {
                let one = |last: &u8| json!({"address": format!("{network}{last}"), "port": port});
                lasts.iter().map(one).collect::<Vec<_>>()
            };
            let service = |port: u16, protocol: &str, backend: u16| {
                json!({"address": address, "port": port, "protocol": protocol, "check": 8080,
                    "way": "translated", "backends": backends(backend)})
            };
            [service(80, "TCP", 8080), service(53, "UDP", 53)]
        });
        net.write_all("generic", ports, &services.concat());
    };
    write("61000-65535", &[11, 12]);
    let first = net.start();
    let mut open = Vec::new();
    for address in [IpAddr::from(VIP), VIP6.into()] {
        net.until_new_at(address, &[11, 12]);
        open.append(&mut open_forty(&net, address));
        assert!([11, 12].contains(&net.client.run(move || ask_udp(address)).unwrap()));
    }
    // Who comes and who goes moves nobody else; the process may die.
    write("61000-65535", &[12, 13]);
    net.until_new_go_to(&[12, 13]);
    still_there(&mut open, Some(11));
    drop(first);
    still_there(&mut open, Some(11));
    let told = |net: &Net| {
        let pins = net.pins.clone();
        net.front.run(move || berth_balancer::l4::front::show(&pins, "f0").unwrap().1)
    };
    assert_eq!(told(&net).no_port, 0);

    // With as few ports as there can be, those that are taken stay whose they are.
    write("50000-50001", &[12]);
    let second = net.start();
    let only_one = || {
        let pins = net.pins.clone();
        let shown = net.front.run(move || berth_balancer::l4::front::show(&pins, "f0").unwrap().0);
        let mut there = shown.iter().filter(|one| one.there);
        there.all(|one| ["10.77.0.12", "fd77::12"].contains(&&*one.backend.to_string()))
    };
    let end = Instant::now() + SOON;
    while !only_one() {
        assert!(Instant::now() < end, "the others are still there");
    }
    net.client.run(|| {
        let end = Instant::now() + SOON;
        let mut first: Vec<TcpStream> = Vec::new();
        while first.len() < 2 {
            first.extend(connect_to(VIP.into()));
            assert!(Instant::now() < end, "two connect");
        }
        assert!(connect_to(VIP.into()).is_none(), "there is no third port");
        for stream in &mut first {
            assert_eq!(ask_once(stream).unwrap(), 12);
        }
    });
    assert!(told(&net).no_port > 0);
    drop(second);
}

#[test]
fn a_tunnel_carries_ipv6_in_ipv6() {
    if !super::may_run() {
        return;
    }
    let net = Net::new();
    let service = json!({"address": VIP6, "port": 53, "protocol": "UDP", "way": "tunnelled",
        "backends": [{"address": "fd77::11"}]});
    net.write_all("generic", "61000-65535", &[service]);
    let process = net.start();
    let (sender, came) = mpsc::channel();
    let (ready, listening) = mpsc::channel();
    net.backends[0].run(move || {
        let within = Some(socket2::Protocol::from(41));
        let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::RAW, within);
        let mut socket = socket.unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        std::thread::spawn(move || {
            ready.send(()).unwrap();
            let mut packet = [0; 2000];
            let length = socket.read(&mut packet).unwrap();
            sender.send(packet[..length].to_vec()).unwrap();
        });
    });
    listening.recv().unwrap();
    let again = Duration::from_millis(200);
    let packet = (0..PATIENCE.as_millis() / again.as_millis()).find_map(|_| {
        net.client.run(|| {
            let socket = UdpSocket::bind("[fd77::1]:4000").unwrap();
            socket.send_to(b"through the tunnel", (VIP6, 53)).unwrap();
        });
        came.recv_timeout(again).ok()
    });
    // A raw socket of IPv6 gives what is within.
    let packet = packet.expect("it comes through");
    assert_eq!((packet[0] >> 4, packet[6], packet.len()), (6, 17, 40 + 8 + 18));
    let client: Ipv6Addr = "fd77::1".parse().unwrap();
    assert_eq!((&packet[8..24], &packet[24..40]), (&client.octets()[..], &VIP6.octets()[..]));
    assert!(packet.ends_with(b"through the tunnel"));
    drop(process);
}

#[test]
fn a_tunnel_carries_the_packet_as_it_was() {
    if !super::may_run() {
        return;
    }
    let net = Net::new();
    net.write("generic", "tunnelled", backends(&[11]));
    let process = net.start();
    let (sender, came) = mpsc::channel();
    let (ready, listening) = mpsc::channel();
    net.backends[0].run(move || {
        let ipip = Some(socket2::Protocol::from(4));
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, ipip);
        let mut socket = socket.unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        std::thread::spawn(move || {
            ready.send(()).unwrap();
            let mut packet = [0; 2000];
            let length = socket.read(&mut packet).unwrap();
            sender.send(packet[..length].to_vec()).unwrap();
        });
    });
    listening.recv().unwrap();
    // The first may be lost while the way to the backend is being found.
    let again = Duration::from_millis(200);
    let packet = (0..PATIENCE.as_millis() / again.as_millis()).find_map(|_| {
        net.client.run(|| {
            let socket = UdpSocket::bind("10.77.0.1:4000").unwrap();
            socket.send_to(b"through the tunnel", (VIP, 53)).unwrap();
        });
        came.recv_timeout(again).ok()
    });
    let packet = packet.expect("it comes through");
    assert_eq!((packet[0], packet[9], packet.len()), (0x45, 4, 20 + 20 + 8 + 18));
    assert_eq!((&packet[12..16], &packet[16..20]), (&[10, 77, 0, 2][..], &[10, 77, 0, 11][..]));
    assert_eq!((packet[20], packet[29]), (0x45, 17));
    assert_eq!((&packet[32..36], &packet[36..40]), (&[10, 77, 0, 1][..], &VIP.octets()[..]));
    assert_eq!(&packet[40..44], &[0x0F, 0xA0, 0, 53]);
    assert!(packet.ends_with(b"through the tunnel"));
    drop(process);
}

#[test]
fn what_cannot_be_right_is_refused_and_named() {
    if !super::may_run() {
        return;
    }
    let net = Net::new();
    net.front.run(|| std::fs::write("/proc/sys/net/ipv4/conf/f0/forwarding", "0").unwrap());
    net.write("generic", "routed", backends(&[11]));
    let file = net.file.clone();
    let told = net.front.run(move || {
        let own = std::env::current_exe().unwrap();
        let program = own.ancestors().nth(2).unwrap().join("examples/front_serve");
        let ran = Command::new(program).arg(&file).output().unwrap();
        assert!(!ran.status.success());
        String::from_utf8_lossy(&ran.stderr).into_owned()
    });
    assert!(told.contains("net.ipv4.conf.f0.forwarding=1"), "{told}");
}
