//! What a container does, beside what the runtime counts of it: load, I/O, since when it runs.
//!
//! ```text
//!  states of its tasks, every 5 s ──▶ Load: 1, 5, 15 minutes ──┐
//!  io.stat, or its processes' counts ──▶ Io ───────────────────┼─▶ readings ─▶ /stats/summary
//!  its newest attempt ──▶ started ─────────────────────────────┘
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
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_daemon::Tasks;
use jiff::Timestamp;

use crate::cgroups::Layout;
use crate::config::Config;
use crate::pod::PodTable;

pub(crate) use load::Load;
pub(crate) use read::{Io, Tally};

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

/// Where readings come from. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Meters {
    layout: Option<Arc<Layout>>,
    instance: String,
    pods: PodTable,
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

/// A container that runs.
struct Running {
    id: String,
    /// Its cgroup, below a hierarchy's root.
    cgroup: PathBuf,
    started_at: Option<Timestamp>,
}

impl Meters {
    /// Looks at the containers of `pods` every five seconds until `tasks` stop.
    pub fn start(config: &Config, pods: PodTable, tasks: &Tasks) -> Self {
        let meters = Self {
            layout: Layout::detect().map(Arc::new),
            instance: config.instance.clone(),
            pods,
            kept: Arc::default(),
        };
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
        let running = self.running();
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = |one: Running| {
            let kept = all.entry(one.id.clone()).or_default();
            let io = self.layout.as_deref().and_then(|at| kept.io.read(at, &one.cgroup));
            let load = kept.looked.map(|_| kept.load);
            (one.id, Reading { started_at: one.started_at, load, tasks: kept.tasks, io })
        };
        running.into_iter().map(reading).collect()
    }

    fn look(&self) {
        let Some(layout) = self.layout.as_deref() else { return };
        let running = self.running();
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|id, _| running.iter().any(|one| one.id == *id));
        for one in running {
            let kept = all.entry(one.id).or_default();
            kept.tasks = read::tally(layout, &one.cgroup);
            let now = Instant::now();
            let since = kept.looked.replace(now).map_or(EVERY, |before| now - before);
            kept.load.count(kept.tasks.active, since);
            // What processes did that end before somebody asks.
            kept.io.read(layout, &one.cgroup);
        }
    }

    fn running(&self) -> Vec<Running> {
        let mut found = Vec::new();
        for entry in self.pods.all() {
            let uid = entry.pod.metadata.uid.as_deref().unwrap_or_default();
            let pod = Path::new(&self.instance).join(format!("pod{uid}"));
            for current in entry.containers.values().filter_map(|one| one.current.as_ref()) {
                if current.running {
                    found.push(Running {
                        id: current.id.clone(),
                        cgroup: pod.join(&current.id),
                        started_at: current.started_at,
                    });
                }
            }
        }
        found
    }
}
