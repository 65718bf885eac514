//! Carries decisions out: binds, says why not, evicts victims. Every call ends within a limit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_scheduler::preempt::Preemption;
use berth_scheduler::snapshot;
use berth_scheduler::volumes::Choice;
use k8s_openapi::api::core::v1::{
    Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;

use super::board::{Board, Decision, Outcome};
use super::events::{Events, Saying};
use super::leader::Leadership;
use super::{metrics, wire};
use crate::driver::{Error, Key, World, chain, gone_is_none, post};

/// No call to the API server takes longer.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// Volumes that are to be made or bound get so long.
const VOLUMES_LIMIT: Duration = Duration::from_secs(600);
/// How often claims that are awaited are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What acting needs.
pub struct Act {
    pub client: Client,
    pub events: Events,
    pub world: Arc<World>,
    pub board: Arc<Mutex<Board>>,
    pub leadership: Leadership,
}

impl Act {
    /// Binds a pod where it was decided to go, its claims first.
    ///
    /// # Errors
    /// Why it is not bound; the room is given back.
    pub async fn bind(&self, decision: Decision) -> Result<(), Error> {
        let Decision { key, pod, outcome, waited, attempts } = decision;
        let Outcome::Bind(placement) = outcome else { return Ok(()) };
        let begun = Instant::now();
        let _under_way = self.events.hold_back();
        let bound = async {
            if !pod.claims.is_empty() {
                self.bind_claims(&pod, &placement.node).await?;
            }
            limited(self.bind_pod(&key, &pod, &placement.node)).await
        };
        match bound.await {
            Ok(()) => {
                let took = begun.elapsed();
                metrics::bound(waited + took, attempts + 1, took);
                tracing::debug!(pod = %key, node = placement.node, attempts, "bound");
                let note = format!("Successfully assigned {key} to {}", placement.node);
                self.events.tell(&key, &pod.uid, Saying::Bound, note);
                Ok(())
            }
            Err(error) => {
                metrics::attempt("error", begun.elapsed());
                if !error.is_stale_view() {
                    tracing::warn!(pod = %key, error = %chain(&error), "binding failed");
                }
                // What the watch has not shown yet is asked for, lest the room be given twice.
                let object = match limited(self.read(&key)).await {
                    Ok(object) => object.map(Arc::new),
                    Err(_) => self.world.pods.at(&key),
                };
                let like = object.as_ref().and_then(|pod| wire::like(&self.world, pod));
                let mut board = self.board.lock().expect("no holder of the lock panics");
                board.give_back(&key, object.as_deref(), like, Instant::now());
                Err(error)
            }
        }
    }

    async fn read(&self, key: &Key) -> Result<Option<Pod>, Error> {
        Ok(self.pods(key).get_opt(&key.name).await?)
    }

    async fn bind_pod(&self, key: &Key, pod: &snapshot::Pod, node: &str) -> Result<(), Error> {
        if !self.leadership.holds() {
            return Err(Error::Unfinished("another scheduler may be at work".to_owned()));
        }
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                uid: Some(pod.uid.clone()),
                annotations: self.given(key, pod),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let path = format!("/api/v1/namespaces/{}/pods/{}/binding", key.namespace, key.name);
        Ok(post(&self.client, &path, &binding).await?)
    }

    /// The devices that a pod was given, as its annotation.
    fn given(&self, key: &Key, pod: &snapshot::Pod) -> Option<BTreeMap<String, String>> {
        if !pod.may_have_devices() {
            return None;
        }
        self.board.lock().expect("no holder of the lock panics").given(key)
    }

    /// Chooses volumes or has them made, and waits until every claim is bound.
    async fn bind_claims(&self, pod: &snapshot::Pod, node: &str) -> Result<(), Error> {
        let object = self.world.nodes.get("", node).ok_or(Error::Incomplete("its node"))?;
        let node = snapshot::node(&object);
        let choices = {
            let board = self.board.lock().expect("no holder of the lock panics");
            board.volumes.choose(pod, &node)
        };
        let choices =
            choices.map_err(|claim| Error::Unfinished(format!("no volume for claim {claim}")))?;
        if choices.is_empty() {
            return Ok(());
        }
        for choice in choices {
            limited(self.prepare(pod, &node.name, choice)).await?;
        }
        let all_bound = async {
            while !self.claims_are_bound(pod) {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(VOLUMES_LIMIT, all_bound).await.map_err(|_| Error::TimedOut)
    }

    async fn prepare(&self, pod: &snapshot::Pod, node: &str, choice: Choice) -> Result<(), Error> {
        let params = PatchParams::default();
        match choice {
            Choice::Make { claim } => {
                let api: Api<PersistentVolumeClaim> =
                    Api::namespaced(self.client.clone(), &pod.namespace);
                let patch = json!({ "metadata": { "annotations": {
                    "volume.kubernetes.io/selected-node": node } } });
                api.patch(&claim, &params, &Patch::Merge(patch)).await?;
            }
            Choice::Take { claim, volume } => {
                let object = self.world.claims.get(&pod.namespace, &claim);
                let object = object.ok_or(Error::Incomplete("its claim"))?;
                let known = self.world.volumes.get("", &volume);
                let known = known.ok_or(Error::Incomplete("its volume"))?;
                let api: Api<PersistentVolume> = Api::all(self.client.clone());
                // The version is that of the volume as it was free.
                let patch = json!({
                    "metadata": { "resourceVersion": known.metadata.resource_version },
                    "spec": { "claimRef": {
                        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                        "namespace": pod.namespace, "name": claim,
                        "uid": object.metadata.uid } } });
                api.patch(&volume, &params, &Patch::Merge(patch)).await?;
            }
        }
        Ok(())
    }

    fn claims_are_bound(&self, pod: &snapshot::Pod) -> bool {
        let board = self.board.lock().expect("no holder of the lock panics");
        pod.claims.iter().all(|name| {
            let key = format!("{}/{name}", pod.namespace);
            board.volumes.claims.get(&key).is_some_and(|claim| claim.bound)
        })
    }

    /// Says why a pod goes nowhere, and makes room where that was decided.
    pub async fn report(&self, decision: Decision) {
        let Decision { key, pod, outcome, .. } = decision;
        let Outcome::Refuse { why, preemption, note } = outcome else { return };
        let told = async {
            let mut text = why.to_string();
            if let Some(note) = note {
                text = format!("{text} {note}");
            }
            let node = preemption.as_ref().map(|preemption| preemption.node.as_str());
            self.say(&key, &pod.uid, &text, node).await?;
            match &preemption {
                Some(preemption) => self.evict(&pod, preemption).await,
                None => Ok(()),
            }
        };
        if let Err(error) = limited(told).await
            && !error.is_stale_view()
        {
            tracing::warn!(pod = %key, error = %chain(&error), "report failed");
        }
    }

    /// Says on the pod and in an Event why it fits nowhere; once for each reason.
    async fn say(
        &self,
        key: &Key,
        uid: &str,
        reason: &str,
        nominated: Option<&str>,
    ) -> Result<(), Error> {
        let Some(pod) = self.world.pods.at(key) else { return Ok(()) };
        if pod.metadata.uid.as_deref() != Some(uid) || (said(&pod, reason) && nominated.is_none()) {
            return Ok(());
        }
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": reason, "lastTransitionTime": Time(Timestamp::now()),
        });
        let mut status = json!({ "conditions": [condition] });
        if let Some(node) = nominated {
            status["nominatedNodeName"] = json!(node);
        }
        let patch = json!({ "metadata": { "uid": uid }, "status": status });
        let params = PatchParams::default();
        let pod = self.pods(key).patch_status(&key.name, &params, &Patch::Strategic(patch)).await?;
        self.world.pods.remember(pod);
        self.events.tell(key, uid, Saying::Failed, reason.to_owned());
        Ok(())
    }

    /// Ends the victims of a preemption, each as the very pod that was meant.
    async fn evict(&self, pod: &snapshot::Pod, preemption: &Preemption) -> Result<(), Error> {
        metrics::preempted(preemption.victims.len());
        let all = preemption.victims.iter().filter(|victim| !victim.terminating);
        let all = all.map(|victim| self.displace(pod, victim, &preemption.node));
        futures::future::try_join_all(all).await.map(drop)
    }

    async fn displace(
        &self,
        pod: &snapshot::Pod,
        victim: &snapshot::Pod,
        node: &str,
    ) -> Result<(), Error> {
        if !self.leadership.holds() {
            return Err(Error::Unfinished("another scheduler may be at work".to_owned()));
        }
        let key = Key::new(victim.namespace.clone(), victim.name.clone());
        let text = format!("{}: preempting to accommodate a higher priority pod", pod.scheduler);
        let patch = json!({ "metadata": { "uid": victim.uid }, "status": { "conditions": [{
            "type": "DisruptionTarget", "status": "True",
            "reason": "PreemptionByScheduler", "message": text,
            "lastTransitionTime": Time(Timestamp::now()) }] } });
        let params = PatchParams::default();
        let api = self.pods(&key);
        let marked = api.patch_status(&key.name, &params, &Patch::Strategic(patch)).await;
        if gone_is_none(marked)?.is_none() {
            return Ok(());
        }
        let uid = Some(victim.uid.clone());
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid, resource_version: None }),
            ..DeleteParams::default()
        };
        gone_is_none(api.delete(&key.name, &params).await)?;
        let note = format!("Preempted by pod {} on node {node}", pod.uid);
        self.events.tell(&key, &victim.uid, Saying::Displaced, note);
        Ok(())
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

/// What the call gives, or [`Error::TimedOut`] after half a minute.
pub async fn limited<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(CALL_LIMIT, call).await.unwrap_or(Err(Error::TimedOut))
}
