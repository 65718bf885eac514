//! The scheduler's driver: which pods wait, what the cluster looks like, and binding.
//!
//! What is decided is in `berth_scheduler`. Here pods are taken in order of priority and age, each
//! placement is counted at once (long before the watch shows it, so that two pods never get the same
//! room), and pods that fit nowhere wait until something changed that could help, ever longer.
//!
//! Refuses: preemption.

mod board;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_daemon::Tasks;
use berth_scheduler::Profile;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::driver::{Error, Key, World, chain};
use board::{Board, Decision};

/// Bindings and reports under way at once.
const CALLS: usize = 32;
/// No call to the API server takes longer.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Starts the scheduler in `tasks`; it writes with `client`, as a user of its own.
pub fn start(client: Client, world: &Arc<World>, tasks: &Tasks) {
    let board = Arc::new(Mutex::new(Board::default()));
    let changed = Arc::new(Notify::new());
    board::wire(world, &board, &changed);
    let recorder = Recorder::new(
        client.clone(),
        Reporter { controller: "default-scheduler".to_owned(), instance: None },
    );
    let driver = Driver { client, recorder, world: Arc::clone(world), board, changed };
    tasks.spawn_until_stop("scheduler", driver.run());
}

struct Driver {
    client: Client,
    recorder: Recorder,
    world: Arc<World>,
    board: Arc<Mutex<Board>>,
    changed: Arc<Notify>,
}

impl Driver {
    async fn run(self) {
        self.world.ready().await;
        let profile = Profile::standard(0);
        let mut calls = FuturesUnordered::new();
        loop {
            let room = CALLS - calls.len();
            let (decisions, wake) = {
                let mut board = self.board.lock().expect("no holder of the lock panics");
                (board.decide(&profile, Instant::now(), room), board.next_due())
            };
            for decision in decisions {
                calls.push(self.carry_out(decision));
            }
            let full = calls.len() >= CALLS;
            tokio::select! {
                Some(()) = calls.next(), if !calls.is_empty() => {}
                () = self.changed.notified(), if !full => {}
                () = wake_at(wake), if !full => {}
            }
        }
    }

    async fn carry_out(&self, decision: Decision) {
        let Decision { key, uid, outcome } = decision;
        match outcome {
            Ok(placement) => {
                if let Err(error) = limited(self.bind(&key, &uid, &placement.node)).await {
                    if !error.is_stale_view() {
                        tracing::warn!(pod = %key, error = %chain(&error), "binding failed");
                    }
                    let now = self.world.pods.at(&key);
                    let mut board = self.board.lock().expect("no holder of the lock panics");
                    board.give_back(&key, now.as_deref(), Instant::now());
                }
            }
            Err(reason) => {
                if let Err(error) = limited(self.report(&key, &uid, &reason.to_string())).await
                    && !error.is_stale_view()
                {
                    tracing::warn!(pod = %key, error = %chain(&error), "report failed");
                }
            }
        }
    }

    async fn bind(&self, key: &Key, uid: &str, node: &str) -> Result<(), Error> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                uid: Some(uid.to_owned()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let _: serde_json::Value = self
            .pods(key)
            .create_subresource("binding", &key.name, &PostParams::default(), &binding)
            .await?;
        let note = format!("Successfully assigned {key} to {node}");
        self.tell(key, EventType::Normal, "Scheduled", "Binding", note).await
    }

    /// Says on the pod and in an Event why it fits nowhere; once for each reason.
    async fn report(&self, key: &Key, uid: &str, reason: &str) -> Result<(), Error> {
        let Some(pod) = self.world.pods.at(key) else { return Ok(()) };
        if pod.metadata.uid.as_deref() != Some(uid) || said(&pod, reason) {
            return Ok(());
        }
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": reason, "lastTransitionTime": Time(Timestamp::now()),
        });
        let patch = json!({
            "metadata": { "uid": uid },
            "status": { "conditions": [condition] },
        });
        let params = PatchParams::default();
        let pod = self.pods(key).patch_status(&key.name, &params, &Patch::Strategic(patch)).await?;
        self.world.pods.remember(pod);
        self.tell(key, EventType::Warning, "FailedScheduling", "Scheduling", reason.to_owned())
            .await
    }

    async fn tell(
        &self,
        key: &Key,
        kind: EventType,
        reason: &str,
        action: &str,
        note: String,
    ) -> Result<(), Error> {
        let Some(pod) = self.world.pods.at(key) else { return Ok(()) };
        let event = Event {
            type_: kind,
            reason: reason.to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary: None,
        };
        Ok(self.recorder.publish(&event, &pod.object_ref(&())).await?)
    }

    fn pods(&self, key: &Key) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }
}

/// Whether the pod's status gives this reason already.
fn said(pod: &Pod, reason: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.message.as_deref() == Some(reason)
    })
}

async fn limited(call: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    tokio::time::timeout(CALL_LIMIT, call).await.unwrap_or(Err(Error::TimedOut))
}

async fn wake_at(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
