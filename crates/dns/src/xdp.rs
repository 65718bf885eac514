//! Answers given in the kernel, before its network stack sees the question.
//!
//! ```text
//!             ┌─ found ──▶ XDP_TX                           bpf/dns.bpf.c
//!  interface ─┤ table of answers ◀── only what differs ─┐
//!             └─ else ───▶ sockets                      │
//!                                    names in force ─▶ prepare ─▶ table
//! ```
//!
//! What the table holds is made by the very code that answers at the sockets, so both say the
//! same. All names go in as long as there is room; once there is none, those that are asked for
//! and were not found come in, and take the places of others. Only named interfaces are touched,
//! and the kernel lets go of the program when this process ends, however it ends.
//!
//! Refuses: whatever depends on who asks (policies with weights, sites or a client's hash),
//! cookies, NSID, names over 62 bytes, answers over 268 bytes, VLAN tags, IP options and fragments:
//! all of that passes up to the sockets.
//!
//! Idea: Knot DNS's XDP mode, one step further down: no ring to user space in between.

mod kernel;
mod layout;
mod learn;
mod places;
mod prepare;
mod slots;
mod table;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use berth_daemon::Tasks;

pub use kernel::{Counted, XdpError};

use crate::zone::Current;
pub(crate) use kernel::Counts;
use kernel::Kernel;
use table::Table;

/// How often own addresses and missed names are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where and how to answer in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xdp {
    /// The interfaces that queries come in by; no other one is touched.
    pub interfaces: Vec<String>,
    /// Addresses that are answered for besides those of this machine, such as a Service's.
    pub addresses: Vec<IpAddr>,
    /// Answers in the kernel's table at most. It takes 232 bytes for each from the start.
    pub names: u32,
    /// Where in the kernel.
    pub mode: Mode,
}

/// Where the kernel runs the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In the driver where it can, else before the network stack. On a virtual cable (veth)
    /// before the stack, as its other end may not take what is sent from the driver.
    #[default]
    Best,
    /// In the driver or not at all.
    Native,
    /// Before the network stack.
    Generic,
}

impl Xdp {
    /// On these interfaces, with the default number of answers.
    pub fn on(interfaces: Vec<String>) -> Self {
        Self { interfaces, addresses: vec![], names: 100_000, mode: Mode::Best }
    }
}

/// Loads and attaches the program, and keeps its table as the names in force are; what it counts.
///
/// # Errors
/// When the kernel or an interface does not take the program.
pub(crate) fn start(
    wanted: &Xdp,
    listen: SocketAddr,
    rate: u32,
    zone: Arc<Current>,
    tasks: &Tasks,
) -> Result<Arc<Counts>, XdpError> {
    let mut kernel = Kernel::attach(wanted, listen, rate)?;
    let counted = kernel.counted();
    let most = wanted.names as usize;
    tasks.spawn_until_stop("answers in the kernel", async move {
        let mut table = Table::new(most);
        let mut tick = tokio::time::interval(LOOK_EVERY);
        let mut changes = zone.changes();
        // What was known before anybody subscribed is new as well.
        changes.mark_changed();
        loop {
            let look = tokio::select! {
                // It ends when the names do, and those are held here.
                _ = changes.changed() => false,
                _ = tick.tick() => true,
            };
            let zone = Arc::clone(&zone);
            let ran = tokio::task::spawn_blocking(move || {
                let told = match look {
                    true => kernel
                        .own_addresses()
                        .and_then(|()| learn::learn(&mut table, &mut kernel, &zone.get())),
                    false => table.follow(kernel.answers(), &zone.get()),
                };
                (table, kernel, told)
            });
            // It ends early only when the runtime does.
            let Ok((kept, attached, told)) = ran.await else { return };
            (table, kernel) = (kept, attached);
            if let Err(error) = told {
                tracing::warn!(%error, "answers in the kernel are not as they should be");
            }
        }
    });
    Ok(counted)
}

#[cfg(test)]
mod tests;
