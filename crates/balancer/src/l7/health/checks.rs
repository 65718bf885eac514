//! Asks the endpoints of sets with a check how they are, and sweeps all sets.
//!
//! An endpoint is ill after `fall` failed checks in a row and well after `rise` good ones; its
//! first check decides alone. Checks of one endpoint are spread over the interval by its address,
//! so that a thousand endpoints are not asked in one moment. A check that is still under way when
//! it is due again is not begun twice. What comes of it is told by [`Findings`].

use std::collections::{HashMap, HashSet};
use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval};

use berth_daemon::Tasks;

use super::{Findings, probe};
use crate::l7::pick::{BackendSet, Endpoint, now_us};

/// How often it is looked who is due, and who is usable.
const TICK: Duration = Duration::from_millis(100);
/// Checks under way at once, of all sets.
const AT_ONCE: usize = 256;

/// How endpoints are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) kind: CheckKind,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    /// The first and the last status of HTTP that is good.
    pub(crate) statuses: (u16, u16),
    /// What the first 64 KiB of the body must hold.
    pub(crate) body: Option<String>,
    /// Another port than the requests'.
    pub(crate) port: Option<u16>,
    pub(crate) rise: u32,
    pub(crate) fall: u32,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CheckKind {
    /// Whether it takes a connection.
    Tcp,
    /// `GET` this path.
    Http(String),
    /// `grpc.health.v1.Health/Check` of this service; empty for the whole server.
    Grpc(String),
}

/// Checks and sweeps what `sets` gives, for ever, and tells `findings`.
pub(crate) async fn keep(
    sets: impl Fn() -> Vec<Arc<BackendSet>> + Send + 'static,
    findings: Arc<Findings>,
    tasks: Tasks,
) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut due: HashMap<Key, Checked> = HashMap::new();
    let mut before = Vec::new();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = Instant::now();
        let mut seen = HashSet::new();
        let sets = sets();
        findings.follow(&before, &sets, now_us());
        for set in &sets {
            set.sweep(now_us());
            findings.look_at(set, now_us());
            let Some(check) = &set.policy.check else {
                let was_checked = |endpoint: &&Arc<Endpoint>| endpoint.check().is_some();
                set.endpoints().filter(was_checked).for_each(|endpoint| endpoint.unchecked());
                continue;
            };
            for endpoint in set.endpoints() {
                let key = (Arc::as_ptr(endpoint) as usize, endpoint.address());
                seen.insert(key);
                let checked = due.entry(key).or_insert_with(|| Checked::new(check, endpoint, now));
                if checked.due > now {
                    continue;
                }
                let Ok(permit) = room.clone().try_acquire_owned() else { continue };
                let Some(running) = Running::begin(&checked.state) else { continue };
                checked.due = now + check.interval;
                let (check, endpoint) = (check.clone(), endpoint.clone());
                tasks.spawn_until_stop("check", async move {
                    let good = probe::ask(&check, endpoint.address()).await;
                    running.end(&check, &endpoint, good);
                    drop(permit);
                });
            }
        }
        due.retain(|key, _| seen.contains(key));
        before = sets;
    }
}

/// The same endpoint object: an address alone may be in several sets, or come back as another.
type Key = (usize, SocketAddrV4);

struct Checked {
    due: Instant,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    /// Checks in a row that said other than what is believed.
    against: u32,
}

impl Checked {
    fn new(check: &Check, endpoint: &Endpoint, now: Instant) -> Self {
        // A new endpoint is asked at once; those that came with this process are spread out.
        let spread = u32::from(endpoint.address().ip().octets()[3]) * 7 % 100;
        let wait =
            if endpoint.check().is_some() { check.interval * spread / 100 } else { Duration::ZERO };
        Self { due: now + wait, state: Arc::default() }
    }
}

/// A check under way; at its end, however it ends, the next may begin.
struct Running(Arc<Mutex<State>>);

impl Running {
    fn begin(state: &Arc<Mutex<State>>) -> Option<Self> {
        let mut locked = state.lock().expect("no holder of the lock panics");
        if std::mem::replace(&mut locked.running, true) {
            return None;
        }
        Some(Self(state.clone()))
    }

    fn end(self, check: &Check, endpoint: &Endpoint, good: Result<(), String>) {
        let mut state = self.0.lock().expect("no holder of the lock panics");
        let believed = endpoint.check();
        let says = good.is_ok();
        state.against = if believed == Some(says) { 0 } else { state.against + 1 };
        if changes(check, believed, says, state.against) {
            state.against = 0;
            match good {
                Ok(()) if believed.is_none() => {}
                Ok(()) => tracing::info!(endpoint = %endpoint.address(), "well again"),
                Err(why) => {
                    tracing::info!(endpoint = %endpoint.address(), why, "ill");
                    endpoint.ails(why);
                }
            }
            endpoint.checked(says);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The lock may be poisoned only by a panic, which ends the process anyway.
        if let Ok(mut state) = self.0.lock() {
            state.running = false;
        }
    }
}

/// Whether a check that says `says`, the `against`-th in a row to differ, changes what is believed.
fn changes(check: &Check, believed: Option<bool>, says: bool, against: u32) -> bool {
    match believed {
        None => true,
        Some(believed) if believed == says => false,
        Some(true) => against >= check.fall,
        Some(false) => against >= check.rise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_falls_and_rises_after_its_counts() {
        let check = Check {
            kind: CheckKind::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            statuses: (200, 399),
            body: None,
            port: None,
            rise: 2,
            fall: 3,
        };
        for (believed, says, against, expected) in [
            (None, false, 1, true),
            (None, true, 1, true),
            (Some(true), true, 0, false),
            (Some(true), false, 2, false),
            (Some(true), false, 3, true),
            (Some(false), true, 1, false),
            (Some(false), true, 2, true),
        ] {
            assert_eq!(changes(&check, believed, says, against), expected, "{believed:?} {says}");
        }
    }
}
