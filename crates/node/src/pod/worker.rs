//! One pod's worker: looks, plans, lets steps run, writes the status; then waits to be woken.
//!
//! ```text
//!  API object ─┐                        ┌─▶ steps (each a task) ─▶ outcome ─┐
//!  runtime ────┼─▶ observe ─▶ plan ─────┤                                   │
//!  probes ─────┤                        └─▶ status ─▶ API                   │
//!  timer ──────┘        ▲                                                   │
//!                       └───────────────────────────────────────────────────┘
//! ```
//!
//! Losing a worker loses nothing: the next one plans the same from what it finds.

mod known;
mod outcome;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_daemon::{Backoff, Tasks};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, Patch, PatchParams};
use tokio::sync::{Notify, mpsc, watch};

use super::facts::{self, Facts};
use super::plan::{Action, End, Plan, View, plan};
use super::runtime::{Life, Observer, RuntimeState};
use super::steps::{Outcome, Shared, Step};
use super::{container, status};
use crate::probes::ask::Target;
use crate::probes::{Asker, ProbeResults, Probes, Told, due};
use crate::volumes::Mounts;

/// Outcomes and verdicts that wait for the worker; a pod has fewer of both.
const QUEUE: usize = 64;
const STATUS_LIMIT: Duration = Duration::from_secs(10);
/// Steps that failed for no reason the API knows of are tried again after 1 s, at most 30 s.
const STEP_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What the API wants of a pod.
#[derive(Clone)]
pub(crate) struct Desired {
    pub pod: Arc<Pod>,
    /// The API server confirmed that the pod does not exist any more.
    pub gone: bool,
    /// The agent decided that it ends.
    pub end: Option<End>,
}

/// The worker of one pod.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    tasks: Tasks,
    uid: String,
    desired: watch::Receiver<Desired>,
    pod: Arc<Pod>,
    gone: bool,
    /// Something happened to a container.
    notify: Arc<Notify>,
    observer: Observer,
    runtime: Arc<RuntimeState>,
    facts: Facts,
    mounts: Option<Mounts>,
    results: ProbeResults,
    probes: Probes,
    told: mpsc::Receiver<Told>,
    done: mpsc::Receiver<(String, Finished)>,
    done_sender: mpsc::Sender<(String, Finished)>,
    /// Steps under way, by key: until when, and the handle that ends them.
    busy: BTreeMap<String, Timestamp>,
    handles: BTreeMap<String, Tasks>,
    /// Steps that failed and wait.
    held: BTreeMap<String, facts::Step>,
    watched: BTreeMap<String, i32>,
    /// The status that the API took last.
    written: Option<PodStatus>,
    /// The pod had ended before this worker came: its status says more than the runtime can.
    is_record: bool,
}

/// What a task of the worker came back with.
pub(crate) enum Finished {
    Step(Action, Box<Outcome>),
    Status(Box<Result<(PodStatus, Pod), String>>),
}

impl Worker {
    /// A worker that has not looked yet.
    pub fn new(shared: Arc<Shared>, desired: watch::Receiver<Desired>) -> Self {
        let Desired { pod, gone, end } = desired.borrow().clone();
        let (told_sender, told) = mpsc::channel(QUEUE);
        let (done_sender, done) = mpsc::channel(QUEUE);
        let tasks = shared.tasks.child();
        let asker =
            Asker { cri: shared.cri.clone(), events: shared.events.clone(), tasks: tasks.clone() };
        let mut known = known::of(&pod);
        known.facts.end = end;
        let room = crate::machine::allocatable(&shared.config);
        let whole = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
        known.facts.room = Some((whole(room.cpu_milli), whole(room.memory_bytes)));
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            is_record: matches!(phase, Some("Succeeded" | "Failed")),
            probes: Probes::new(asker, told_sender),
            facts: known.facts,
            results: known.results,
            notify: Arc::default(),
            observer: Observer::default(),
            runtime: Arc::default(),
            mounts: None,
            busy: BTreeMap::new(),
            handles: BTreeMap::new(),
            held: BTreeMap::new(),
            watched: BTreeMap::new(),
            written: None,
            shared,
            tasks,
            desired,
            pod,
            gone,
            told,
            done,
            done_sender,
        }
    }

    /// Works until nothing of the pod is left, here and in the API.
    pub async fn run(mut self) {
        self.shared.runtime_events.register(&self.uid, self.notify.clone());
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut stale = true;
        while !(self.facts.finished && self.gone) {
            if stale {
                match self.observer.observe(&self.shared.cri, &self.pod).await {
                    Ok(runtime) => {
                        self.runtime = Arc::new(runtime);
                        backoff.reset();
                    }
                    Err(error) => {
                        tracing::debug!(pod = self.uid, %error, "runtime not seen; held as it is");
                        stale = self.wait(Some(backoff.next_delay())).await || stale;
                        continue;
                    }
                }
                self.watch_exits();
            }
            let now = Timestamp::now();
            let plan = plan(&self.view(), now);
            self.note_ending(&plan, now);
            self.keep_probes(&plan);
            self.publish();
            let new = status::status(&self.view(), &plan, self.shared.config.address, now);
            let written = self.write_status(new);
            let mut wake = plan.wake;
            for action in plan.actions {
                // The last word on the pod comes before its end in the API.
                if action == Action::Finish && !written && !self.gone {
                    continue;
                }
                if let Err(at) = self.begin(action, now) {
                    wake = Some(wake.map_or(at, |wake| wake.min(at)));
                }
            }
            if let Some(failed) = self.held.get("status")
                && let Err(at) = failed.due(now)
            {
                wake = Some(wake.map_or(at, |wake| wake.min(at)));
            }
            if self.facts.finished && self.gone {
                break;
            }
            let limit = wake.map(|at| {
                Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
            });
            stale = self.wait(limit).await;
        }
        self.shared.runtime_events.forget(&self.uid);
        self.shared.table.remove(&self.uid);
        self.tasks.cancel();
    }

    fn view(&self) -> View<'_> {
        View {
            pod: &self.pod,
            gone: self.gone,
            runtime: &self.runtime,
            probes: &self.results,
            facts: &self.facts,
            busy: &self.busy,
        }
    }

    /// Waits for the next thing to happen and takes it in; whether the runtime may have changed.
    async fn wait(&mut self, limit: Option<Duration>) -> bool {
        let timer = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.notify.notified() => true,
            () = timer => true,
            Some(told) = self.told.recv() => {
                self.results.set(&told.id, told.kind, told.success, told.message);
                false
            }
            Some((key, finished)) = self.done.recv() => self.take(key, finished),
            changed = self.desired.changed() => {
                if changed.is_err() {
                    // The agent has stopped; containers stay as they are.
                    std::future::pending::<()>().await;
                }
                let desired = self.desired.borrow_and_update().clone();
                self.gone |= desired.gone;
                self.facts.end = self.facts.end.take().or(desired.end);
                self.adopt(desired.pod);
                false
            }
        }
    }

    /// Takes a newer object of the pod; an older one, overtaken by an answer, is let go.
    fn adopt(&mut self, pod: Arc<Pod>) {
        let version = |pod: &Pod| {
            pod.metadata.resource_version.as_deref().and_then(|v| v.parse::<u64>().ok())
        };
        if version(&pod) < version(&self.pod) {
            return;
        }
        let before: BTreeMap<String, Option<String>> = container::all(&self.pod)
            .into_iter()
            .map(|(_, one)| (one.name.clone(), one.image.clone()))
            .collect();
        for (_, one) in container::all(&pod) {
            if before.get(&one.name).is_some_and(|image| *image != one.image) {
                // What was fetched, or is being fetched, is for the image before.
                self.facts.images.remove(&one.name);
                let key = format!("image/{}", one.name);
                if let Some(fetching) = self.handles.remove(&key) {
                    fetching.cancel();
                    self.busy.remove(&key);
                }
            }
        }
        self.pod = pod;
    }

    /// On the way out nothing is fetched or begun any more, and hooks of the start are cut short.
    fn note_ending(&mut self, plan: &Plan, now: Timestamp) {
        if !plan.ending || self.facts.ending_since.is_some() {
            return;
        }
        self.facts.ending_since = Some(now);
        let busy = &mut self.busy;
        self.handles.retain(|key, tasks| {
            let pointless = ["image/", "volumes", "hook/"].iter().any(|kind| key.starts_with(kind));
            if pointless {
                tasks.cancel();
                busy.remove(key);
            }
            !pointless
        });
    }

    fn watch_exits(&mut self) {
        self.watched.retain(|id, _| self.runtime.containers.iter().any(|c| c.id == *id));
        for record in self.runtime.running() {
            if let Some(pid) = record.pid
                && self.watched.insert(record.id.clone(), pid) != Some(pid)
            {
                self.shared.runtime_events.watch_exit(&record.id, pid, self.notify.clone());
            }
        }
        let runtime = self.runtime.clone();
        let is_running = |id: &str| runtime.running().any(|record| record.id == id);
        self.results.retain(is_running);
        self.facts.hooks.retain(|id| is_running(id));
        self.facts.resources.retain(|id, _| is_running(id));
        self.facts.resize_failures.retain(|id, _| is_running(id));
    }

    /// Probes are asked of what runs, past its hook, until the pod has come to its end.
    fn keep_probes(&mut self, plan: &Plan) {
        let node = std::net::IpAddr::V4(self.shared.config.address);
        let address = self.runtime.address().unwrap_or(node);
        let mut wanted = Vec::new();
        for (_, container) in container::all(&self.pod) {
            let latest = self.runtime.latest(&container.name);
            let Some(record) = latest.filter(|record| record.life == Life::Running) else {
                continue;
            };
            let stopping = self.busy.contains_key(&format!("kill/{}", record.id));
            if self.facts.hooks.contains(&record.id) || plan.terminal {
                continue;
            }
            let started = self.results.started(&container, &record.id);
            for kind in due(&container, started) {
                // Readiness goes on to the end; nothing is restarted that is being stopped.
                if (stopping || plan.ending) && kind != crate::probes::Kind::Readiness {
                    continue;
                }
                let target =
                    Target { container: container.clone(), id: record.id.clone(), address };
                wanted.push((kind, target, record.started_at.unwrap_or_default()));
            }
        }
        self.probes.keep(&self.pod, wanted);
    }

    /// Starts a step; when it failed before and has to wait, says until when.
    fn begin(&mut self, action: Action, now: Timestamp) -> Result<(), Timestamp> {
        let key = action.key();
        if let Some(held) = self.held.get(&key) {
            held.due(now)?;
        }
        if let Some(earlier) = self.handles.remove(&key) {
            earlier.cancel();
        }
        let until = match &action {
            Action::Kill { until, .. } => *until,
            _ => Timestamp::MAX,
        };
        let image = match &action {
            Action::Start { container, .. } => match self.facts.images.remove(container) {
                Some(facts::ImageFact::Ready { reference, user }) => Some((reference, user)),
                _ => None,
            },
            _ => None,
        };
        let step = Step {
            shared: self.shared.clone(),
            pod: self.pod.clone(),
            gone: self.gone,
            runtime: self.runtime.clone(),
            mounts: self.mounts.clone(),
            image,
        };
        self.busy.insert(key.clone(), until);
        let tasks = self.tasks.child();
        let (cancelled, done) = (tasks.clone(), self.done_sender.clone());
        self.handles.insert(key.clone(), tasks.clone());
        tasks.spawn("pod step", async move {
            let outcome = tokio::select! {
                outcome = step.run(action.clone()) => outcome,
                () = cancelled.stopping() => return,
            };
            // A worker that has gone needs no outcome.
            drop(done.send((key, Finished::Step(action, Box::new(outcome)))).await);
        });
        Ok(())
    }

    /// Sends the status if it differs from what the API has; whether the API has it now.
    fn write_status(&mut self, new: PodStatus) -> bool {
        if self.is_record || self.gone || self.facts.finished {
            return true;
        }
        let old = self.pod.status.clone().unwrap_or_default();
        let Some(patch) = status::patch(&self.uid, &old, &new) else { return true };
        if self.written.as_ref() == Some(&new) {
            return true;
        }
        if self.busy.contains_key("status") {
            return false;
        }
        if self.held.get("status").is_some_and(|held| held.due(Timestamp::now()).is_err()) {
            return false;
        }
        self.busy.insert("status".to_owned(), Timestamp::MAX);
        let meta = &self.pod.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or("default");
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), namespace);
        let name = meta.name.clone().unwrap_or_default();
        let done = self.done_sender.clone();
        self.tasks.spawn_until_stop("pod status", async move {
            let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
            let sent = api.patch_status(&name, &params, &patch);
            let result = match tokio::time::timeout(STATUS_LIMIT, sent).await {
                Ok(Ok(pod)) => Ok((new, pod)),
                Ok(Err(kube::Error::Api(status))) => {
                    Err(format!("{}: {}", status.code, status.message))
                }
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no answer in time".to_owned()),
            };
            let finished = Finished::Status(Box::new(result));
            drop(done.send(("status".to_owned(), finished)).await);
        });
        false
    }
}
