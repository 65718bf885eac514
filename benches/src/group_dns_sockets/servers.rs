//! The servers that are measured, each with one thread for UDP, on free loopback ports.

use std::fmt::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::server::Server;

/// Writes a zone of `names` names with as many addresses each as `addresses` says.
pub fn zone(dir: &Path, name: &str, names: u32, addresses: fn(u32) -> u32) -> Result<PathBuf> {
    let mut text = String::from(
        "$ORIGIN bench.example.\n$TTL 3600\n@ SOA ns admin 1 7200 1800 86400 60\n@ NS ns\n\
         ns A 127.0.0.1\n",
    );
    for number in 0..names {
        for address in 0..addresses(number) {
            let [_, a, b, c] = (number * 16 + address).to_be_bytes();
            writeln!(text, "n{number} A 10.{a}.{b}.{c}")?;
        }
    }
    let path = dir.join(format!("{name}.zone"));
    std::fs::write(&path, text)?;
    Ok(path)
}

/// Milliseconds until each of `changes` is answered, with so many services.
pub fn changes(services: u32, changes: u32) -> Result<Vec<f64>> {
    let path = std::env::current_exe()?.with_file_name("examples").join("dns_changes");
    let output = Command::new(&path)
        .args([services.to_string(), changes.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {}", path.display()))?;
    anyhow::ensure!(output.status.success(), "dns_changes ended with {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| line.parse().context("no number")).collect()
}

/// Ours, with a zone file.
pub fn ours(zone: &Path) -> Result<Server> {
    let words = [zone.display().to_string()];
    example("ours", "dns_serve", &words)
}

/// Ours, forwarding.
pub fn forwarding(upstream: u16) -> Result<Server> {
    example("ours", "dns_serve", &[format!("127.0.0.1:{upstream}")])
}

/// What knows nothing.
pub fn responder() -> Result<Server> {
    example("responder", "dns_responder", &[])
}

/// Knot DNS; `None` where it is not installed.
pub fn knot(dir: &Path, zone: &Path) -> Result<Option<Server>> {
    let home = dir.join("knot");
    std::fs::create_dir_all(&home)?;
    let (shown, [port]) = (home.display(), berth_tests::free_ports()?);
    let config = format!(
        "server:\n  rundir: {shown}\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  \
         tcp-workers: 1\n  background-workers: 1\ndatabase:\n  storage: {shown}\nzone:\n  \
         - domain: bench.example.\n    file: {}\n    zonefile-sync: -1\n    \
         journal-content: none\n",
        zone.display()
    );
    std::fs::write(home.join("knot.conf"), config)?;
    let words = ["-c".into(), home.join("knot.conf").display().to_string()];
    Server::installed("knot", "/usr/sbin/knotd", &words, port, answers)
}

/// NSD; `None` where it is not installed.
pub fn nsd(dir: &Path, zone: &Path) -> Result<Option<Server>> {
    let home = dir.join("nsd");
    std::fs::create_dir_all(&home)?;
    let (shown, [port]) = (home.display(), berth_tests::free_ports()?);
    let config = format!(
        "server:\n  ip-address: 127.0.0.1@{port}\n  server-count: 1\n  username: \"\"\n  \
         zonesdir: \"{shown}\"\n  pidfile: \"{shown}/pid\"\n  xfrdfile: \"{shown}/xfrd\"\n  \
         zonelistfile: \"{shown}/list\"\n  xfrdir: \"{shown}\"\n  database: \"\"\n  \
         rrl-ratelimit: 0\nremote-control:\n  control-enable: no\nzone:\n  \
         name: bench.example\n  zonefile: \"{}\"\n",
        zone.display()
    );
    std::fs::write(home.join("nsd.conf"), config)?;
    let config = home.join("nsd.conf").display().to_string();
    let words = ["-d".into(), "-c".into(), config];
    Server::installed("nsd", "/usr/sbin/nsd", &words, port, answers)
}

/// dnsdist with its packet cache and batches of 64; `None` where it is not installed.
pub fn dnsdist(dir: &Path, upstream: u16) -> Result<Option<Server>> {
    let home = dir.join("dnsdist");
    std::fs::create_dir_all(&home)?;
    let [port] = berth_tests::free_ports()?;
    let config = format!(
        "setLocal('127.0.0.1:{port}')\nsetUDPMultipleMessagesVectorSize(64)\n\
         newServer({{address='127.0.0.1:{upstream}'}}):setUp()\n\
         getPool(''):setCache(newPacketCache(200000, {{maxTTL=86400}}))\n\
         setSecurityPollSuffix('')\nsetMaxUDPOutstanding(10000)\n"
    );
    let path = home.join("dnsdist.conf");
    std::fs::write(&path, config)?;
    let words = ["--supervised".into(), "-C".into(), path.display().to_string()];
    Server::installed("dnsdist", "/usr/bin/dnsdist", &words, port, answers)
}

/// BIND with the zone; `None` where it is not installed.
pub fn bind(dir: &Path, zone: &Path) -> Result<Option<Server>> {
    let served = format!(
        "zone \"bench.example\" {{ type primary; file \"{}\"; notify no; }};\n",
        zone.display()
    );
    named("bind", &dir.join("bind"), "recursion no;", &served)
}

/// BIND that forwards and keeps what it was told; `None` where it is not installed.
pub fn bind_forwarding(dir: &Path, upstream: u16) -> Result<Option<Server>> {
    let forwards = format!(
        "recursion yes; forward only; forwarders {{ 127.0.0.1 port {upstream}; }}; \
         dnssec-validation no;"
    );
    named("bind", &dir.join("bind-forwarding"), &forwards, "")
}

fn named(name: &'static str, home: &Path, options: &str, served: &str) -> Result<Option<Server>> {
    std::fs::create_dir_all(home)?;
    let (shown, [port]) = (home.display(), berth_tests::free_ports()?);
    let config = format!(
        "options {{ directory \"{shown}\"; listen-on port {port} {{ 127.0.0.1; }}; \
         listen-on-v6 {{ none; }}; pid-file none; session-keyfile none; \
         empty-zones-enable no; minimal-responses yes; {options} }};\ncontrols {{ }};\n{served}"
    );
    let path = home.join("named.conf");
    std::fs::write(&path, config)?;
    // One thread, and all it says to where nobody reads it.
    let words = ["-g", "-n", "1", "-c"].map(str::to_owned);
    let words: Vec<String> = words.into_iter().chain([path.display().to_string()]).collect();
    Server::installed(name, "/usr/sbin/named", &words, port, answers)
}

/// Unbound that forwards and keeps what it was told; `None` where it is not installed.
pub fn unbound(dir: &Path, upstream: u16) -> Result<Option<Server>> {
    let home = dir.join("unbound");
    std::fs::create_dir_all(&home)?;
    let (shown, [port]) = (home.display(), berth_tests::free_ports()?);
    let config = format!(
        "server:\n  interface: 127.0.0.1\n  port: {port}\n  num-threads: 1\n  \
         do-daemonize: no\n  chroot: \"\"\n  username: \"\"\n  directory: \"{shown}\"\n  \
         pidfile: \"{shown}/pid\"\n  use-syslog: no\n  logfile: \"{shown}/log\"\n  \
         do-not-query-localhost: no\n  module-config: \"iterator\"\n  \
         msg-cache-size: 64m\n  rrset-cache-size: 128m\nremote-control:\n  \
         control-enable: no\nforward-zone:\n  name: \".\"\n  \
         forward-addr: 127.0.0.1@{upstream}\n"
    );
    let path = home.join("unbound.conf");
    std::fs::write(&path, config)?;
    let words = ["-d".into(), "-c".into(), path.display().to_string()];
    Server::installed("unbound", "/usr/sbin/unbound", &words, port, answers)
}

/// One of our examples at a free port, which is its first word.
fn example(name: &'static str, program: &str, words: &[String]) -> Result<Server> {
    let [port] = berth_tests::free_ports()?;
    let mut all = vec![format!("127.0.0.1:{port}")];
    all.extend_from_slice(words);
    Server::example(name, program, &all, port, answers)
}

/// Whether it answers for a name of the zones here.
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend_from_slice(b"\x02n0\x05bench\x07example\x00\x00\x01\x00\x01");
        socket.send(&question)?;
        let mut answer = [0; 512];
        Ok(socket.recv(&mut answer)? > 12 && answer[3] & 0xF == 0 && answer[7] > 0)
    };
    ask().unwrap_or(false)
}
