//! A server and a client, each at its end of a virtual cable.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use berth_tests::until;
use nix::sched::{CloneFlags, unshare};

use crate::group_api::side::{Place, pin};
use crate::server::spent;

const START: Duration = Duration::from_secs(30);
const SERVER: &str = "10.88.0.2";

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ours,
    Knot,
    KnotXdp,
    Reflector,
}

/// What a round gave; all but the time a second.
pub struct Done {
    pub sent: f64,
    pub answered: f64,
    pub wrong: f64,
    pub seconds: f64,
}

/// One server with its client.
pub struct Cable {
    pub kind: Kind,
    server: Child,
    /// What lets all through to a server that has no program.
    pass: Option<Child>,
    flood: Child,
    orders: ChildStdin,
    told: BufReader<ChildStdout>,
    /// The kernel thread that polls the server's end.
    poller: i32,
    _sides: [Side; 2],
}

/// `nNNNNN A` for each name.
pub fn zone(dir: &Path, names: u32) -> Result<PathBuf> {
    let mut text = String::from(
        "$ORIGIN bench.example.\n$TTL 3600\n@ SOA ns admin 1 7200 1800 86400 60\n@ NS ns\n\
         ns A 127.0.0.1\n",
    );
    for number in 0..names {
        let [_, a, b, c] = number.to_be_bytes();
        writeln!(text, "n{number:05} A 10.{a}.{b}.{c}")?;
    }
    let path = dir.join("bench.zone");
    std::fs::write(&path, text)?;
    Ok(path)
}

impl Cable {
    /// Starts both; `None` where the server is not installed.
    pub fn start(kind: Kind, dir: &Path, zone: &Path) -> Result<Option<Self>> {
        if matches!(kind, Kind::Knot | Kind::KnotXdp) && !Path::new("/usr/sbin/knotd").exists() {
            eprintln!("knot is not installed: no figure beside it");
            return Ok(None);
        }
        let (client, server) = (Side::new()?, Side::new()?);
        let (here, there) = (names_of(kind, 'c'), names_of(kind, 's'));
        let (other, words) = (server.id, [here.clone(), there.clone()]);
        client.run(move || {
            let [here, there] = &words;
            run(&format!("ip link add {here} type veth peer name {there} netns {other}"))?;
            run(&format!("ip address add 10.88.0.1/24 dev {here}"))?;
            run(&format!("ip link set {here} up"))
        })?;
        let end = there.clone();
        server.run(move || {
            run(&format!("ip address add {SERVER}/24 dev {end}"))?;
            run(&format!("ip link set {end} up"))
        })?;
        let command = command(kind, dir, zone, &there)?;
        let (process, pass, to_mac) = server.run(move || {
            let mac = mac(&there)?;
            // Without a program an end takes nothing that the other's driver sends.
            let mut pass = Command::new(example("dns_reflector")?);
            pass.args([&there, "pass"]);
            let pass = match kind {
                Kind::Knot => Some(spawn(pass, Kind::Reflector)?),
                _ => None,
            };
            Ok((spawn(command, kind)?, pass, mac))
        })?;
        let from = here.clone();
        let mut flood = client.run(move || {
            // Without an answer to "who has", Knot by sockets could not answer.
            run(&format!("ip neigh replace {SERVER} lladdr {to_mac} dev {from}"))?;
            let own = mac(&from)?;
            let mut command = Command::new(example("dns_flood")?);
            command.args([&from, &own, &to_mac, "10.88.0.1", SERVER]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            Ok(command.spawn()?)
        })?;
        let orders = flood.stdin.take().context("it is piped")?;
        let mut told = BufReader::new(flood.stdout.take().context("it is piped")?);
        let mut line = String::new();
        told.read_line(&mut line)?;
        ensure!(line == "ready\n", "the client did not begin");
        // After the programs are on: a driver makes its pollers anew for each.
        let ours = names_of(kind, 'c');
        client.run(move || polled(&ours, Place::Client).map(drop))?;
        let theirs = names_of(kind, 's');
        let poller = server.run(move || polled(&theirs, Place::Server))?;
        pin(i32::try_from(process.id())?, Place::Server)?;
        let sides = [client, server];
        let mut cable =
            Self { kind, server: process, pass, flood, orders, told, poller, _sides: sides };
        until(&format!("{} answers", cable.name()), START, || {
            cable.run(5_000, 50, 1).is_ok_and(|done| done.answered > 1000.0 && done.wrong == 0.0)
        })?;
        Ok(Some(cable))
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Ours => "ours",
            Kind::Knot => "knot by sockets",
            Kind::KnotXdp => "knot by AF_XDP",
            Kind::Reflector => "reflector",
        }
    }

    /// Offers `rate` questions a second for so many milliseconds, for the first `names` at random.
    pub fn run(&mut self, rate: u64, milliseconds: u64, names: u32) -> Result<Done> {
        writeln!(self.orders, "{rate} {milliseconds} {names}")?;
        let mut line = String::new();
        self.told.read_line(&mut line)?;
        let numbers: Vec<f64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [sent, answered, wrong, micros] = numbers.as_slice() else { bail!("said {line:?}") };
        let seconds = micros / 1e6;
        let [sent, answered, wrong] = [sent, answered, wrong].map(|number| number / seconds);
        Ok(Done { sent, answered, wrong, seconds })
    }

    /// Processor time so far of the server and of what polls its end of the cable.
    pub fn cpu(&self) -> Result<Duration> {
        let server = i32::try_from(self.server.id())?;
        let nanoseconds: u64 = [server, self.poller].into_iter().map(spent).sum();
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Nanoseconds and runs of the program that the server loaded.
    pub fn program(&self) -> Result<(u64, u64)> {
        let dir = format!("/proc/{}/fdinfo", self.server.id());
        for entry in std::fs::read_dir(dir)? {
            let text = std::fs::read_to_string(entry?.path()).unwrap_or_default();
            let of = |word: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(word))?;
                line.trim().parse::<u64>().ok()
            };
            if let (Some(time), Some(runs)) = (of("run_time_ns:"), of("run_cnt:")) {
                return Ok((time, runs));
            }
        }
        bail!("the server has no program")
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for process in [&mut self.flood, &mut self.server].into_iter().chain(&mut self.pass) {
            // One that has ended by itself cannot be killed, and need not be.
            drop(process.kill());
            drop(process.wait());
        }
    }
}

fn names_of(kind: Kind, side: char) -> String {
    let word = match kind {
        Kind::Ours => "ours",
        Kind::Knot => "knot",
        Kind::KnotXdp => "kxdp",
        Kind::Reflector => "refl",
    };
    format!("{side}{word}")
}

fn example(name: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("examples").join(name))
}

/// How a server is started at its end `interface`.
fn command(kind: Kind, dir: &Path, zone: &Path, interface: &str) -> Result<Command> {
    let listen = format!("{SERVER}:53");
    Ok(match kind {
        Kind::Ours => {
            let mut command = Command::new(example("dns_serve")?);
            command.arg(listen).arg(zone).args([interface, "native"]);
            command
        }
        Kind::Reflector => {
            let mut command = Command::new(example("dns_reflector")?);
            command.args([interface, "reflect"]);
            command
        }
        Kind::Knot | Kind::KnotXdp => {
            let home = dir.join(interface);
            std::fs::create_dir_all(&home)?;
            let shown = home.display();
            let listen = match kind {
                Kind::Knot => format!("  listen: {SERVER}@53\n"),
                _ => format!("xdp:\n  listen: {interface}@53\n"),
            };
            let (sockets, xdp) =
                if kind == Kind::Knot { (listen.as_str(), "") } else { ("", listen.as_str()) };
            let config = format!(
                "server:\n  rundir: {shown}\n{sockets}  udp-workers: 1\n  tcp-workers: 1\n  \
                 background-workers: 1\n{xdp}database:\n  storage: {shown}\nzone:\n  \
                 - domain: bench.example.\n    file: {}\n    zonefile-sync: -1\n    \
                 journal-content: none\n",
                zone.display()
            );
            std::fs::write(home.join("knot.conf"), config)?;
            let mut command = Command::new("/usr/sbin/knotd");
            command.arg("-c").arg(home.join("knot.conf"));
            command
        }
    })
}

/// Starts it; our own say when they are ready.
fn spawn(mut command: Command, kind: Kind) -> Result<Child> {
    let says = matches!(kind, Kind::Ours | Kind::Reflector);
    let to = if says { Stdio::piped() } else { Stdio::null() };
    let mut process = command.stdin(Stdio::null()).stdout(to).stderr(Stdio::null()).spawn()?;
    if says {
        let mut line = String::new();
        let told = process.stdout.take().context("it is piped")?;
        BufReader::new(told).read_line(&mut line)?;
        ensure!(line == "ready\n", "{kind:?} did not begin");
    }
    Ok(process)
}

/// Has a kernel thread poll the interface, in its place; its id. In the interface's namespace.
fn polled(interface: &str, place: Place) -> Result<i32> {
    std::fs::write(format!("/sys/class/net/{interface}/threaded"), "1")?;
    let wanted = format!("napi/{interface}-");
    let mut found = None;
    until(&format!("{interface} is polled"), START, || {
        let Ok(all) = std::fs::read_dir("/proc") else { return false };
        found = all.flatten().find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse::<i32>().ok()?;
            let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
            name.starts_with(&wanted).then_some(pid)
        });
        found.is_some()
    })?;
    let pid = found.context("it was found")?;
    pin(pid, place)?;
    if matches!(place, Place::Client) {
        // Beside the client, which never waits, it would come too late for what the cable holds.
        run(&format!("chrt -f -p 5 {pid}"))?;
    }
    Ok(pid)
}

fn mac(interface: &str) -> Result<String> {
    let path = format!("/sys/class/net/{interface}/address");
    Ok(std::fs::read_to_string(path)?.trim().to_owned())
}

fn run(words: &str) -> Result<()> {
    let mut parts = words.split_whitespace();
    let program = parts.next().context("a program is named")?;
    let ran = Command::new(program).args(parts).output();
    let ran = ran.with_context(|| format!("running {program}"))?;
    ensure!(ran.status.success(), "{words}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

/// A thread in namespaces of its own that does what it is told; they end with it.
struct Side {
    jobs: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    id: i32,
}

impl Side {
    fn new() -> Result<Self> {
        let (sender, jobs) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (told, id) = mpsc::channel();
        std::thread::spawn(move || {
            let begin = || -> Result<i32> {
                unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
                run("mount --make-rprivate /")?;
                // What /sys says of interfaces is of the namespace that mounted it.
                run("mount -t sysfs sysfs /sys")?;
                run("ip link set lo up")?;
                Ok(nix::unistd::gettid().as_raw())
            };
            let begun = begin();
            let works = begun.is_ok();
            drop(told.send(begun));
            if works {
                jobs.iter().for_each(|job| job());
            }
        });
        Ok(Self { jobs: sender, id: id.recv()?? })
    }

    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, done) = mpsc::channel();
        let sent = self.jobs.send(Box::new(move || drop(sender.send(job()))));
        ensure!(sent.is_ok(), "the namespace is gone");
        done.recv()?
    }
}
