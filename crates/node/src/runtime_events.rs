//! Noticing what happens to containers without asking all the time.
//!
//! Three ways, from the fastest to the surest: a process handle (pidfd) on each running container
//! fires within milliseconds of its end; runtimes that have it send container events; and a list of
//! everything every few seconds finds what both missed. All they do is wake the pod's worker, which
//! looks for itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_daemon::{Backoff, Tasks};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::cri::{Cri, v1};
use crate::descriptor;
use crate::pod::labels;

/// Two small lists; at rest this is the agent's only work.
const RELIST: Duration = Duration::from_secs(4);
/// A runtime learns of an end a little after the kernel.
const SETTLE_FIRST: Duration = Duration::from_millis(2);
const SETTLE_MOST: Duration = Duration::from_secs(10);

/// Wakes workers when something happened to their containers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RuntimeEvents {
    cri: Cri,
    tasks: Tasks,
    workers: Arc<Mutex<HashMap<String, Arc<Notify>>>>,
}

impl RuntimeEvents {
    /// Starts listing and listening.
    pub fn start(cri: Cri, instance: &str, tasks: &Tasks) -> Self {
        let events = Self { cri, tasks: tasks.clone(), workers: Arc::default() };
        tasks.spawn_until_stop("relist", events.clone().relist(instance.to_owned()));
        tasks.spawn_until_stop("runtime events", events.clone().listen());
        events
    }

    /// Wakes `worker` from now on when something happens to the pod `uid`.
    pub fn register(&self, uid: &str, worker: Arc<Notify>) {
        self.workers().insert(uid.to_owned(), worker);
    }

    /// The pod's worker has gone.
    pub fn forget(&self, uid: &str) {
        self.workers().remove(uid);
    }

    /// Wakes `worker` as soon as the runtime knows that the process `pid` of container `id` ended.
    pub fn watch_exit(&self, id: &str, pid: i32, worker: Arc<Notify>) {
        let handle = Pid::from_raw(pid)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK).ok())
            .and_then(|handle| descriptor::readable(handle).ok());
        let (cri, id) = (self.cri.clone(), id.to_owned());
        self.tasks.spawn_until_stop("container exit", async move {
            // Without a handle it has ended already.
            if let Some(handle) = handle
                && handle.readable().await.is_err()
            {
                return;
            }
            let mut backoff = Backoff::new(SETTLE_FIRST, SETTLE_MOST / 10);
            let settled = async {
                while still_running(&cri, &id).await {
                    sleep(backoff.next_delay()).await;
                }
            };
            // Whatever came of it, the worker looks for itself.
            drop(tokio::time::timeout(SETTLE_MOST, settled).await);
            worker.notify_one();
        });
    }

    fn workers(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Notify>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, uid: &str) {
        if let Some(worker) = self.workers().get(uid) {
            worker.notify_one();
        }
    }

    async fn relist(self, instance: String) {
        let mut before: BTreeMap<String, BTreeSet<(String, i32)>> = BTreeMap::new();
        let mut away = false;
        loop {
            sleep(RELIST).await;
            let selector = [(labels::INSTANCE, instance.as_str())];
            let listed = tokio::try_join!(
                self.cri.list_pod_sandbox(&selector),
                self.cri.list_containers(&selector)
            );
            let (sandboxes, containers) = match listed {
                Ok(listed) => listed,
                Err(error) => {
                    if !away {
                        tracing::warn!(%error, "the runtime is away; pods are held as they are");
                    }
                    away = true;
                    continue;
                }
            };
            let mut now: BTreeMap<String, BTreeSet<(String, i32)>> = BTreeMap::new();
            let sandboxes = sandboxes.into_iter().map(|s| (s.labels, s.id, s.state));
            let containers = containers.into_iter().map(|c| (c.labels, c.id, c.state));
            for (labels, id, state) in sandboxes.chain(containers) {
                let uid = labels.get(labels::POD_UID).cloned().unwrap_or_default();
                now.entry(uid).or_default().insert((id, state));
            }
            if std::mem::take(&mut away) {
                tracing::info!("the runtime is back");
                self.workers().values().for_each(|worker| worker.notify_one());
            }
            let uids: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
            uids.into_iter().filter(|uid| before.get(*uid) != now.get(*uid)).for_each(|uid| {
                self.wake(uid);
            });
            before = now;
        }
    }

    async fn listen(self) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        loop {
            match self.cri.container_events().await {
                Ok(mut events) => {
                    while let Ok(Some(event)) = events.message().await {
                        backoff.reset();
                        let sandbox = event.pod_sandbox_status.unwrap_or_default();
                        self.wake(&sandbox.metadata.unwrap_or_default().uid);
                    }
                }
                // Older runtimes: the other two ways are enough.
                Err(error) if error.is_unimplemented() => return,
                Err(error) => tracing::debug!(%error, "container events"),
            }
            sleep(backoff.next_delay()).await;
        }
    }
}

/// `true` also when the runtime did not answer: it is asked again.
async fn still_running(cri: &Cri, id: &str) -> bool {
    match cri.container_status(id, false).await {
        Ok((status, _)) => status.state() == v1::ContainerState::ContainerRunning,
        Err(error) => !error.is_not_found(),
    }
}
