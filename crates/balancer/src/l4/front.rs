//! The front: one address for many machines, at the speed of the network card.
//!
//! ```text
//!  clients ──▶ interface ─ XDP ─▶ backend ──▶ clients (directly)
//!                           ▲  └◀──▶ backend, translated
//!   file, Services ─▶ plan ─▶ tables ◀─ health checks
//! ```
//!
//! # What it does
//! A new connection goes to the backend that Maglev's table says, and stays there: it is
//! remembered, and where it was forgotten (another front took over, the table of connections was
//! full) the same table says the same. Packets are sent on as they are, by the backend's hardware
//! address or in a tunnel; the backend has the service's address on its loopback interface and
//! answers the client directly. Or they are translated, for backends that cannot have it: they come
//! from an address and port of the front's, and the answers go back by the front.
//!
//! # Guarantees
//! - A backend that comes takes no connection from another. One that drains keeps its own and gets
//!   no new ones. One that goes, or is down, gives its own to others, which refuse them; nobody
//!   else's move. Where all seem down, all are taken to be up.
//! - What is in the kernel stays there when this process stops or dies: [`off`] takes it away.
//!   Backends are then not checked until the next process, which takes over without a gap.
//!
//! # What it refuses
//! Fragments, IP options and IPv6 extension headers, IPv4 before IPv6 backends or the other way
//! round, routers' errors about translated packets (passed up, and nobody's there).
//!
//! # Source
//! Maglev (NSDI 2016); Katran for the shape (XDP, LRU of connections, IPIP); LVS for direct return.

mod class;
mod config;
mod health;
mod kernel;
pub mod maglev;
mod plan;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_daemon::Tasks;
use serde::Serialize;
use tokio::sync::watch;

pub use class::CLASS;
pub use config::{Backend, Front, Mode, Ports, Protocol, Service, Way, Wrong};
pub use kernel::{FrontError, Load, Lost};

use health::Health;
use kernel::{Kernel, Own};
use plan::{Held, plan};

/// Reads what is wanted, in whatever form it was written.
pub type Reader = fn(&str) -> Result<Front, Box<dyn std::error::Error + Send + Sync>>;

/// How often backends are asked, and a file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a file says.
///
/// # Errors
/// When it cannot be read.
pub fn load(path: &Path, read: Reader) -> Result<Front, FrontError> {
    let unread = |source| FrontError::File { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(|error| unread(error.into()))?;
    read(&text).map_err(unread)
}

/// [`start`] with what a file says, which is read again when it changes. One that cannot be right
/// is refused and named, and what was there before stays.
///
/// With a `cluster`, Services of the class [`CLASS`] are served too, once all of them are known:
/// until then the kernel does what it did.
///
/// # Errors
/// When the first one cannot be right, or the kernel does not take it.
pub async fn follow(
    path: PathBuf,
    read: Reader,
    cluster: Option<kube::Client>,
    tasks: &Tasks,
) -> Result<(), FrontError> {
    let seen = |path: &Path| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.modified().ok()?, file.len(), file.ino()))
    };
    let mut before = seen(&path);
    let (sender, said) = watch::channel(load(&path, read)?);
    said.borrow().check()?;
    match cluster {
        None => start(said, tasks)?,
        Some(client) => match with_class(said, client, tasks).await {
            Some(all) => start(all, tasks)?,
            None => return Ok(()),
        },
    }
    tasks.spawn_until_stop("front file", async move {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tick.tick().await;
            let now = seen(&path);
            if now.is_none() || now == before {
                continue;
            }
            before = now;
            match load(&path, read) {
                Ok(front) => drop(sender.send(front)),
                Err(error) => tracing::warn!(%error, "what was there before stays"),
            }
        }
    });
    Ok(())
}

/// What a file says and what Services of the class ask for, from when these are known; `None` when
/// `tasks` are told to stop before.
async fn with_class(
    mut said: watch::Receiver<Front>,
    client: kube::Client,
    tasks: &Tasks,
) -> Option<watch::Receiver<Front>> {
    let mut seen = class::seen(&client, tasks);
    let all = |seen: &class::Seen, front: &Front| {
        let given = class::give(seen, front);
        let mut front = front.clone();
        front.services.extend(given.services.iter().cloned());
        (front, given)
    };
    let known = tokio::select! {
        known = seen.wait_for(Option::is_some) => known.ok()?.clone()?,
        () = tasks.stopping() => return None,
    };
    let (front, mut given) = all(&known, &said.borrow_and_update());
    let (sender, fronts) = watch::channel(front);
    tasks.spawn_until_stop("front services", async move {
        let mut named: Vec<String> = Vec::new();
        loop {
            for why in given.refused.iter().filter(|why| !named.contains(*why)) {
                tracing::warn!("{why}");
            }
            let written = class::write(&client, &given).await;
            named = given.refused;
            let again = async {
                if !written {
                    return tokio::time::sleep(LOOK_EVERY).await;
                }
                std::future::pending().await
            };
            tokio::select! {
                () = again => {}
                changed = seen.changed() => if changed.is_err() { return },
                changed = said.changed() => if changed.is_err() { return },
            }
            let now = seen.borrow_and_update().clone().unwrap_or_default();
            let (front, next) = all(&now, &said.borrow_and_update());
            given = next;
            sender.send_if_modified(|before| {
                let differs = *before != front;
                *before = front;
                differs
            });
        }
    });
    Some(fronts)
}

/// Puts the front on its interface, and follows `wanted` and the backends' health in `tasks`. What
/// of a later one cannot be changed (interface, mode, tables) stays as it was in the first.
///
/// # Errors
/// When what is wanted cannot be right, or the kernel does not take it.
pub fn start(mut wanted: watch::Receiver<Front>, tasks: &Tasks) -> Result<(), FrontError> {
    let front = wanted.borrow_and_update().clone();
    front.check()?;
    let own = ready(&front)?;
    let mut kernel = Kernel::attach(&front, own)?;
    let mut held = kernel.held()?;
    let mut health = Health::default();
    // At once, all taken to be up: what the kernel did before must not stop for a check.
    if held.services.is_empty() {
        held = write(&mut kernel, held, &front, &health)?;
    }
    tracing::info!(interface = front.interface, "the front is on");
    tasks.spawn_until_stop("front", async move {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut open = true;
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    let services = wanted.borrow().services.clone();
                    health.look(&services).await;
                }
                changed = wanted.changed(), if open => open = changed.is_ok(),
            }
            let front = wanted.borrow_and_update().clone();
            if let Err(error) = front.check() {
                tracing::warn!(%error, "what was there before stays");
                continue;
            }
            match write(&mut kernel, held.clone(), &front, &health) {
                Ok(after) => held = after,
                Err(error) => {
                    tracing::warn!(%error, "the front is not as it should be");
                    // What was written of it is read back, then the rest is tried again.
                    held = kernel.held().unwrap_or_default();
                }
            }
        }
    });
    Ok(())
}

fn write(
    kernel: &mut Kernel,
    held: Held,
    front: &Front,
    health: &Health,
) -> Result<Held, FrontError> {
    let plan = plan(&held, &front.services, |service, backend| {
        service.check.is_some_and(|port| health.is_down((backend.address, port)))
    });
    kernel.write(&plan)?;
    for (_, place) in plan.come.iter().chain(&plan.gone) {
        tracing::info!(backend = %place.address, there = place.there, "a backend changed");
    }
    Ok(held.after(&plan))
}

/// Checks that packets can be sent on, and says which addresses are the front's own.
fn ready(front: &Front) -> Result<Own, FrontError> {
    let interface = &front.interface;
    let wrong = |what: String| FrontError::Interface { interface: interface.clone(), what };
    let forwards = |kind: &str| {
        let path = format!("/proc/sys/net/{kind}/conf/{interface}/forwarding");
        let forwards = std::fs::read_to_string(&path)
            .map_err(|error| wrong(format!("is not there: {path}: {error}")))?;
        if forwards.trim() == "0" {
            // The kernel shows no way to others on an interface that forwards nothing.
            let set = format!("net.{kind}.conf.{interface}.forwarding=1");
            return Err(wrong(format!("does not forward: sysctl -w {set}")));
        }
        Ok(())
    };
    forwards("ipv4")?;
    if front.has_v6() {
        forwards("ipv6")?;
    }
    let all = nix::ifaddrs::getifaddrs().map_err(|error| wrong(error.to_string()))?;
    let of_interface = all.filter(|one| one.interface_name == *interface);
    let addresses: Vec<_> = of_interface.filter_map(|one| one.address).collect();
    let v4 = addresses.iter().find_map(|one| one.as_sockaddr_in().map(|address| address.ip()));
    let mut v6 = addresses.iter().filter_map(|one| Some(one.as_sockaddr_in6()?.ip()));
    let v6 = v6.find(|address| !address.is_unicast_link_local());
    let (v4, v6) = (front.source.or(v4), front.source6.or(v6));
    if v4.is_none() && (v6.is_none() || !front.has_v6()) {
        return Err(wrong("has no IPv4 address".into()));
    }
    if v6.is_none() && front.has_v6() {
        return Err(wrong("has no IPv6 address".into()));
    }
    Ok(Own {
        v4: v4.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
        v6: v6.unwrap_or(Ipv6Addr::UNSPECIFIED).into(),
    })
}

/// What a backend is and had.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// The service.
    pub service: String,
    /// The backend.
    pub backend: IpAddr,
    /// Where it serves.
    pub port: u16,
    /// Whether connections may go there.
    pub there: bool,
    /// Since its place was first used.
    #[serde(flatten)]
    pub load: Load,
}

/// What the front of an interface holds and counted, whoever put it there.
///
/// # Errors
/// When there is none, or its tables cannot be read.
pub fn show(pins: &Path, interface: &str) -> Result<(Vec<Shown>, Lost), FrontError> {
    let kernel = Kernel::open(&kernel::folder(pins, interface))?;
    let held = kernel.held()?;
    let mut shown = Vec::new();
    for (key, entry) in &held.services {
        let places = held.places.iter().zip(0u32..);
        for (place, at) in places.filter(|(place, _)| place.service == entry.number) {
            let protocol = match key.protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
            };
            shown.push(Shown {
                service: format!("{} {protocol}", SocketAddr::new(key.address, key.port)),
                backend: place.address,
                port: place.port,
                there: place.there,
                load: kernel.load(at)?,
            });
        }
    }
    Ok((shown, kernel.lost()?))
}

/// Takes the front from an interface; whether there was one.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn off(pins: &Path, interface: &str) -> Result<bool, FrontError> {
    let folder = pins.join(interface);
    match std::fs::remove_dir_all(&folder) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(FrontError::Pins { path: folder, source }),
    }
}
