//! Two hosts that hold addresses for each other, each a network namespace with its own keepalived.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use berth_balancer::keepalived::{Options, render};
use berth_balancer::rendered::{Destination, Loaded, load};

use crate::{may_run, run};

/// Removes its namespaces and ends its processes, whatever happens.
#[derive(Default)]
struct Ground {
    namespaces: Vec<String>,
    children: Vec<Child>,
}

impl Drop for Ground {
    fn drop(&mut self) {
        for child in &mut self.children {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = child.wait();
        }
        for name in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// Runs `work` on a thread in the namespace `name`.
fn within<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let namespace = File::open(format!("/run/netns/{name}")).unwrap();
    std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

/// Answers each byte with `name`, at every address of the namespace.
fn serve(namespace: &str, name: u8) {
    let (ready, listening) = std::sync::mpsc::channel();
    within(namespace, move || {
        let listener = TcpListener::bind("0.0.0.0:80").unwrap();
        ready.send(()).unwrap();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read(&mut byte).is_ok_and(|count| count == 1) {
                    if stream.write_all(&[name]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    listening.recv().unwrap();
}

fn ask(stream: &mut TcpStream) -> std::io::Result<u8> {
    let mut byte = [b'?'];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn connect(to: Ipv4Addr) -> std::io::Result<TcpStream> {
    let stream =
        TcpStream::connect_timeout(&SocketAddr::from((to, 80)), Duration::from_millis(200))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(stream)
}

/// Where the configuration of `host` goes, and what came of it.
fn configuration(
    dir: &Path,
    host: &str,
    addresses: &[Ipv4Addr],
    pid: Option<&Path>,
) -> (Destination, Loaded) {
    let hosts = [("a", [10, 77, 0, 1]), ("b", [10, 77, 0, 2])];
    let options = Options {
        host: host.to_owned(),
        hosts: hosts.map(|(name, ip)| (name.to_owned(), Ipv4Addr::from(ip))).into(),
        interface: "eth0".into(),
        addresses: addresses.iter().map(|ip| format!("{ip}/24").parse().unwrap()).collect(),
        check: Some("/bin/true".into()),
    };
    let rendered = render(&[], &options).unwrap();
    let to = Destination {
        file: dir.join(format!("{host}.conf")),
        check: ["keepalived", "-t", "-f", "{}"].map(str::to_owned).to_vec(),
        pid: pid.map(Path::to_owned),
        program: "keepalived",
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let loaded = runtime.block_on(load(&rendered, &to)).unwrap();
    (to, loaded)
}

/// Whether keepalived is there; on CI it has to be.
fn has_keepalived() -> bool {
    if Command::new("/usr/sbin/keepalived").arg("-v").output().is_ok() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "keepalived is missing");
    eprintln!("skipped: keepalived is missing");
    false
}

/// keepalived in the namespace `name`, with its pid files in `dir`.
fn start(name: &str, dir: &Path, role: &str, to: &Destination) -> Child {
    let file = |end: &str| dir.join(format!("{role}.{end}")).display().to_string();
    Command::new("ip")
        .args(["netns", "exec", name, "/usr/sbin/keepalived", "-n", "-P", "-l"])
        .args(["-f", &to.file.display().to_string()])
        .args(["-p", &file("pid"), "-r", &file("vrrp")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn an_address_that_comes_is_held_without_another_start() {
    if !may_run() || !has_keepalived() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut ground = Ground::default();
    let name = format!("bkr{}", std::process::id());
    run(&format!("ip netns add {name}"));
    ground.namespaces.push(name.clone());
    run(&format!("ip -n {name} link set lo up"));
    run(&format!("ip -n {name} link add eth0 type veth peer name far"));
    run(&format!("ip -n {name} link set far up"));
    run(&format!("ip -n {name} address add 10.77.0.1/24 dev eth0"));
    run(&format!("ip -n {name} link set eth0 up"));
    let [one, other] = [100, 101].map(|last| Ipv4Addr::new(10, 77, 0, last));
    let pid = dir.path().join("a.pid");
    let (to, loaded) = configuration(dir.path(), "a", &[one], Some(&pid));
    assert_eq!(loaded, Loaded::Written);
    ground.children.push(start(&name, dir.path(), "a", &to));
    let holds = |address: Ipv4Addr| {
        let shown = Command::new("ip").args(["-n", &name, "-4", "address", "show"]).output();
        String::from_utf8(shown.unwrap().stdout).unwrap().contains(&format!(" {address}/"))
    };
    let until_held = |address| {
        let started = Instant::now();
        while !holds(address) {
            assert!(started.elapsed() < Duration::from_secs(20), "{address} is not held");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    until_held(one);
    assert!(!holds(other));
    let running = std::fs::read_to_string(&pid).unwrap();
    let (_, loaded) = configuration(dir.path(), "a", &[one, other], Some(&pid));
    assert_eq!(loaded, Loaded::Told);
    until_held(other);
    assert!(holds(one));
    assert_eq!(std::fs::read_to_string(&pid).unwrap(), running, "it is the same process");
    let (_, loaded) = configuration(dir.path(), "a", &[one, other], Some(&pid));
    assert_eq!(loaded, Loaded::Same);
}

#[test]
fn an_address_moves_within_three_seconds_and_the_survivors_connections_stay() {
    if !may_run() || !has_keepalived() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let id = std::process::id();
    let mut ground = Ground::default();
    let name = |role: &str| format!("bk{role}{id}");
    for role in ["c", "a", "b"] {
        run(&format!("ip netns add {}", name(role)));
        ground.namespaces.push(name(role));
        run(&format!("ip -n {} link set lo up", name(role)));
    }
    let (client, namespaces) = (name("c"), [("a", 1), ("b", 2)]);
    run(&format!("ip -n {client} link add br0 type bridge"));
    run(&format!("ip -n {client} link set br0 up"));
    run(&format!("ip -n {client} address add 10.77.0.9/24 dev br0"));
    for (role, last) in namespaces {
        let host = name(role);
        run(&format!("ip -n {client} link add to-{role} type veth peer name eth0 netns {host}"));
        run(&format!("ip -n {client} link set to-{role} master br0 up"));
        run(&format!("ip -n {host} address add 10.77.0.{last}/24 dev eth0"));
        run(&format!("ip -n {host} link set eth0 up"));
    }
    // So many addresses that each host is the first of some.
    let addresses: Vec<_> = (100..106).map(|last| Ipv4Addr::new(10, 77, 0, last)).collect();
    for (role, _) in namespaces {
        serve(&name(role), role.as_bytes()[0]);
        let (to, _) = configuration(dir.path(), role, &addresses, None);
        let child = start(&name(role), dir.path(), role, &to);
        ground.children.push(child);
    }
    let cut = |who: u8| format!("ip -n {} link set to-{} down", name("c"), char::from(who));
    let cuts = [cut(b'a'), cut(b'b')];
    let seen = within(&client, move || {
        let holder = |ip: Ipv4Addr| connect(ip).and_then(|mut stream| ask(&mut stream)).ok();
        let started = Instant::now();
        let holders: Vec<u8> = loop {
            let found: Vec<_> = addresses.iter().map(|ip| holder(*ip)).collect();
            if let Some(all) = found.into_iter().collect() {
                break all;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "no host took the addresses");
        };
        // Who comes first on a busy machine takes all and does not give back; who holds something
        // is the one that dies.
        let dying = holders[0];
        let (survivor, own) = if dying == b'a' { (b'b', 2) } else { (b'a', 1) };
        let lost = addresses[0];
        let kept = holders.iter().position(|holder| *holder == survivor).map(|at| addresses[at]);
        let own = Ipv4Addr::new(10, 77, 0, own);
        // The survivor is reached by an address that it held before, and by its own.
        let mut open = vec![connect(own).unwrap()];
        open.extend(kept.map(|ip| connect(ip).unwrap()));
        assert!(open.iter_mut().all(|stream| ask(stream).unwrap() == survivor));
        run(&cuts[usize::from(dying - b'a')]);
        let died = Instant::now();
        let mut took = None;
        while died.elapsed() < Duration::from_secs(10) && took.is_none() {
            assert!(open.iter_mut().all(|stream| ask(stream).unwrap() == survivor));
            if holder(lost) == Some(survivor) {
                took = Some(died.elapsed());
            }
        }
        // The rest of them, and what was open.
        let all = addresses.iter().all(|ip| holder(*ip) == Some(survivor));
        assert!(open.iter_mut().all(|stream| ask(stream).unwrap() == survivor));
        (took, all, kept.is_some())
    });
    let (took, all, shared) = seen.join().unwrap();
    let took = took.expect("the address never answered again");
    eprintln!("answered from the other host after {took:?}; each had held some: {shared}");
    assert!(all, "every address is at the survivor");
    assert!(took <= Duration::from_secs(3), "{took:?}");
}
