//! Answers in the kernel over a virtual cable between two network namespaces, with the server as a
//! process of its own. Needs root.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid, gettid};

const SERVER: &str = "192.0.2.53";
const SERVER_6: &str = "2001:db8::53";
/// Answers by its sockets alone.
const SOCKETS: u16 = 5353;
const SOON: Duration = Duration::from_secs(10);
const ZONE: &str = "$ORIGIN example.org.\n$TTL 300\n@ SOA ns admin 1 7200 1800 86400 60\n@ NS ns\n\
    ns A 192.0.2.53\none A 192.0.2.1\nmany A 10.0.0.1\nmany A 10.0.0.2\nmany A 10.0.0.3\n\
    six AAAA 2001:db8::1\nalias CNAME many\ntext TXT \"a\"\ntext TXT \"longer\"\n\
    _http._tcp SRV 0 1 80 one\n*.wild A 10.1.1.1\nsub NS ns.sub\nns.sub A 10.2.2.2\n";

fn run(words: &str) -> String {
    let mut parts = words.split_whitespace();
    let done = Command::new(parts.next().expect("a program")).args(parts).output();
    let done = done.expect("it runs");
    assert!(done.status.success(), "{words}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn may_run() -> bool {
    let may = geteuid().is_root();
    assert!(may || std::env::var_os("CI").is_none(), "network namespaces need root");
    if !may {
        eprintln!("skipped: network namespaces need root");
    }
    may
}

/// A server process; ended when dropped.
struct Server(Child);

impl Server {
    /// Answers `zone` on all addresses, and as `kernel` says in the kernel too.
    fn start(port: u16, zone: &std::path::Path, kernel: &[&str]) -> Self {
        let listen = format!("[::]:{port}");
        let words = [&[listen.as_str(), zone.to_str().expect("text")], kernel].concat();
        Self::example("dns_serve", &words)
    }

    /// One of the crate's examples, which says when it is ready.
    fn example(name: &str, words: &[&str]) -> Self {
        let own = std::env::current_exe().expect("a path");
        let target = own.parent().and_then(|deps| deps.parent()).expect("target/PROFILE/deps");
        let mut process = Command::new(target.join("examples").join(name))
            .args(words)
            .stdout(Stdio::piped())
            .spawn()
            .expect("cargo builds examples for tests");
        let mut line = String::new();
        let told = process.stdout.take().expect("it is piped");
        BufReader::new(told).read_line(&mut line).expect("it says something");
        assert_eq!(line, "ready\n");
        Self(process)
    }

    /// None of its threads runs after this.
    fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let pid = self.pid();
        let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("it is ours");
        assert_eq!(stopped, WaitStatus::Stopped(pid, Signal::SIGSTOP));
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it is there");
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One end of the cable: a thread in a namespace of its own that does what it is told.
struct Side(mpsc::Sender<Box<dyn FnOnce() + Send>>, i32);

impl Side {
    fn new() -> Self {
        let (sender, jobs) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (told, id) = mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may");
            run("ip link set lo up");
            told.send(gettid().as_raw()).expect("it waits");
            jobs.iter().for_each(|job| job());
        });
        Self(sender, id.recv().expect("it begins"))
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, done) = mpsc::channel();
        self.0.send(Box::new(move || drop(sender.send(job())))).expect("it waits");
        done.recv().expect("it does not panic")
    }
}

/// A client and a server side, joined by the cable c0 - s0.
fn joined() -> (Side, Side) {
    let (client, server) = (Side::new(), Side::new());
    let other = server.1;
    client.run(move || {
        run(&format!("ip link add c0 type veth peer name s0 netns {other}"));
        run("ip address add 192.0.2.1/24 dev c0");
        run("ip address add 2001:db8::1/64 dev c0 nodad");
        run("ip link set c0 up");
    });
    server.run(|| {
        run(&format!("ip address add {SERVER}/24 dev s0"));
        run(&format!("ip address add {SERVER_6}/64 dev s0 nodad"));
        run("ip link set s0 up");
    });
    (client, server)
}

fn question(name: &str, kind: u16, id: u16) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in format!("{name}.example.org").split('.').filter(|label| !label.is_empty()) {
        packet.push(label.len() as u8);
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend([kind.to_be_bytes(), [0, 1]].concat());
    packet
}

/// The answer, or nothing within `patience`.
fn ask(server: &str, port: u16, packet: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let to = SocketAddr::new(server.parse::<IpAddr>().expect("an address"), port);
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).expect("a port");
    socket.connect(to).expect("a route");
    socket.set_read_timeout(Some(patience)).expect("not zero");
    socket.send(packet).expect("sent");
    let mut answer = [0; 1500];
    socket.recv(&mut answer).ok().map(|length| answer[..length].to_vec())
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < end, "{what}, not within {SOON:?}");
        std::thread::yield_now();
    }
}

fn zone_file(dir: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = dir.path().join("example.zone");
    std::fs::write(&path, text).expect("written");
    path
}

fn names_are_answered_in_the_kernel(mode: &'static str) {
    if !may_run() {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let path = zone_file(&dir, ZONE);
    let (client, server) = joined();
    // What a driver sends into a cable is only taken by an end that has a program too.
    let other = (mode == "native")
        .then(|| client.run(|| Server::example("dns_reflector", &["c0", "pass"])));
    let zone = path.clone();
    let (kernel, sockets) = server
        .run(move || (Server::start(53, &zone, &["s0", mode]), Server::start(SOCKETS, &zone, &[])));
    assert!(server.run(|| run("ip link show dev s0")).contains("xdp"));

    // Everything is answered, and by both in the same way.
    let patience = Duration::from_secs(5);
    let names = [
        ("one", 1),
        ("One", 1),
        ("one", 28),
        ("many", 1),
        ("six", 28),
        ("alias", 1),
        ("text", 16),
        ("_http._tcp", 33),
        ("", 6),
        ("x.wild", 1),
        ("h.sub", 1),
        ("nobody", 1),
        ("one", 255),
    ];
    client.run(move || {
        for (name, kind) in names {
            for address in [SERVER, SERVER_6] {
                for id in [0, 7, 0x4321] {
                    let packet = question(name, kind, id);
                    let told = ask(address, 53, &packet, patience);
                    assert!(told.is_some(), "{name} {kind} of {address}");
                    assert_eq!(told, ask(address, SOCKETS, &packet, patience), "{name} {kind}");
                }
            }
        }
    });

    // While the server stands still, the kernel answers on, and what it does not know waits.
    let hot = question("one", 1, 9);
    kernel.stop();
    let (known, cold) = (hot.clone(), question("y.wild", 1, 9));
    client.run(move || {
        for address in [SERVER, SERVER_6] {
            let told = ask(address, 53, &known, patience).expect("the kernel answers");
            assert_eq!(told.last(), Some(&1));
            assert_eq!(ask(address, 53, &cold, Duration::from_millis(200)), None);
        }
    });
    kernel.signal(Signal::SIGCONT);

    // A change is seen, in the kernel too.
    std::fs::write(&path, ZONE.replace("one A 192.0.2.1\n", "one A 192.0.2.77\n")).expect("x");
    let packet = hot.clone();
    client.run(move || {
        until("the new address", || {
            let told = ask(SERVER, 53, &packet, patience).expect("it is answered");
            told.last() == Some(&77)
        });
    });
    kernel.stop();
    let packet = hot.clone();
    let told = client.run(move || ask(SERVER, 53, &packet, patience));
    assert_eq!(told.expect("the kernel answers").last(), Some(&77));

    // Killed, it leaves nothing behind.
    drop(kernel);
    assert!(!server.run(|| run("ip link show dev s0")).contains("xdp"));
    let told = client.run(move || ask(SERVER, 53, &hot, Duration::from_millis(200)));
    assert_eq!(told, None);
    drop((sockets, other));
}

#[test]
fn before_the_network_stack() {
    names_are_answered_in_the_kernel("generic");
}

#[test]
fn in_the_driver() {
    names_are_answered_in_the_kernel("native");
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    if !may_run() {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let path = zone_file(&dir, ZONE);
    let own = std::env::current_exe().expect("a path");
    let program = own.ancestors().nth(2).expect("a folder").join("examples/dns_serve");
    let words = ["127.0.0.1:0", path.to_str().expect("text"), "nowhere0", "best"];
    let ran = Command::new(program).args(words).output().expect("it runs");
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(!ran.status.success() && told.contains("nowhere0"), "{told}");
}
