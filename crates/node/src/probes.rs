//! Asking containers how they are: startup, readiness and liveness probes.
//!
//! One task a probe of a running container. It tells the pod's worker only when its verdict
//! changes; what follows from a verdict is the plan's business.

pub(crate) mod ask;
pub(crate) mod verdict;

use std::collections::BTreeMap;
use std::time::Duration;

use berth_daemon::Tasks;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::cri::Cri;
use crate::events::Events;
use ask::Target;
use verdict::{Answer, Thresholds};
pub(crate) use verdict::{Kind, ProbeResults};

/// Right after its start a container is asked this often until it first says yes, so that it gets
/// traffic when it can take it and not up to a period later.
const EAGER_PERIOD: Duration = Duration::from_millis(50);
/// For so long; a slower container is asked at its own period.
const EAGER_TIME: Duration = Duration::from_secs(3);

/// A change of verdict.
#[derive(Debug)]
pub(crate) struct Told {
    pub id: String,
    pub kind: Kind,
    pub success: bool,
    pub message: String,
}

/// What probes of a node share.
#[derive(Clone)]
pub(crate) struct Asker {
    pub cri: Cri,
    pub events: Events,
    pub tasks: Tasks,
}

/// The probes of one pod's running containers.
pub(crate) struct Probes {
    asker: Asker,
    told: mpsc::Sender<Told>,
    running: BTreeMap<(String, Kind), Tasks>,
}

impl Probes {
    /// None yet; verdicts go to `told`.
    pub fn new(asker: Asker, told: mpsc::Sender<Told>) -> Self {
        Self { asker, told, running: BTreeMap::new() }
    }

    /// Asks exactly the probes in `wanted`; the time is when the container started.
    pub fn keep(&mut self, pod: &Pod, wanted: Vec<(Kind, Target, Timestamp)>) {
        self.running.retain(|(id, kind), tasks| {
            let keep = wanted.iter().any(|(k, target, _)| k == kind && target.id == *id);
            if !keep {
                tasks.cancel();
            }
            keep
        });
        for (kind, target, started) in wanted {
            let key = (target.id.clone(), kind);
            if self.running.contains_key(&key) {
                continue;
            }
            let Some(probe) = kind.of(&target.container).cloned() else { continue };
            let tasks = self.asker.tasks.child();
            let asking = Asking {
                asker: self.asker.clone(),
                told: self.told.clone(),
                pod: pod.clone(),
                kind,
                target,
                probe,
            };
            tasks.spawn_until_stop("probe", asking.run(started));
            self.running.insert(key, tasks);
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        for tasks in self.running.values() {
            tasks.cancel();
        }
    }
}

/// The probes that a running container is to be asked now: startup alone until it passed.
pub(crate) fn due(container: &Container, started: bool) -> Vec<Kind> {
    let kinds: &[Kind] =
        if started { &[Kind::Readiness, Kind::Liveness] } else { &[Kind::Startup] };
    kinds.iter().copied().filter(|kind| kind.of(container).is_some()).collect()
}

struct Asking {
    asker: Asker,
    told: mpsc::Sender<Told>,
    pod: Pod,
    kind: Kind,
    target: Target,
    probe: Probe,
}

impl Asking {
    async fn run(self, started: Timestamp) {
        let seconds = |given: Option<i32>, default: u64| {
            Duration::from_secs(given.and_then(|n| u64::try_from(n).ok()).unwrap_or(default))
        };
        let period = seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1));
        let delay = seconds(self.probe.initial_delay_seconds, 0);
        let age = Duration::try_from(Timestamp::now().duration_since(started)).unwrap_or_default();
        sleep(delay.saturating_sub(age)).await;
        let mut thresholds = Thresholds::of(&self.probe);
        if self.kind != Kind::Liveness && age < EAGER_TIME && thresholds.is_one_success_enough() {
            self.ask_eagerly(period).await;
        }
        let mut verdict = None;
        loop {
            let begun = Instant::now();
            let answer = ask::ask(&self.asker.cri, &self.target, &self.probe).await;
            let counted = match &answer {
                Answer::Success => thresholds.count(true),
                Answer::Failure(message) => {
                    self.complain(message);
                    thresholds.count(false)
                }
                Answer::Unknown => None,
            };
            if let Some(success) = counted
                && verdict != Some(success)
            {
                verdict = Some(success);
                self.tell(success, message_of(&answer)).await;
            }
            sleep(period.saturating_sub(begun.elapsed())).await;
        }
    }

    /// The first success ends it and is told; failures count for nothing yet.
    async fn ask_eagerly(&self, period: Duration) {
        let end = Instant::now() + EAGER_TIME.min(period.max(Duration::from_secs(1)));
        let mut wait = EAGER_PERIOD;
        while Instant::now() < end {
            if ask::ask(&self.asker.cri, &self.target, &self.probe).await == Answer::Success {
                self.tell(true, String::new()).await;
                sleep(period).await;
                return;
            }
            sleep(wait).await;
            wait = wait.mul_f64(1.25);
        }
    }

    fn complain(&self, message: &str) {
        let name = Some(self.target.container.name.as_str());
        let text = format!("{} probe failed: {message}", self.kind.word());
        self.asker.events.warning(&self.pod, name, "Unhealthy", text);
    }

    async fn tell(&self, success: bool, message: String) {
        let told = Told { id: self.target.id.clone(), kind: self.kind, success, message };
        // A worker that has gone needs no verdicts.
        drop(self.told.send(told).await);
    }
}

fn message_of(answer: &Answer) -> String {
    match answer {
        Answer::Failure(message) => message.clone(),
        Answer::Success | Answer::Unknown => String::new(),
    }
}
