//! The front: one address for many machines, at the speed of the network card.
//!
//! ```text
//!  clients ──▶ interface ─ XDP ─▶ backend ──▶ clients (directly)
//!                           ▲
//!        file ─▶ plan ─▶ tables ◀─ health checks
//! ```
//!
//! # What it does
//! A new connection goes to the backend that Maglev's table says, and stays there: it is
//! remembered, and where it was forgotten (another front took over, the table of connections was
//! full) the same table says the same. Packets are sent on as they are, by the backend's hardware
//! address or in a tunnel; the backend has the service's address on its loopback interface and
//! answers the client directly.
//!
//! # Guarantees
//! - A backend that comes takes no connection from another. One that drains keeps its own and gets
//!   no new ones. One that goes, or is down, gives its own to others, which refuse them; nobody
//!   else's move. Where all seem down, all are taken to be up.
//! - What is in the kernel stays there when this process stops or dies: [`off`] takes it away.
//!   Backends are then not checked until the next process, which takes over without a gap.
//!
//! # What it refuses
//! IPv6, fragments, IP options, and backends that cannot have the service's address (for those the
//! nftables rules of [`super`] rewrite addresses).
//!
//! # Source
//! Maglev (NSDI 2016); Katran for the shape (XDP, LRU of connections, IPIP); LVS for direct return.

mod config;
mod health;
mod kernel;
pub mod maglev;
mod plan;

use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_daemon::Tasks;
use serde::Serialize;
use tokio::sync::watch;

pub use config::{Backend, Front, Mode, Protocol, Service, Way, Wrong};
pub use kernel::{FrontError, Load, Lost};

use health::Health;
use kernel::Kernel;
use plan::{Held, plan};

/// Reads what is wanted, in whatever form it was written.
pub type Reader = fn(&str) -> Result<Front, Box<dyn std::error::Error + Send + Sync>>;

/// How often backends are asked, and a file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// [`start`] with what a file says, which is read again when it changes. One that cannot be right
/// is refused and named, and what was there before stays.
///
/// # Errors
/// When the first one cannot be right, or the kernel does not take it.
pub async fn follow(path: PathBuf, read: Reader, tasks: &Tasks) -> Result<(), FrontError> {
    let load = move |path: &Path| {
        let unread = |source| FrontError::File { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(|error| unread(error.into()))?;
        read(&text).map_err(unread)
    };
    let seen = |path: &Path| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.modified().ok()?, file.len(), file.ino()))
    };
    let mut before = seen(&path);
    let (sender, wanted) = watch::channel(load(&path)?);
    start(wanted, tasks)?;
    tasks.spawn_until_stop("front file", async move {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tick.tick().await;
            let now = seen(&path);
            if now.is_none() || now == before {
                continue;
            }
            before = now;
            match load(&path) {
                Ok(front) => drop(sender.send(front)),
                Err(error) => tracing::warn!(%error, "what was there before stays"),
            }
        }
    });
    Ok(())
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

/// Checks that packets can be sent on, and says where tunnels begin.
fn ready(front: &Front) -> Result<Ipv4Addr, FrontError> {
    let interface = &front.interface;
    let wrong = |what: String| FrontError::Interface { interface: interface.clone(), what };
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/forwarding");
    let forwards = std::fs::read_to_string(&path)
        .map_err(|error| wrong(format!("is not there: {path}: {error}")))?;
    if forwards.trim() == "0" {
        // The kernel shows no way to others on an interface that forwards nothing.
        return Err(wrong(format!(
            "does not forward: sysctl -w net.ipv4.conf.{interface}.forwarding=1"
        )));
    }
    if let Some(source) = front.source {
        return Ok(source);
    }
    let all = nix::ifaddrs::getifaddrs().map_err(|error| wrong(error.to_string()))?;
    let own = all
        .filter(|one| one.interface_name == *interface)
        .find_map(|one| one.address?.as_sockaddr_in().map(|address| address.ip()));
    own.ok_or_else(|| wrong("has no IPv4 address".into()))
}

/// What a backend is and had.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// The service.
    pub service: String,
    /// The backend.
    pub backend: Ipv4Addr,
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
                service: format!("{}:{} {protocol}", key.address, key.port),
                backend: place.address,
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
