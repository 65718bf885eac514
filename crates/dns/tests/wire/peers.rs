//! Whole zones to and from Knot and NSD, signed, with NOTIFY; DNS over TLS with kdig.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use berth_daemon::Tasks;
use berth_dns::{Config, Secondary, Tls, Transfers, TsigKey, ZoneFile};
use hickory_proto::rr::RecordType;

use super::{free_port, has_answer, query, stop, until};

const SECRET: &str = "c2VjcmV0IG9mIHRoZSB0ZXN0cyBhbG9uZSwgMzIgYnl0ZXM=";

/// A process that ends with its test.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).expect("a pid"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        for _ in 0..100 {
            if self.0.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// `None` where the program is not installed, which is no excuse in CI.
fn start(program: &str, words: &[&str]) -> Option<Peer> {
    if !Path::new(program).exists() {
        assert!(std::env::var_os("CI").is_none(), "{program} is not installed");
        eprintln!("skipped: {program} is not installed");
        return None;
    }
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Some(Peer(command.spawn().expect("it starts")))
}

fn write_zone(path: &Path, serial: u32, more: &str) {
    let text = format!(
        "$ORIGIN example.org.\n$TTL 300\n@ SOA ns admin {serial} 3600 600 86400 30\n@ NS ns\n\
         ns A 192.0.2.1\nwww A 192.0.2.{serial}\nlong TXT \"{}\"\n* MX 5 ns\n{more}",
        "x".repeat(200)
    );
    // As a whole: a reader must not see the half of it.
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("it is written");
    std::fs::rename(beside, path).expect("it is written");
}

fn key() -> TsigKey {
    TsigKey { name: "one".into(), algorithm: "hmac-sha256".into(), secret: SECRET.into() }
}

async fn ours(change: impl FnOnce(&mut Config)) -> (SocketAddr, Tasks) {
    let health = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut config = Config::new(free_port(), health, vec![]);
    config.threads = Some(1);
    config.keys = vec![key()];
    change(&mut config);
    let tasks = Tasks::new();
    let address = config.listen;
    // Reloads are of no interest here.
    drop(berth_dns::run_for(config, vec![], &tasks).await.expect("it starts"));
    (address, tasks)
}

/// Waits until `server` says that `www` has the address that goes with `serial`.
async fn has_serial(server: SocketAddr, serial: u32) {
    let wanted = format!("192.0.2.{serial}");
    let asked = query("www.example.org.", RecordType::A);
    let answers = async {
        loop {
            let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("one");
            socket.connect(server).await.expect("it connects");
            let mut bytes = [0; 1232];
            // It may not be there yet.
            let sent = socket.send(&asked).await.is_ok();
            let waited = tokio::time::timeout(Duration::from_millis(300), socket.recv(&mut bytes));
            if sent && let Ok(Ok(length)) = waited.await {
                let message = hickory_proto::op::Message::from_vec(&bytes[..length]).expect("one");
                if message.answers.iter().any(|record| record.data.to_string() == wanted) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), answers).await;
    assert!(waited.is_ok(), "{server} does not come to serial {serial}");
}

fn kdig(words: &[&str]) -> Option<String> {
    if !Path::new("/usr/bin/kdig").exists() {
        assert!(std::env::var_os("CI").is_none(), "kdig is not installed");
        eprintln!("skipped: kdig is not installed");
        return None;
    }
    let output = Command::new("/usr/bin/kdig").args(words).output().expect("it starts");
    Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn knot_and_nsd_take_our_zone_signed_and_hear_of_changes() {
    let dir = tempfile::tempdir().expect("a directory");
    let zone = dir.path().join("example.org.zone");
    write_zone(&zone, 1, "");
    let (knot, nsd) = (free_port(), free_port());
    let (address, tasks) = ours(|config| {
        config.zones = vec![ZoneFile { path: zone.clone(), origin: None }];
        config.transfers = Transfers {
            allow: vec![(IpAddr::V4(Ipv4Addr::LOCALHOST), 32)],
            key: Some("one".into()),
            notify: vec![knot, nsd],
        };
    })
    .await;
    let (port, shown) = (address.port(), dir.path().display().to_string());
    let config = format!(
        "server:\n  rundir: {shown}\n  listen: 127.0.0.1@{}\ndatabase:\n  storage: {shown}/knot\n\
         key:\n- id: one.\n  algorithm: hmac-sha256\n  secret: {SECRET}\nremote:\n- id: ours\n  \
         address: 127.0.0.1@{port}\n  key: one.\nacl:\n- id: told\n  address: 127.0.0.1\n  \
         key: one.\n  action: notify\nzone:\n- domain: example.org\n  master: ours\n  acl: told\n  \
         storage: {shown}/knot\n  zonefile-sync: -1\n",
        knot.port()
    );
    std::fs::create_dir(dir.path().join("knot")).expect("it is made");
    let path = dir.path().join("knot.conf");
    std::fs::write(&path, config).expect("it is written");
    let knotd = start("/usr/sbin/knotd", &["-c", &path.display().to_string()]);
    let config = format!(
        "server:\n  ip-address: 127.0.0.1@{}\n  username: \"\"\n  zonesdir: \"{shown}\"\n  \
         pidfile: \"{shown}/nsd.pid\"\n  xfrdfile: \"{shown}/xfrd\"\n  \
         zonelistfile: \"{shown}/list\"\n  xfrdir: \"{shown}\"\n  database: \"\"\n  \
         xfrd-reload-timeout: 0\nremote-control:\n  control-enable: no\nkey:\n  name: \"one.\"\n  \
         algorithm: hmac-sha256\n  secret: \"{SECRET}\"\nzone:\n  name: example.org\n  \
         zonefile: \"nsd.zone\"\n  allow-notify: 127.0.0.1 one.\n  \
         request-xfr: AXFR 127.0.0.1@{port} one.\n",
        nsd.port()
    );
    let path = dir.path().join("nsd.conf");
    std::fs::write(&path, config).expect("it is written");
    let nsd_process = start("/usr/sbin/nsd", &["-d", "-c", &path.display().to_string()]);
    let peers: Vec<SocketAddr> = [(knot, knotd.is_some()), (nsd, nsd_process.is_some())]
        .into_iter()
        .filter_map(|(address, there)| there.then_some(address))
        .collect();
    for peer in &peers {
        has_serial(*peer, 1).await;
    }
    // Their SOA record says an hour: only being told brings this about.
    write_zone(&zone, 2, "more A 192.0.2.77\n");
    for peer in &peers {
        has_serial(*peer, 2).await;
    }

    let (at, port) = (format!("@{}", address.ip()), port.to_string());
    let ask = |more: &[&str]| {
        let words = [&[at.as_str(), "-p", &port, "example.org"][..], more].concat();
        kdig(&words)
    };
    if let Some(text) = ask(&["AXFR", "-y", &format!("hmac-sha256:one:{SECRET}")]) {
        assert!(text.contains("more.example.org.") && text.matches("SOA").count() >= 2, "{text}");
        let unsigned = ask(&["AXFR"]).expect("it is there");
        assert!(unsigned.contains("REFUSED") && !unsigned.contains("192.0.2."), "{unsigned}");
        let other = ask(&["AXFR", "-y", "hmac-sha256:one:YW5vdGhlciBzZWNyZXQ="]).expect("there");
        assert!(!other.contains("192.0.2.") && other.contains("ERROR"), "{other}");
        let signed = ask(&["SOA", "-y", &format!("hmac-sha256:one:{SECRET}")]).expect("there");
        assert!(signed.contains("TSIG") && signed.contains("NOERROR"), "{signed}");
        let newer = ask(&["IXFR=2", "-y", &format!("hmac-sha256:one:{SECRET}")]).expect("there");
        assert!(newer.matches("\tSOA\t").count() == 1 && !newer.contains("192.0.2."), "{newer}");
    }
    drop((knotd, nsd_process));
    stop(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn we_follow_a_zone_of_knot() {
    let dir = tempfile::tempdir().expect("a directory");
    let zone = dir.path().join("example.org.zone");
    write_zone(&zone, 1, "gone A 192.0.2.66\n");
    let knot = free_port();
    let kept = dir.path().join("kept.zone");
    let follow = |config: &mut Config| {
        config.secondaries = vec![Secondary {
            zone: "example.org".into(),
            primaries: vec![knot],
            key: Some("one".into()),
            file: Some(kept.clone()),
        }];
    };
    let (address, tasks) = ours(follow).await;
    let shown = dir.path().display();
    let config = format!(
        "server:\n  rundir: {shown}\n  listen: 127.0.0.1@{}\ndatabase:\n  storage: {shown}\n\
         key:\n- id: one.\n  algorithm: hmac-sha256\n  secret: {SECRET}\nremote:\n- id: ours\n  \
         address: 127.0.0.1@{}\n  key: one.\nacl:\n- id: may\n  key: one.\n  action: transfer\n\
         zone:\n- domain: example.org\n  file: {}\n  notify: ours\n  acl: may\n  \
         zonefile-load: difference\n  journal-content: changes\n  zonefile-sync: -1\n",
        knot.port(),
        address.port(),
        zone.display()
    );
    let path = dir.path().join("knot.conf");
    std::fs::write(&path, config).expect("it is written");
    let Some(knotd) = start("/usr/sbin/knotd", &["-c", &path.display().to_string()]) else {
        return stop(tasks).await;
    };
    // Told by Knot when it starts, or the first retry after ten seconds.
    has_serial(address, 1).await;
    until(address, &query("gone.example.org.", RecordType::A), has_answer).await;
    write_zone(&zone, 2, "came A 192.0.2.88\n");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(knotd.0.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).expect("it is told");
    has_serial(address, 2).await;
    until(address, &query("came.example.org.", RecordType::A), has_answer).await;
    let gone = until(address, &query("gone.example.org.", RecordType::A), |_| true).await;
    assert!(gone.answers.is_empty());
    let wild = until(address, &query("any.example.org.", RecordType::MX), has_answer).await;
    assert!(wild.metadata.authoritative, "the zone is as good as its primary's");
    drop(knotd);
    stop(tasks).await;
    // Neither is there any more; what was known is.
    let (address, tasks) = ours(follow).await;
    until(address, &query("came.example.org.", RecordType::A), has_answer).await;
    stop(tasks).await;
}

fn certify(dir: &Path) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["dns.test".into()]).expect("it is made");
    let (certificate, key) = (dir.join("tls.crt"), dir.join("tls.key"));
    std::fs::write(&certificate, made.cert.pem()).expect("it is written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("it is written");
    (certificate, key)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kdig_is_answered_over_tls_and_a_new_certificate_is_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    let zone = dir.path().join("example.org.zone");
    write_zone(&zone, 1, "");
    let (certificate, key) = certify(dir.path());
    let listen = free_port();
    let (_, tasks) = ours(|config| {
        config.zones = vec![ZoneFile { path: zone.clone(), origin: None }];
        config.tls = Some(Tls { listen, certificate: certificate.clone(), key });
    })
    .await;
    let (at, port) = (format!("@{}", listen.ip()), listen.port().to_string());
    let ask = |authority: &Path| {
        let authority = format!("+tls-ca={}", authority.display());
        kdig(&[&at, "-p", &port, &authority, "+tls-hostname=dns.test", "www.example.org", "A"])
    };
    let Some(text) = ask(&certificate) else { return stop(tasks).await };
    assert!(text.contains("192.0.2.1") && text.contains("TLS session"), "{text}");
    certify(dir.path());
    let taken = async {
        while !ask(&certificate).expect("it is there").contains("192.0.2.1") {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), taken).await.expect("it is taken");
    stop(tasks).await;
}
