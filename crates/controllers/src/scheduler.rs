//! The scheduler's driver: which pods wait, what the cluster looks like, and binding.
//!
//! What is decided is in `berth_scheduler`. Here pods are taken in order of priority and age, each
//! placement is counted at once (long before the watch shows it, so that two pods never get the same
//! room), and pods that fit nowhere wait until something changed that could help, ever longer.
//!
//! ```text
//!  watch ─▶ Board ──decide──▶ bind (claims first) ─┬─▶ seen by the watch: placed
//!             ▲      │                             └─▶ refused: given back
//!             │      └─▶ say why not; evict victims, wait for their end
//!             └────────── measured use, reservations
//! ```
//!
//! # Guarantees
//! A pod is counted where it was decided to go from that moment on. A restart loses nothing but
//! waits: everything is read from the API again, and a pod that was bound meanwhile is not bound
//! twice, because the server refuses that.
//!
//! # Assumptions
//! One scheduler of this kind at a time ([`leader`]); beside another one the node's agent refuses
//! what does not fit. Decision record 0004 says why.

mod act;
mod board;
mod defrag;
mod events;
mod extender;
mod extras;
mod health;
pub mod leader;
mod live;
mod metrics;
mod promoted;
mod reservations;
mod wire;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_daemon::{Ready, Tasks};
use berth_scheduler::Profile;
use berth_scheduler::profile::ProfileError;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::storage::v1::CSINode;
use kube::{Api, Client};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::driver::{Cache, Objects, World, follow};
use act::Act;
use board::{Board, Decision, Outcome};
use events::Events;
use leader::Leadership;
use promoted::Promoted;
use reservations::Reservations;

pub use berth_scheduler::defrag::{Aim, Move, Plan, Room};
pub use defrag::{Step, Surprise, carry_out, defrag};
pub use extender::serve as serve_extender;
pub use health::serve as serve_health;
pub use live::{LookError, Rating, Share, Standing, Why, Worth, why};
pub use metrics::metrics;
pub use promoted::{CONFIG_KEY, CONFIG_MAP};

/// Reports under way at once: bindings go first.
const REPORTS: usize = 32;
/// Decisions of one round: new pods and freed room are looked at between rounds.
const ROUND: usize = 256;

/// How the scheduler runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The profiles; a pod is scheduled by the one that it names.
    pub profiles: Vec<Profile>,
    /// Bindings under way at once.
    pub bindings: usize,
    /// Most bindings begun in a second, on average; nothing for no limit.
    pub bindings_per_second: Option<u32>,
    /// How many may be begun at once after a pause, where they are limited; nothing for a second's.
    pub bindings_burst: Option<u32>,
    /// The Lease to hold while working, `NAMESPACE/NAME`; nothing where there can be no other.
    pub lease: Option<String>,
    /// Read what nodes are measured to use, where the cluster serves it.
    pub measured_use: bool,
    /// Follow the profiles that are promoted while it works, see [`CONFIG_MAP`].
    pub follow_promotions: bool,
}

/// A configuration that cannot be meant.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A profile is wrong.
    #[error("profile {name}")]
    Profile {
        /// Whose.
        name: String,
        /// What is wrong with it.
        source: ProfileError,
    },
    /// Two profiles answer to one name, or there is none.
    #[error("profiles are {0:?}; at least one is wanted, and each with a name of its own")]
    Names(Vec<String>),
    /// A number is out of range.
    #[error("{key} is {value}; {wanted}")]
    Range {
        /// Which key.
        key: &'static str,
        /// What it says.
        value: String,
        /// What would be right.
        wanted: &'static str,
    },
}

impl Default for Config {
    fn default() -> Self {
        let named = |name: &str| Profile { scheduler_name: name.to_owned(), ..Profile::default() };
        Self {
            profiles: vec![named("default-scheduler"), named("berth")],
            bindings: 256,
            bindings_per_second: None,
            bindings_burst: None,
            lease: None,
            measured_use: false,
            follow_promotions: true,
        }
    }
}

impl Config {
    /// The configuration, if it can be meant.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(self) -> Result<Self, ConfigError> {
        let mut names: Vec<String> =
            self.profiles.iter().map(|profile| profile.scheduler_name.clone()).collect();
        names.sort();
        if names.is_empty() || names.windows(2).any(|two| two[0] == two[1]) {
            return Err(ConfigError::Names(names));
        }
        for profile in &self.profiles {
            let name = profile.scheduler_name.clone();
            profile.clone().validate().map_err(|source| ConfigError::Profile { name, source })?;
        }
        let range = |key, value, wanted| Err(ConfigError::Range { key, value, wanted });
        if !(1..=10_000).contains(&self.bindings) {
            return range("bindings", self.bindings.to_string(), "1 to 10000");
        }
        if self.bindings_per_second == Some(0) {
            return range("bindingsPerSecond", "0".to_owned(), "1 or more, or nothing");
        }
        if self.bindings_burst == Some(0) {
            return range("bindingsBurst", "0".to_owned(), "1 or more, or nothing");
        }
        if let Some(lease) = &self.lease
            && lease.split_once('/').is_none_or(|(space, name)| space.is_empty() || name.is_empty())
        {
            return range("lease", lease.clone(), "NAMESPACE/NAME");
        }
        Ok(self)
    }
}

/// A scheduler at work, for those who ask it. Cheap to clone.
#[derive(Clone)]
pub struct Scheduler {
    act: Arc<Act>,
    ready: Ready,
}

impl Scheduler {
    /// Whether it has seen the whole cluster.
    pub fn is_ready(&self) -> bool {
        self.ready.is_ready()
    }

    /// Whether it is the one of several that works now.
    pub fn leads(&self) -> bool {
        self.act.leadership.holds()
    }
}

/// Starts the scheduler in `tasks`; it writes with `client`, as a user of its own.
pub fn start(client: Client, world: &Arc<World>, tasks: &Tasks) {
    start_with(client, world, Config::default(), tasks);
}

/// As [`start`], as configured. The configuration has been validated.
pub fn start_with(client: Client, world: &Arc<World>, config: Config, tasks: &Tasks) -> Scheduler {
    let board = Arc::new(Mutex::new(Board::new(config.profiles.clone())));
    let changed = Arc::new(Notify::new());
    let csi: Cache<CSINode> = Cache::default();
    let feed = Objects { api: Api::all(client.clone()), fields: None };
    tasks.spawn_until_stop("follow", follow(feed, csi.clone()));
    wire::wire(world, &csi, &board, &changed);
    let leadership = match &config.lease {
        Some(lease) => {
            let leadership = Leadership::contested(Arc::clone(&changed));
            let (namespace, name) = lease.split_once('/').unwrap_or(("kube-system", lease));
            let election = leader::elect(
                client.clone(),
                namespace.to_owned(),
                name.to_owned(),
                identity(),
                leadership.clone(),
            );
            tasks.spawn_until_stop("scheduler-lease", election);
            leadership
        }
        None => Leadership::alone(),
    };
    if config.measured_use {
        let load = extras::follow_load(client.clone(), Arc::clone(world), Arc::clone(&board));
        tasks.spawn_until_stop("scheduler-load", load);
    }
    let promoted = config.follow_promotions.then(|| {
        Promoted::follow(client.clone(), config.profiles.clone(), &board, &changed, tasks)
    });
    // Events name who wrote them: the profile's name, the first's where there are several.
    let controller = config.profiles.first().map(|profile| profile.scheduler_name.clone());
    let controller = controller.unwrap_or_default();
    let (events, written) = Events::begin(client.clone(), controller);
    tasks.spawn_until_stop("scheduler-events", written);
    let act = Arc::new(Act {
        events,
        client: client.clone(),
        world: Arc::clone(world),
        board: Arc::clone(&board),
        leadership: leadership.clone(),
    });
    let reservations =
        Reservations::follow(client, world, &board, &changed, leadership.clone(), tasks);
    let scheduler = Scheduler { act: Arc::clone(&act), ready: Ready::default() };
    let ready = scheduler.ready.clone();
    let driver = Driver { act, ready, csi, board, changed, leadership, promoted, config };
    tasks.spawn_until_stop("scheduler", driver.run(reservations));
    scheduler
}

/// A name that no other process has.
fn identity() -> String {
    format!("{}_{:016x}", std::process::id(), rand::random::<u64>())
}

struct Driver {
    act: Arc<Act>,
    ready: Ready,
    csi: Cache<CSINode>,
    board: Arc<Mutex<Board>>,
    changed: Arc<Notify>,
    leadership: Leadership,
    promoted: Option<Promoted>,
    config: Config,
}

impl Driver {
    async fn run(self, reservations: Reservations) {
        self.act.world.ready().await;
        self.csi.ready().await;
        if let Some(promoted) = &self.promoted {
            promoted.ready().await;
        }
        self.ready.set(true);
        tokio::select! {
            () = reservations.keep() => {}
            () = self.schedule() => {}
        }
    }

    async fn schedule(&self) {
        let (mut bindings, mut reports) = (FuturesUnordered::new(), FuturesUnordered::new());
        let mut budget = Budget::of(&self.config, Instant::now());
        loop {
            let now = Instant::now();
            let room = (self.config.bindings - bindings.len()).min(ROUND).min(budget.left(now));
            let room = if reports.len() >= REPORTS || !self.leadership.holds() { 0 } else { room };
            let (decisions, wake) = self.decide(now, room);
            let idle = decisions.is_empty();
            for decision in decisions {
                if matches!(decision.outcome, Outcome::Bind(_)) {
                    budget.spend();
                    bindings.push(self.act.bind(decision));
                } else {
                    reports.push(self.act.report(decision));
                }
            }
            if !idle && room > 0 {
                // Whoever waits for this thread, the watch above all, goes between rounds.
                tokio::task::yield_now().await;
            }
            let wake = if room > 0 { wake } else { budget.next(now) };
            tokio::select! {
                Some(_) = bindings.next(), if !bindings.is_empty() => {}
                Some(()) = reports.next(), if !reports.is_empty() => {}
                () = self.changed.notified() => {}
                () = wake_at(wake) => {}
            }
            // What ended with it needs no round of its own.
            while let Some(Some(_)) = bindings.next().now_or_never() {}
            while let Some(Some(())) = reports.next().now_or_never() {}
        }
    }

    fn decide(&self, now: Instant, room: usize) -> (Vec<Decision>, Option<Instant>) {
        let mut board = self.board.lock().expect("no holder of the lock panics");
        let begun = std::time::Instant::now();
        let decisions = if room > 0 { board.decide(now, room) } else { Vec::new() };
        let each = begun.elapsed() / u32::try_from(decisions.len().max(1)).unwrap_or(u32::MAX);
        let in_vain = |decision: &&Decision| !matches!(decision.outcome, Outcome::Bind(_));
        let unschedulable = decisions.iter().filter(in_vain).count();
        metrics::decided(each, unschedulable, decisions.len());
        metrics::queue(board.pending(), board.incoming());
        (decisions, board.next_due(now))
    }
}

/// How many bindings may begin, where that is limited: as client-go limits requests, by a bucket that
/// fills evenly.
struct Budget {
    per_second: Option<f64>,
    burst: f64,
    left: f64,
    filled: Instant,
}

impl Budget {
    /// An empty bucket holds back no longer than for a part of a second.
    const PART: f64 = 0.01;

    fn of(config: &Config, now: Instant) -> Self {
        let per_second = config.bindings_per_second.map(f64::from);
        let burst = config.bindings_burst.map(f64::from).or(per_second).unwrap_or_default();
        Self { per_second, burst, left: burst, filled: now }
    }

    fn left(&mut self, now: Instant) -> usize {
        let Some(rate) = self.per_second else { return usize::MAX };
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.left = (self.left + passed * rate).min(self.burst);
        self.filled = now;
        self.left.max(0.0) as usize
    }

    fn spend(&mut self) {
        self.left -= 1.0;
    }

    /// When a bucket that is empty has something in it again.
    fn next(&self, now: Instant) -> Option<Instant> {
        let rate = self.per_second?;
        let wanted = (rate * Self::PART).clamp(1.0, self.burst.max(1.0));
        (self.left < 1.0).then(|| now + Duration::from_secs_f64((wanted - self.left) / rate))
    }
}

async fn wake_at(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_configuration_is_refused_by_key() {
        fn check(text: &str, expected: &str) {
            let config = serde_json::from_str::<Config>(text).map_err(|error| error.to_string());
            let error = config
                .and_then(|config| config.validate().map_err(|error| crate::driver::chain(&error)))
                .unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(Config::default().validate().is_ok());
        check(r#"{"binding": 1}"#, "unknown field `binding`");
        check(r#"{"bindings": 0}"#, "bindings is 0");
        check(r#"{"profiles": []}"#, "at least one");
        check(r#"{"profiles": [{}, {}]}"#, "a name of its own");
        check(r#"{"lease": "name"}"#, "lease is name");
        check(r#"{"profiles": [{"loadCeiling": 200}]}"#, "loadCeiling");
    }

    #[test]
    fn a_limit_counts_bindings_and_lets_so_many_at_once() {
        let now = Instant::now();
        let after = |seconds: f64| now + Duration::from_secs_f64(seconds);
        let limited = |bindings_per_second, bindings_burst| {
            Budget::of(&Config { bindings_per_second, bindings_burst, ..Config::default() }, now)
        };
        assert_eq!(
            (limited(None, None).left(now), limited(None, None).next(now)),
            (usize::MAX, None)
        );
        let mut budget = limited(Some(2), None);
        assert_eq!((budget.left(now), budget.next(now)), (2, None));
        budget.spend();
        budget.spend();
        assert_eq!((budget.left(now), budget.next(now)), (0, Some(after(0.5))));
        assert_eq!(budget.left(after(0.5)), 1);
        assert_eq!(budget.left(after(60.0)), 2, "no more than the burst");
        assert_eq!(limited(Some(2), Some(7)).left(now), 7);
        // One more than is left may be spent: a gang goes as a whole.
        let mut spent = limited(Some(1), None);
        spent.spend();
        spent.spend();
        assert_eq!((spent.left(now), spent.next(now)), (0, Some(after(2.0))));
    }
}
