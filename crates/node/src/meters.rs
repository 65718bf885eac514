//! What a container does, beside what the runtime counts of it: load, I/O, since when it runs.
//!
//! ```text
//!  states of its tasks, every 5 s ──▶ Load: 1, 5, 15 minutes ──┐             ┌▶ /stats/summary
//!  io.stat, or its processes' counts ──▶ Io ───────────────────┼─▶ readings ─┤
//!  its newest attempt ──▶ started ─────────────────────────────┘             └▶ a collector's stats
//! ```
//!
//! `top`, `uptime` and `iostat` within a container tell of the machine. A file system in front of
//! /proc (lxcfs) was refused: when its process ends, containers lose /proc until they start anew
//! (lxcfs issue 193). So the agent counts from outside, and nothing inside depends on it.
//!
//! What is kept is one [`Load`] and two sums for each container that runs, and goes with it. An
//! agent that starts anew begins with loads of nothing, as a machine does.

mod load;
mod read;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_daemon::Tasks;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cgroups::Layout;
use crate::config::Config;
use crate::pod::PodTable;

pub(crate) use load::Load;
pub(crate) use read::{Io, Place, Tally};

/// As often as the kernel counts for the machine's load (`LOAD_FREQ`).
const EVERY: Duration = Duration::from_secs(5);

/// What was read of one container.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    /// When this attempt began to run.
    pub started_at: Option<Timestamp>,
    /// None until it was looked at for the first time.
    pub load: Option<Load>,
    /// Tasks at the last look.
    pub tasks: Tally,
    /// Since it runs; none where the kernel does not count.
    pub io: Option<Io>,
}

impl Reading {
    /// Writes what no kubelet tells into a `container` of a summary, counted at `now`.
    pub fn tell(&self, container: &mut Value, now: &str) {
        container["startTime"] = json!(self.started_at.map(second));
        if let Some(load) = self.load {
            // Hundredths, as uptime shows them.
            let averages = load.0.map(|mean| (mean * 100.0).round() / 100.0);
            let tasks = self.tasks;
            container["load"] = json!({
                "time": now, "averages": averages, "tasks": tasks.all, "active": tasks.active,
            });
        }
        if let Some(io) = self.io {
            container["io"] = json!({
                "time": now, "readBytes": io.read_bytes, "writtenBytes": io.written_bytes,
            });
            if let Some((reads, writes)) = io.operations {
                container["io"]["reads"] = json!(reads);
                container["io"]["writes"] = json!(writes);
            }
        }
    }
}

/// As Kubernetes writes times: no parts of a second.
fn second(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// A container that runs.
pub(crate) struct Running {
    /// The runtime's.
    pub id: String,
    /// None where no cgroups are mounted.
    pub place: Option<Place>,
    pub started_at: Option<Timestamp>,
}

/// Says which containers run. Reads files.
type Find = dyn Fn() -> Vec<Running> + Send + Sync;

/// Where readings come from. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Meters {
    find: Arc<Find>,
    /// By the runtime's id.
    kept: Arc<Mutex<HashMap<String, Kept>>>,
}

#[derive(Debug, Default)]
struct Kept {
    looked: Option<Instant>,
    load: Load,
    tasks: Tally,
    io: read::Processes,
}

impl Meters {
    /// Looks at the containers of this node's own `pods` every five seconds until `tasks` stop.
    pub fn of_pods(config: &Config, pods: PodTable, tasks: &Tasks) -> Self {
        let layout = Layout::detect().map(Arc::new);
        let instance = config.instance.clone();
        Self::start(Box::new(move || running(&pods, layout.as_ref(), &instance)), tasks)
    }

    /// Looks at what `find` says every five seconds until `tasks` stop.
    pub fn start(find: Box<Find>, tasks: &Tasks) -> Self {
        let meters = Self { find: find.into(), kept: Arc::default() };
        let looking = meters.clone();
        tasks.spawn_until_stop("container meters", async move {
            let mut looks = tokio::time::interval(EVERY);
            looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                looks.tick().await;
                let meters = looking.clone();
                if let Err(error) = tokio::task::spawn_blocking(move || meters.look()).await {
                    tracing::warn!(%error, "cannot look at what containers do");
                }
            }
        });
        meters
    }

    /// Of every container that runs, by the runtime's id. I/O is read now, load was at the last
    /// look. Reads files: not for a thread of the runtime's own.
    pub fn readings(&self) -> HashMap<String, Reading> {
        let running = (self.find)();
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = |one: Running| {
            let kept = all.entry(one.id.clone()).or_default();
            let io = one.place.and_then(|place| kept.io.read(&place));
            let load = kept.looked.map(|_| kept.load);
            (one.id, Reading { started_at: one.started_at, load, tasks: kept.tasks, io })
        };
        running.into_iter().map(reading).collect()
    }

    fn look(&self) {
        let running = (self.find)();
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|id, _| running.iter().any(|one| one.id == *id));
        for Running { id, place, .. } in running {
            let Some(place) = place else { continue };
            let kept = all.entry(id).or_default();
            kept.tasks = read::tally(&place);
            let now = Instant::now();
            let since = kept.looked.replace(now).map_or(EVERY, |before| now - before);
            kept.load.count(kept.tasks.active, since);
            // What processes did that end before somebody asks.
            kept.io.read(&place);
        }
    }
}

/// What runs of `pods`, whose cgroups are below `instance`.
fn running(pods: &PodTable, layout: Option<&Arc<Layout>>, instance: &str) -> Vec<Running> {
    let mut found = Vec::new();
    for entry in pods.all() {
        let uid = entry.pod.metadata.uid.as_deref().unwrap_or_default();
        let pod = Path::new(instance).join(format!("pod{uid}"));
        for current in entry.containers.values().filter_map(|one| one.current.as_ref()) {
            if current.running {
                let place = |at: &Arc<Layout>| Place::Cgroup(at.clone(), pod.join(&current.id));
                found.push(Running {
                    id: current.id.clone(),
                    place: layout.map(place),
                    started_at: current.started_at,
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_left_out() {
        let started_at = Some("2026-11-21T19:00:07.9Z".parse().expect("a time"));
        let mut reading = Reading { started_at, ..Reading::default() };
        let time = "2026-11-21T20:00:00Z";
        let of = |reading: &Reading| {
            let mut container = json!({});
            reading.tell(&mut container, time);
            container
        };
        assert_eq!(of(&reading), json!({ "startTime": "2026-11-21T19:00:07Z" }));

        reading.load = Some(Load([1.236, 0.5, 0.0]));
        reading.tasks = Tally { active: 2, all: 9 };
        reading.io = Some(Io { read_bytes: 1, written_bytes: 2, operations: Some((3, 4)) });
        let container = of(&reading);
        let load = json!({ "time": time, "averages": [1.24, 0.5, 0.0], "tasks": 9, "active": 2 });
        assert_eq!(container["load"], load);
        let io = json!({
            "time": time, "readBytes": 1, "writtenBytes": 2, "reads": 3, "writes": 4,
        });
        assert_eq!(container["io"], io);
    }
}
