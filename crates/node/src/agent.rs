//! The agent: one worker for each pod that is bound to this node.
//!
//! What the API server does not mention is ended only after a complete list said so, or after it
//! told of the deletion: an API server that is away, or only starting, never costs a container.
//! What does not fit beside the pods that are here is refused and ends as Failed; see
//! [`crate::admission`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use berth_daemon::Tasks;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::api::{Api, ObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::{mpsc, watch};

use crate::admission::{Admission, Verdict, is_over};
use crate::config::Config;
use crate::cri::{Cri, CriError};
use crate::events::Events;
use crate::images::Images;
use crate::network::Addresses;
use crate::pod::plan::{Cause, End};
use crate::pod::steps::{RECORD, Shared};
use crate::pod::worker::{Desired, Worker};
use crate::pod::{PodTable, labels, resources};
use crate::runtime_events::RuntimeEvents;

/// What the message of a pod that was not taken begins with; its event does not.
const REJECTED: &str = "Pod was rejected: ";
/// Workers that ended and wait to be forgotten.
const QUEUE: usize = 256;

/// Starts the agent; it works until `tasks` stop. `table` shows its pods from then on.
pub fn start(client: kube::Client, config: Config, cri: Cri, table: PodTable, tasks: &Tasks) {
    let events = Events::start(client.clone(), &config.name, tasks);
    let runtime_events = RuntimeEvents::start(cri.clone(), &config.instance, tasks);
    let images = Images::new(cri.clone(), client.clone(), config.parallel_pulls);
    let shared = Arc::new(Shared {
        host_dns: crate::pod::dns::of_host(),
        memory_total: resources::memory_total(),
        addresses: Addresses::new(&config),
        config,
        cri,
        client,
        images,
        events,
        runtime_events,
        table,
        tasks: tasks.clone(),
    });
    tasks.spawn_until_stop("agent", run(shared));
}

struct Agent {
    shared: Arc<Shared>,
    workers: HashMap<String, watch::Sender<Desired>>,
    ended: mpsc::Sender<String>,
    admission: Admission,
    /// Pods that were taken and wait until others have ended, by whom they wait for.
    waiting: BTreeMap<String, (Arc<Pod>, BTreeSet<String>)>,
    /// Pods of the list that is being read.
    listing: BTreeMap<String, Arc<Pod>>,
    /// What the runtime has of pods that the API has not was looked at since the last list.
    swept: bool,
}

async fn run(shared: Arc<Shared>) {
    let api: Api<Pod> = Api::all(shared.client.clone());
    let ours = watcher::Config::default().fields(&format!("spec.nodeName={}", shared.config.name));
    let mut news = watcher(api, ours).default_backoff().into_stream().boxed();
    let (ended, mut gone) = mpsc::channel(QUEUE);
    let mut agent = Agent {
        admission: Admission::new(shared.client.clone(), &shared.config),
        shared,
        workers: HashMap::new(),
        ended,
        waiting: BTreeMap::new(),
        listing: BTreeMap::new(),
        swept: true,
    };
    let mut sweep = tokio::time::interval(std::time::Duration::from_secs(2));
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = news.try_next() => match event {
                Ok(Some(event)) => agent.take(event).await,
                Ok(None) => return,
                Err(error) => tracing::debug!(%error, "watching pods; tried again"),
            },
            Some(uid) = gone.recv() => {
                agent.workers.remove(&uid);
                agent.start_waiting();
            }
            // The runtime was away when its orphans were looked for.
            _ = sweep.tick(), if !agent.swept => agent.sweep().await,
        }
    }
}

impl Agent {
    async fn take(&mut self, event: Event<Pod>) {
        match event {
            Event::Apply(pod) => self.want(Arc::new(pod)).await,
            Event::Delete(pod) => self.give_up(Arc::new(pod)),
            Event::Init => self.listing.clear(),
            Event::InitApply(pod) => {
                let pod = Arc::new(pod);
                self.listing.insert(uid_of(&pod), pod);
            }
            Event::InitDone => {
                let missing: Vec<Arc<Pod>> = self
                    .workers
                    .iter()
                    .filter(|(uid, _)| !self.listing.contains_key(*uid))
                    .map(|(_, desired)| desired.borrow().pod.clone())
                    .collect();
                for pod in missing {
                    self.give_up(pod);
                }
                self.waiting.retain(|uid, _| self.listing.contains_key(uid));
                // What runs is counted before anything new is judged, and the oldest comes first.
                let mut listed: Vec<Arc<Pod>> = self.listing.values().cloned().collect();
                listed.sort_by_key(|pod| {
                    let is_new = !self.admission.is_settled(pod);
                    (is_new, pod.metadata.creation_timestamp.clone())
                });
                for pod in listed {
                    self.want(pod).await;
                }
                self.sweep().await;
            }
        }
    }

    /// The API has this pod, so or differently from before.
    async fn want(&mut self, pod: Arc<Pod>) {
        let uid = uid_of(&pod);
        if let Some(worker) = self.workers.get(&uid) {
            worker.send_modify(|desired| desired.pod = pod);
        } else if self.admission.is_settled(&pod) {
            self.waiting.remove(&uid);
            self.employ(Desired { pod, gone: false, end: None });
        } else if let Some((waiting, _)) = self.waiting.get_mut(&uid) {
            *waiting = pod;
        } else {
            self.admit(pod).await;
        }
        self.start_waiting();
    }

    /// Takes a pod that is new here, or refuses it.
    async fn admit(&mut self, pod: Arc<Pod>) {
        let others = self.present();
        match self.admission.judge(&pod, &others).await {
            Verdict::Taken => self.employ(Desired { pod, gone: false, end: None }),
            Verdict::TakenAfter(uids) => {
                for uid in &uids {
                    self.displace(uid);
                }
                self.waiting.insert(uid_of(&pod), (pod, uids.into_iter().collect()));
            }
            Verdict::Refused(cause) => {
                let events = &self.shared.events;
                let said = cause.message.trim_start_matches(REJECTED).to_owned();
                events.warning(&pod, None, cause.reason.clone(), said);
                self.employ(Desired { pod, gone: false, end: Some(End::Refused(cause)) });
            }
        }
    }

    /// The pods that have room here: all that were taken and are not known to have ended.
    fn present(&self) -> Vec<Arc<Pod>> {
        let worked_on = self.workers.values().filter_map(|worker| {
            let desired = worker.borrow();
            let refused = matches!(desired.end, Some(End::Refused(_)));
            (!desired.gone && !refused && !is_over(&desired.pod)).then(|| desired.pod.clone())
        });
        worked_on.chain(self.waiting.values().map(|(pod, _)| pod.clone())).collect()
    }

    /// Ends a pod for the sake of a critical one.
    fn displace(&mut self, uid: &str) {
        let message = "Preempted in order to admit critical pod".to_owned();
        let Some(worker) = self.workers.get(uid) else {
            self.waiting.remove(uid);
            return;
        };
        let pod = worker.borrow().pod.clone();
        self.shared.events.warning(&pod, None, "Preempting", message.clone());
        let end = End::Displaced(Cause { reason: "Preempting".to_owned(), message });
        worker.send_modify(|desired| desired.end = Some(end));
    }

    /// Starts those for whom room has been made.
    fn start_waiting(&mut self) {
        let runs = |uid: &String| {
            self.workers.get(uid).is_some_and(|worker| {
                let desired = worker.borrow();
                !desired.gone && !is_over(&desired.pod)
            })
        };
        let due = self.waiting.iter().filter(|(_, (_, before))| !before.iter().any(runs));
        let due: Vec<String> = due.map(|(uid, _)| uid.clone()).collect();
        for uid in due {
            if let Some((pod, _)) = self.waiting.remove(&uid) {
                self.employ(Desired { pod, gone: false, end: None });
            }
        }
    }

    /// The API has this pod no more.
    fn give_up(&mut self, pod: Arc<Pod>) {
        let uid = uid_of(&pod);
        self.waiting.remove(&uid);
        if let Some(worker) = self.workers.get(&uid) {
            worker.send_modify(|desired| (desired.pod, desired.gone) = (pod, true));
        }
        self.start_waiting();
    }

    fn employ(&mut self, desired: Desired) {
        let uid = uid_of(&desired.pod);
        let (sender, receiver) = watch::channel(desired);
        self.workers.insert(uid.clone(), sender);
        let worker = Worker::new(self.shared.clone(), receiver);
        let ended = self.ended.clone();
        self.shared.tasks.spawn_until_stop("pod worker", async move {
            worker.run().await;
            // The agent stops before its workers do.
            drop(ended.send(uid).await);
        });
    }

    /// Ends what the runtime has of pods that the list just read did not have.
    async fn sweep(&mut self) {
        match self.orphans().await {
            Ok(orphans) => {
                self.swept = true;
                for pod in orphans {
                    tracing::info!(pod = uid_of(&pod), "ending a pod that the API has forgotten");
                    self.employ(Desired { pod: Arc::new(pod), gone: true, end: None });
                }
            }
            Err(error) => {
                self.swept = false;
                tracing::debug!(%error, "looking for forgotten pods; tried again");
            }
        }
    }

    async fn orphans(&self) -> Result<Vec<Pod>, CriError> {
        let selector = [(labels::INSTANCE, self.shared.config.instance.as_str())];
        let cri = &self.shared.cri;
        let (sandboxes, containers) =
            tokio::try_join!(cri.list_pod_sandbox(&selector), cri.list_containers(&selector))?;
        let mut found: BTreeMap<String, Pod> = BTreeMap::new();
        for sandbox in sandboxes {
            let uid = sandbox.labels.get(labels::POD_UID).cloned().unwrap_or_default();
            if self.workers.contains_key(&uid) || found.contains_key(&uid) {
                continue;
            }
            let names = containers
                .iter()
                .filter(|container| container.labels.get(labels::POD_UID) == Some(&uid))
                .filter_map(|container| container.labels.get(labels::CONTAINER_NAME).cloned());
            let pod = self.remembered(&uid).await.unwrap_or_else(|| {
                let label = |key: &str| sandbox.labels.get(key).cloned();
                stub(&uid, label(labels::POD_NAMESPACE), label(labels::POD_NAME), names.collect())
            });
            found.insert(uid, pod);
        }
        Ok(found.into_values().collect())
    }

    /// The pod as it was when its sandbox was made.
    async fn remembered(&self, uid: &str) -> Option<Pod> {
        let path = self.shared.config.pod_dir(uid).join(RECORD);
        let bytes = tokio::fs::read(path).await.ok()?;
        let pod: Pod = serde_json::from_slice(&bytes).ok()?;
        (pod.metadata.uid.as_deref() == Some(uid)).then_some(pod)
    }
}

fn uid_of(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// As much of a pod as is needed to end it.
fn stub(
    uid: &str,
    namespace: Option<String>,
    name: Option<String>,
    containers: BTreeSet<String>,
) -> Pod {
    let containers = containers.into_iter().map(|name| Container { name, ..Container::default() });
    Pod {
        metadata: ObjectMeta {
            uid: Some(uid.to_owned()),
            namespace,
            name,
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec { containers: containers.collect(), ..PodSpec::default() }),
        status: None,
    }
}
