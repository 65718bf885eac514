//! Defragmentation on a live cluster: read, planned as `berth_scheduler::defrag` does, and, where
//! that is asked for, done one pod at a time.
//!
//! ```text
//!  cordon what is to be empty ─▶ for each move: is it still that pod there? ─▶ evict (its budget
//!  is asked) ─▶ wait until its successor is ready ─▶ the next
//!          └── a surprise anywhere: nothing more moves, nodes that are not empty are uncordoned
//! ```
//!
//! Nothing is written down in between: whoever starts again makes a new plan from what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use berth_scheduler::defrag::{Aim, Move, Plan, Standing, plan};
use berth_scheduler::snapshot::{self, Rebuild};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde::de::IgnoredAny;
use serde_json::json;

use super::board::Board;
use super::board::asked::unplaced;
use super::live::{LookError, look};
use super::{Config, wire};
use crate::driver::{World, controller_of};

/// No call takes longer.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// A successor that is not ready by then is a surprise: its image may be large, its start slow.
const READY_LIMIT: Duration = Duration::from_secs(600);
/// The priority from which on pods are the system's own.
const SYSTEM_PRIORITY: i32 = 1_000_000_000;
/// What the cluster autoscaler's users say of a pod that may, or may not, be moved.
const SAFE: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";

/// Why moving stopped.
#[derive(Debug, thiserror::Error)]
pub enum Surprise {
    /// The server refused, or was not reached.
    #[error("call the API server")]
    Api(#[from] kube::Error),
    /// No answer.
    #[error("no answer within {} s", CALL_LIMIT.as_secs())]
    NoAnswer,
    /// The watch ended.
    #[error("follow the pods")]
    Watch(#[from] watcher::Error),
    /// A pod is not what was planned with.
    #[error("{0} is not the pod on the node that was planned with")]
    Changed(String),
    /// Its budget lets none go.
    #[error("{0} may not go now: {1}")]
    Refused(String, String),
    /// The successor finds no node.
    #[error("the successor of {0} finds no node: {1}")]
    Unschedulable(String, String),
    /// The successor went where it was not expected, to a node that is to be empty.
    #[error("the successor of {0} went to {1}, which is to be empty")]
    Astray(String, String),
    /// The successor failed.
    #[error("the successor of {0} failed")]
    Failed(String),
    /// The successor did not become ready.
    #[error("the successor of {0} is not ready after {limit} s", limit = READY_LIMIT.as_secs())]
    NotReady(String),
    /// Somebody asked for an end.
    #[error("interrupted")]
    Interrupted,
}

/// What happened, as it happens.
#[derive(Clone, Debug)]
pub enum Step<'a> {
    /// This is next.
    Begun(&'a Move),
    /// The successor is ready on this node.
    Done(&'a Move, String),
    /// Nothing is left on this node but what belongs to it; it stays cordoned.
    Freed(&'a str),
}

/// Reads the cluster and plans; nothing is written.
///
/// # Errors
/// [`LookError`] where the cluster could not be read.
pub async fn defrag(client: &Client, config: &Config, aim: &Aim) -> Result<Plan, LookError> {
    look(client, config, |world, board, _| {
        let pods = world.pods.all();
        let of = |pod: &Arc<Pod>| (pod.uid().unwrap_or_default(), standing(world, board, pod));
        let standings = pods.iter().map(of).collect();
        let budgets: Vec<_> = board.budgets.values().cloned().collect();
        plan(&mut board.cluster, &standings, &budgets, aim)
    })
    .await
}

fn standing(world: &World, board: &Board, object: &Pod) -> Standing {
    if let Some(standing) = fixed(object) {
        return standing;
    }
    let pod = unplaced(object, wire::like(world, object));
    if pod.gang.is_some() {
        return Standing::Pinned("is one of a gang".to_owned());
    }
    if pod.rebuild == Some(Rebuild::Required) {
        return Standing::Pinned("must stay where it is".to_owned());
    }
    let uid = format!("{}+", pod.uid);
    let mut successor = snapshot::Pod { uid, nominated: None, ..snapshot::Pod::clone(&pod) };
    match board.volumes.needs(&successor) {
        Ok(volumes) => successor.volumes = volumes,
        Err(why) => return Standing::Pinned(format!("has a volume that is not ready: {why}")),
    }
    Standing::Moves(Arc::new(successor))
}

/// What the object itself says against its moving.
fn fixed(pod: &Pod) -> Option<Standing> {
    let pinned = |why: &str| Some(Standing::Pinned(why.to_owned()));
    let spec = pod.spec.as_ref()?;
    let owner = controller_of(&pod.metadata);
    match owner.map(|owner| owner.kind.as_str()) {
        Some("DaemonSet" | "Node") => return Some(Standing::OfNode),
        Some("Job") => return pinned("runs to an end, and would begin anew"),
        Some(_) => {}
        None => return pinned("is nobody's: nothing would make it anew"),
    }
    let system = pod.namespace().is_some_and(|name| name == "kube-system")
        || spec.priority.is_some_and(|priority| priority >= SYSTEM_PRIORITY);
    if system {
        return pinned("is the system's");
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return pinned("is being deleted");
    }
    let safe = pod.annotations().get(SAFE).map(String::as_str);
    if safe == Some("false") {
        return pinned("says that it is not safe to evict");
    }
    let local = spec.volumes.iter().flatten().find(|volume| {
        let on_disk = |medium: Option<&str>| medium != Some("Memory");
        let empty = volume.empty_dir.as_ref().map(|empty| on_disk(empty.medium.as_deref()));
        volume.host_path.is_some() || empty == Some(true)
    });
    match local {
        Some(volume) if safe != Some("true") => {
            Some(Standing::Pinned(format!("keeps data on its node in the volume {}", volume.name)))
        }
        _ => None,
    }
}

/// Makes the moves of `plan` one after the other, until the first surprise or until `stop`.
///
/// Nodes that are empty stay cordoned; those that are not when it stops are uncordoned, unless they
/// were cordoned before.
///
/// # Errors
/// What stopped it. What was moved stays moved.
pub async fn carry_out(
    client: &Client,
    plan: &Plan,
    stop: impl Future<Output = ()>,
    mut tell: impl FnMut(Step<'_>),
) -> Result<(), Surprise> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut cordoned: BTreeSet<&str> = BTreeSet::new();
    let outcome = tokio::select! {
        biased;
        () = stop => Err(Surprise::Interrupted),
        outcome = moves(client, &nodes, plan, &mut cordoned, &mut tell) => outcome,
    };
    if outcome.is_err() {
        for name in cordoned {
            if let Err(error) = cordon(&nodes, name, false).await {
                tracing::warn!(node = name, %error, "it stays cordoned");
            }
        }
    }
    outcome
}

async fn moves<'a>(
    client: &Client,
    nodes: &Api<Node>,
    plan: &'a Plan,
    cordoned: &mut BTreeSet<&'a str>,
    tell: &mut impl FnMut(Step<'_>),
) -> Result<(), Surprise> {
    for name in &plan.freed {
        let node = limited(nodes.get(name)).await?;
        if !node.spec.and_then(|spec| spec.unschedulable).unwrap_or(false) {
            // Before the call: whoever is interrupted within it must take it back.
            cordoned.insert(name);
            cordon(nodes, name, true).await?;
        }
    }
    for name in &plan.freed {
        for each in plan.moves.iter().filter(|each| each.from == *name) {
            tell(Step::Begun(each));
            let to = one(client, plan, each).await?;
            tell(Step::Done(each, to));
        }
        cordoned.remove(name.as_str());
        tell(Step::Freed(name));
    }
    Ok(())
}

async fn cordon(nodes: &Api<Node>, name: &str, on: bool) -> Result<(), Surprise> {
    let patch = Patch::Merge(json!({ "spec": { "unschedulable": on } }));
    limited(nodes.patch(name, &PatchParams::default(), &patch)).await?;
    Ok(())
}

/// Evicts one pod and waits for its successor; where that is.
async fn one(client: &Client, plan: &Plan, each: &Move) -> Result<String, Surprise> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &each.namespace);
    let whose = format!("{}/{}", each.namespace, each.pod);
    let known = limited(pods.list(&ListParams::default())).await?;
    let pod = known.items.iter().find(|pod| pod.name_any() == each.pod);
    let pod = pod.filter(|pod| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        pod.uid().as_deref() == Some(&*each.uid)
            && node == Some(&*each.from)
            && pod.metadata.deletion_timestamp.is_none()
    });
    let owner = pod.and_then(|pod| controller_of(&pod.metadata)).map(|owner| owner.uid.clone());
    let Some(owner) = owner else { return Err(Surprise::Changed(whose)) };
    let before: BTreeSet<String> = known.items.iter().filter_map(ResourceExt::uid).collect();
    evict(&pods, each, &whose).await?;
    let successor = successor(&pods, &owner, &before, plan, &whose);
    match tokio::time::timeout(READY_LIMIT, successor).await {
        Ok(found) => found,
        Err(_) => Err(Surprise::NotReady(whose)),
    }
}

async fn evict(pods: &Api<Pod>, each: &Move, whose: &str) -> Result<(), Surprise> {
    // `Api::evict` names the options as no server reads them, and the UID would not be asked for.
    let body = json!({ "metadata": { "namespace": each.namespace, "name": each.pod },
        "deleteOptions": { "preconditions": { "uid": each.uid } } });
    let params = PostParams::default();
    let posted = pods.create_subresource::<_, IgnoredAny>("eviction", &each.pod, &params, &body);
    match limited(posted).await {
        Err(Surprise::Api(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
            Err(Surprise::Changed(whose.to_owned()))
        }
        Err(Surprise::Api(kube::Error::Api(status))) if matches!(status.code, 429 | 500) => {
            Err(Surprise::Refused(whose.to_owned(), status.message.clone()))
        }
        other => other.map(|_| ()),
    }
}

/// The node on which the pod is ready that `owner` made since.
async fn successor(
    pods: &Api<Pod>,
    owner: &str,
    before: &BTreeSet<String>,
    plan: &Plan,
    whose: &str,
) -> Result<String, Surprise> {
    let events = watcher(pods.clone(), watcher::Config::default()).default_backoff();
    let mut seen = std::pin::pin!(events.applied_objects().fuse());
    while let Some(pod) = seen.try_next().await? {
        let is_its = controller_of(&pod.metadata).is_some_and(|own| own.uid == owner);
        let is_new = pod.uid().is_some_and(|uid| !before.contains(&uid));
        if !is_its || !is_new || pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let status = pod.status.clone().unwrap_or_default();
        let conditions: BTreeMap<String, (String, String)> = status
            .conditions
            .into_iter()
            .flatten()
            .map(|each| (each.type_, (each.status, each.message.unwrap_or_default())))
            .collect();
        if status.phase.as_deref() == Some("Failed") {
            return Err(Surprise::Failed(whose.to_owned()));
        }
        let Some(node) = pod.spec.and_then(|spec| spec.node_name) else {
            if let Some((state, why)) = conditions.get("PodScheduled")
                && state == "False"
            {
                return Err(Surprise::Unschedulable(whose.to_owned(), why.clone()));
            }
            continue;
        };
        if plan.freed.contains(&node) {
            return Err(Surprise::Astray(whose.to_owned(), node));
        }
        if conditions.get("Ready").is_some_and(|(state, _)| state == "True") {
            return Ok(node);
        }
    }
    Err(Surprise::NotReady(whose.to_owned()))
}

async fn limited<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Surprise> {
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Surprise::NoAnswer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_tells_itself_why_it_may_not_move() {
        fn check(owner: Option<&str>, more: serde_json::Value, expected: &str) {
            let owners = owner.map(|kind| {
                json!([{ "apiVersion": "v1", "kind": kind, "name": "o", "uid": "o",
                    "controller": true }])
            });
            let mut pod = json!({ "metadata": { "name": "p", "namespace": "n",
                "ownerReferences": owners }, "spec": { "containers": [] } });
            for part in ["metadata", "spec"] {
                for (key, value) in more[part].as_object().into_iter().flatten() {
                    pod[part][key] = value.clone();
                }
            }
            let found = match fixed(&serde_json::from_value(pod).unwrap()) {
                Some(Standing::Pinned(why)) => why,
                Some(Standing::OfNode) => "of its node".to_owned(),
                Some(Standing::Moves(_)) | None => "moves".to_owned(),
            };
            assert!(found.contains(expected), "{found}, not {expected}");
        }
        let none = json!({});
        check(Some("ReplicaSet"), none.clone(), "moves");
        check(Some("DaemonSet"), none.clone(), "of its node");
        check(Some("Job"), none.clone(), "runs to an end");
        check(None, none, "nobody's");
        let of = |what: serde_json::Value| json!({ "spec": { "volumes": [what] } });
        check(Some("ReplicaSet"), of(json!({ "name": "v", "emptyDir": {} })), "keeps data");
        let memory = json!({ "name": "v", "emptyDir": { "medium": "Memory" } });
        check(Some("ReplicaSet"), of(memory), "moves");
        let disk = of(json!({ "name": "v", "hostPath": { "path": "/d" } }));
        check(Some("StatefulSet"), disk.clone(), "keeps data");
        let mut safe = disk;
        safe["metadata"] = json!({ "annotations": { SAFE: "true" } });
        check(Some("StatefulSet"), safe, "moves");
        let system = json!({ "metadata": { "namespace": "kube-system" } });
        check(Some("ReplicaSet"), system, "the system's");
        let critical = json!({ "spec": { "priority": 2_000_000_000 } });
        check(Some("ReplicaSet"), critical, "the system's");
        let not = json!({ "metadata": { "annotations": { SAFE: "false" } } });
        check(Some("ReplicaSet"), not, "not safe");
    }
}
