//! The group `front`: what a packet costs the machine that hands it on, over virtual cables: the
//! front (direct return, and translated), beside nftables DNAT and plain routing of the same
//! kernel. The floor is a program that sends every packet back (`dns_reflector`).
//!
//! ```text
//! client ── cable ──▶ the machine measured ── cable ──▶ backend (takes and drops)
//! ```
//!
//! The machine measured is a namespace whose end of the client's cable is polled by one kernel
//! thread, pinned to the servers' processor: its time is the cost, whoever hands the packet on. The
//! client, and what polls the backend's end, are on the other processor. All are offered the same
//! rate; rounds go from one to the next in turn.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_tests::until;
use serde_json::{Value, json};

use crate::budget::{Budget, median};
use crate::group_api::side::{self, Place};
use crate::group_dns_xdp::cable::{Side, example, mac, polled, run, spent};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(500);
/// Packets a second: what the client can send beside the thread that polls the backend's end.
const RATE: u32 = 100_000;
/// Connections at once.
const FLOWS: usize = 64;
const START: Duration = Duration::from_secs(30);
const VIP: &str = "192.0.2.10";

/// Who hands packets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Direct,
    Translated,
    Nftables,
    Routing,
    Reflector,
}

const KINDS: [Kind; 5] =
    [Kind::Direct, Kind::Translated, Kind::Nftables, Kind::Routing, Kind::Reflector];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "ours, direct return",
            Self::Translated => "ours, translated",
            Self::Nftables => "nftables DNAT",
            Self::Routing => "routing",
            Self::Reflector => "reflector",
        }
    }
}

/// Measures it.
pub fn measure() -> Result<Vec<Budget>> {
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root");
    let dir = tempfile::tempdir()?;
    let mut all = Vec::new();
    for kind in KINDS {
        all.push(Machine::start(kind, dir.path()).with_context(|| kind.name())?);
    }
    let mut costs = vec![Vec::new(); all.len()];
    for round in 0..=ROUNDS {
        for (machine, costs) in all.iter().zip(&mut costs) {
            let (sent, arrived, cost) = machine.round()?;
            // The first round only fills caches.
            if round > 0 {
                let share = arrived as f64 / sent as f64;
                ensure!(share > 0.95, "{}: {arrived} of {sent} arrived", machine.kind.name());
                costs.push(cost);
            }
        }
    }
    for (machine, costs) in all.iter().zip(&costs) {
        let middle = median(costs);
        eprintln!("{}: {middle:.3} µs of processor a packet at {RATE}/s", machine.kind.name());
    }
    let of = |kind: Kind| {
        let at = KINDS.iter().position(|one| *one == kind);
        at.map(|at| costs[at].clone()).unwrap_or_default()
    };
    let (nftables, routing) = (median(&of(Kind::Nftables)), median(&of(Kind::Routing)));
    let mut budgets = Vec::new();
    for (word, kind) in [("direct", Kind::Direct), ("translated", Kind::Translated)] {
        let name = format!("front-{word}-beside-nftables_us");
        budgets.push(Budget::at_most(&name, nftables, of(kind)).beside(Some(nftables)));
        let name = format!("front-{word}-beside-routing_us");
        budgets.push(Budget::at_most(&name, routing, of(kind)).beside(Some(routing)));
    }
    for machine in &all {
        let word = match machine.kind {
            Kind::Direct => "direct",
            Kind::Translated => "translated",
            Kind::Reflector => "reflector",
            Kind::Nftables | Kind::Routing => continue,
        };
        let Some(times) = machine.run_times()? else {
            eprintln!("bpftool is not installed: no time of the programs");
            break;
        };
        eprintln!("{}: {:.0} ns a run of the program", machine.kind.name(), median(&times));
        if word != "reflector" {
            budgets.push(Budget::at_most(&format!("front-{word}-program_ns"), 600.0, times));
        }
    }
    Ok(budgets)
}

/// A client, a machine that hands on, and a backend.
struct Machine {
    kind: Kind,
    client: Side,
    front: Side,
    backend: Side,
    processes: Vec<Child>,
    /// The kernel thread that polls the client's cable.
    poller: i32,
    pins: PathBuf,
}

impl Machine {
    fn start(kind: Kind, dir: &Path) -> Result<Self> {
        let (client, front, backend) = (Side::new()?, Side::new()?, Side::new()?);
        let (to_front, to_backend) = (front.id, backend.id);
        // Kernel threads are told apart by their interface: the names differ from kind to kind.
        let letter = char::from(b'a' + kind as u8);
        let [c, f, g, b] = ["c", "f", "g", "b"].map(|end| format!("{end}fr{letter}"));
        let (ends, near) = ((c.clone(), f.clone()), (f.clone(), g.clone(), b.clone()));
        client.run(move || {
            let (c, f) = ends;
            run(&format!("ip link add {c} type veth peer name {f} netns {to_front}"))?;
            run(&format!("ip address add 10.88.1.1/24 dev {c}"))?;
            run(&format!("ip link set {c} up"))
        })?;
        let pins = dir.join(&f);
        std::fs::create_dir_all(&pins)?;
        let mounted = pins.clone();
        let f_mac = front.run(move || {
            let (f, g, b) = near;
            run(&format!("mount -t bpf bpf {}", mounted.display()))?;
            run(&format!("ip link add {g} type veth peer name {b} netns {to_backend}"))?;
            run(&format!("ip address add 10.88.1.2/24 dev {f}"))?;
            run(&format!("ip address add 10.88.2.1/24 dev {g}"))?;
            run(&format!("ip link set {f} up"))?;
            run(&format!("ip link set {g} up"))?;
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            mac(&f)
        })?;
        let (end, out) = (b.clone(), g.clone());
        let (pass, b_mac) = backend.run(move || {
            run(&format!("ip address add 10.88.2.2/24 dev {end}"))?;
            run(&format!("ip link set {end} up"))?;
            // So that its end is polled by itself, and takes what a driver sends.
            Ok((spawn(&example("dns_reflector")?, &[&end, "pass"])?, mac(&end)?))
        })?;
        let mut processes = vec![pass];
        front.run(move || run(&format!("ip neigh replace 10.88.2.2 lladdr {b_mac} dev {out}")))?;
        let (file, at, its_pins) = (dir.join(format!("{f}.json")), f.clone(), pins.clone());
        let process = front.run(move || on(kind, &at, &file, &its_pins))?;
        processes.extend(process);
        let (end, through) = (c.clone(), f_mac);
        let passes = client.run(move || {
            run(&format!("ip neigh replace 10.88.1.2 lladdr {through} dev {end}"))?;
            run(&format!("ip route add {VIP} via 10.88.1.2"))?;
            Ok(match kind {
                // What it sends back is taken.
                Kind::Reflector => Some(spawn(&example("dns_reflector")?, &[&end, "pass"])?),
                _ => None,
            })
        })?;
        processes.extend(passes);
        // After the programs are on: a driver makes its pollers anew for each.
        let (near, far) = (f.clone(), b.clone());
        let poller = front.run(move || polled(&near, Place::Server))?;
        backend.run(move || polled(&far, Place::Client).map(drop))?;
        let machine = Self { kind, client, front, backend, processes, poller, pins };
        until("packets arrive", START, || {
            let sent = machine.send(2_000, Duration::from_millis(20));
            sent.is_ok_and(|_| machine.round_of(Duration::from_millis(50)).is_ok_and(|r| r.1 > 100))
        })?;
        Ok(machine)
    }

    /// Packets sent, packets that arrived, and microseconds for each.
    fn round(&self) -> Result<(u64, u64, f64)> {
        self.round_of(ROUND)
    }

    fn round_of(&self, time: Duration) -> Result<(u64, u64, f64)> {
        let (arrived, used) = (self.arrived()?, spent(self.poller));
        let sent = self.send(RATE, time)?;
        // What is still under way.
        let mut last = self.arrived()?;
        loop {
            std::thread::sleep(Duration::from_millis(5));
            let now = self.arrived()?;
            if now == last {
                break;
            }
            last = now;
        }
        let (arrived, used) = (last - arrived, spent(self.poller) - used);
        Ok((sent, arrived, used as f64 / 1e3 / arrived.max(1) as f64))
    }

    /// Packets so far at the end of the way.
    fn arrived(&self) -> Result<u64> {
        let read = |prefix: char| {
            move || {
                let all = std::fs::read_dir("/sys/class/net")?.flatten();
                let mut names = all.filter_map(|one| one.file_name().into_string().ok());
                let name = names.find(|name| name.starts_with(prefix) && name.contains("fr"));
                let name = name.context("the cable's end is there")?;
                let path = format!("/sys/class/net/{name}/statistics/rx_packets");
                Ok(std::fs::read_to_string(path)?.trim().parse()?)
            }
        };
        match self.kind {
            Kind::Reflector => self.client.run(read('c')),
            _ => self.backend.run(read('b')),
        }
    }

    /// Sends so many a second for so long; how many these were.
    fn send(&self, rate: u32, time: Duration) -> Result<u64> {
        self.client.run(move || {
            // The thread of a namespace is not the one that was pinned.
            side::pin(nix::unistd::gettid().as_raw(), Place::Client)?;
            let mut sockets = Vec::new();
            for flow in 0..FLOWS {
                let port = 20_000 + u16::try_from(flow)?;
                let socket = UdpSocket::bind(("10.88.1.1", port))?;
                socket.connect((VIP, 53))?;
                sockets.push(socket);
            }
            let begun = Instant::now();
            let mut sent = 0;
            while begun.elapsed() < time {
                let due = (begun.elapsed().as_secs_f64() * f64::from(rate)) as u64;
                while sent < due {
                    let socket = &sockets[sent as usize % FLOWS];
                    // One that the cable has no room for is sent and lost.
                    drop(socket.send(&[0; 32]));
                    sent += 1;
                }
                std::hint::spin_loop();
            }
            Ok(sent)
        })
    }

    /// Nanoseconds a run of the program at the client's cable, as the kernel counts them; `None`
    /// without bpftool.
    fn run_times(&self) -> Result<Option<Vec<f64>>> {
        const COUNTING: &str = "/proc/sys/kernel/bpf_stats_enabled";
        let before = std::fs::read_to_string(COUNTING)?;
        std::fs::write(COUNTING, "1")?;
        let measure = || {
            let mut all = Vec::new();
            for _ in 0..ROUNDS {
                let Some((time, runs)) = self.program()? else { return Ok(None) };
                self.round()?;
                let Some((after, more)) = self.program()? else { return Ok(None) };
                ensure!(more > runs, "the program did not run");
                all.push((after - time) as f64 / (more - runs) as f64);
            }
            Ok(Some(all))
        };
        let measured = measure();
        std::fs::write(COUNTING, before.trim())?;
        measured
    }

    /// Nanoseconds and runs so far of the program.
    fn program(&self) -> Result<Option<(u64, u64)>> {
        let shown = |words: &[&str]| -> Result<Option<Value>> {
            let ran = Command::new("bpftool").arg("-j").args(words).output();
            let Ok(ran) = ran else { return Ok(None) };
            ensure!(ran.status.success(), "bpftool: {}", String::from_utf8_lossy(&ran.stderr));
            Ok(Some(serde_json::from_slice(&ran.stdout)?))
        };
        let end = format!("ffr{}", char::from(b'a' + self.kind as u8));
        let id = self.front.run(move || {
            let told = Command::new("ip").args(["-j", "link", "show", "dev", &end]).output()?;
            let told: Value = serde_json::from_slice(&told.stdout)?;
            told.pointer("/0/xdp/prog/id").and_then(Value::as_u64).context("it has a program")
        })?;
        let Some(program) = shown(&["prog", "show", "id", &id.to_string()])? else {
            return Ok(None);
        };
        let number = |key: &str| program[key].as_u64();
        Ok(number("run_time_ns").zip(number("run_cnt")))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // One that has ended by itself cannot be killed, and need not be.
            drop(process.kill());
            drop(process.wait());
        }
        let pins = self.pins.clone();
        drop(self.front.run(move || run(&format!("umount {}", pins.display()))));
    }
}

/// Has `interface` hand packets on; the process that does, if it is one.
fn on(kind: Kind, interface: &str, file: &Path, pins: &Path) -> Result<Option<Child>> {
    match kind {
        Kind::Direct | Kind::Translated => {
            let way = if kind == Kind::Direct { "routed" } else { "translated" };
            let service = json!({"address": VIP, "port": 53, "protocol": "UDP", "way": way,
                "backends": [{"address": "10.88.2.2"}]});
            let config = json!({"interface": interface, "mode": "native", "pins": pins,
                "services": [service]});
            std::fs::write(file, config.to_string())?;
            spawn(&example("front_serve")?, &[&file.display().to_string()]).map(Some)
        }
        Kind::Reflector => spawn(&example("dns_reflector")?, &[interface, "reflect"]).map(Some),
        Kind::Nftables => {
            let rules = format!(
                "table ip b {{ chain p {{ type nat hook prerouting priority -100; \
                 ip daddr {VIP} udp dport 53 dnat to 10.88.2.2; }} }}"
            );
            std::fs::write(file, rules)?;
            run(&format!("nft -f {}", file.display()))?;
            run(&format!("ethtool -K {interface} gro on")).map(|()| None)
        }
        Kind::Routing => {
            run(&format!("ip route add {VIP} via 10.88.2.2"))?;
            // A cable's end is polled where it gathers what comes.
            run(&format!("ethtool -K {interface} gro on")).map(|()| None)
        }
    }
}

/// Starts one of ours, which says when it is ready.
fn spawn(program: &Path, words: &[&str]) -> Result<Child> {
    use std::io::{BufRead, BufReader};
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut process = command.spawn()?;
    let mut line = String::new();
    let told = process.stdout.take().context("it is piped")?;
    BufReader::new(told).read_line(&mut line)?;
    ensure!(line == "ready\n", "{} did not begin", program.display());
    Ok(process)
}
