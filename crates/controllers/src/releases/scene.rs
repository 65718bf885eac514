//! How things stand for one App: read off the caches.

use std::sync::Arc;

use berth_api::app::App;
use berth_api::release::{self, Release};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::Value;

use super::plan::{Main, Room};
use super::swap::Instance;
use super::transfer::Side;
use crate::driver::{Key, World, controller_of};
use crate::workloads::pod;

/// On a pod that is to be swapped: since when it has been kept from requests.
pub const DRAINED: &str = "berth.dev/drained-at";
/// On a pod that was swapped: the container that went.
pub const SWAPPED: &str = "berth.dev/swapped-from";
/// On a node of Berth's own kind.
const VOLUMES_DIR: &str = "berth.dev/volumes-dir";
/// On a reservation: where its slots are, written by the scheduler.
const SLOTS: &str = "berth.dev/reservation-slots";

/// The releases of one App, oldest first.
pub fn releases(all: Vec<Arc<Release>>, app: &App) -> Vec<Arc<Release>> {
    let ours = |one: &Arc<Release>| {
        controller_of(&one.metadata).is_some_and(|o| Some(&o.uid) == app.metadata.uid.as_ref())
    };
    let mut found: Vec<_> = all.into_iter().filter(ours).collect();
    found.sort_by_key(|one| one.spec.revision);
    found
}

/// The main workload.
pub fn main(world: &World, key: &Key, app: &App) -> Option<Main> {
    let ours = |meta: &ObjectMeta| {
        controller_of(meta).is_some_and(|o| Some(&o.uid) == app.metadata.uid.as_ref())
    };
    if app.spec.is_stateful() {
        let set = world.stateful_sets.at(key).filter(|set| ours(&set.metadata))?;
        return Some(of_stateful_set(&set));
    }
    let deployment = world.deployments.at(key).filter(|one| ours(&one.metadata))?;
    let set = largest_set(world, &deployment);
    Some(of_deployment(&deployment, set.as_deref()))
}

fn of_deployment(deployment: &Deployment, set: Option<&ReplicaSet>) -> Main {
    let spec = deployment.spec.as_ref();
    let status = deployment.status.clone().unwrap_or_default();
    let updated = status.updated_replicas.unwrap_or(0);
    let template = set.and_then(|set| set.spec.as_ref()?.template.as_ref());
    Main {
        release: deployment.annotations().get(release::OF).cloned(),
        side: Side {
            asked: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            there: status.replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0).min(updated),
        },
        updated,
        observed: status.observed_generation >= deployment.metadata.generation,
        paused: spec.and_then(|spec| spec.paused) == Some(true),
        set_release: template.and_then(number),
    }
}

fn of_stateful_set(set: &StatefulSet) -> Main {
    let spec = set.spec.as_ref();
    let status = set.status.clone().unwrap_or_default();
    // When all are of one revision, or go back to it, one count or the other may be left out.
    let same =
        status.update_revision.is_some() && status.update_revision == status.current_revision;
    let current = status.current_replicas.filter(|_| same).unwrap_or(0);
    let updated = status.updated_replicas.unwrap_or(0).max(current);
    Main {
        release: set.annotations().get(release::OF).cloned(),
        side: Side {
            asked: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            there: status.replicas,
            available: status.available_replicas.or(status.ready_replicas).unwrap_or(0),
        },
        updated,
        observed: status.observed_generation >= set.metadata.generation,
        paused: false,
        set_release: spec.and_then(|spec| number(&spec.template)),
    }
}

/// The Deployment's set that has most of its pods.
pub fn largest_set(world: &World, deployment: &Deployment) -> Option<Arc<ReplicaSet>> {
    let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
    let uid = deployment.metadata.uid.as_ref();
    let sets = world.replica_sets.list(namespace).into_iter();
    let ours = sets.filter(|set| controller_of(&set.metadata).map(|o| &o.uid) == uid);
    ours.max_by_key(|set| {
        let asked = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        (asked, set.metadata.creation_timestamp.clone().map(|time| time.0))
    })
}

fn number(template: &PodTemplateSpec) -> Option<i64> {
    template.metadata.as_ref()?.labels.as_ref()?.get(release::LABEL)?.parse().ok()
}

/// A set of pods beside the main workload's.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The Release whose it is.
    pub release: Option<String>,
    /// Its size.
    pub side: Side,
}

/// The App's sets of pods beside its main workload: ReplicaSets of its own, and StatefulSets of
/// another name.
pub fn candidates(world: &World, key: &Key, app: &App) -> Vec<Candidate> {
    let ours = |meta: &ObjectMeta| {
        controller_of(meta).is_some_and(|owner| {
            owner.kind == "App" && Some(&owner.uid) == app.metadata.uid.as_ref()
        })
    };
    let sets = world.replica_sets.list(&key.namespace).into_iter();
    let sets = sets.filter(|set| ours(&set.metadata)).map(|set| {
        let status = set.status.clone().unwrap_or_default();
        let side = Side {
            asked: set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
            there: status.replicas,
            available: status.available_replicas.unwrap_or(0),
        };
        Candidate { release: set.annotations().get(release::OF).cloned(), side }
    });
    let named = world.stateful_sets.list(&key.namespace).into_iter();
    let named = named.filter(|set| ours(&set.metadata) && set.name_any() != key.name);
    let named = named.map(|set| of_stateful_set(&set));
    sets.chain(named.map(|is| Candidate { release: is.release, side: is.side })).collect()
}

/// The App's pods that are to stay, as a swap sees them.
pub fn instances(pods: &[Arc<Pod>], app: &str) -> Vec<Instance> {
    let staying = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none() && !pod::is_finished(pod));
    staying.map(|pod| instance(pod, app)).collect()
}

fn instance(pod: &Pod, app: &str) -> Instance {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let main = statuses.into_iter().flatten().find(|status| status.name == app);
    let spec = pod.spec.as_ref();
    let wanted = spec.and_then(|spec| spec.containers.iter().find(|one| one.name == app));
    let since = pod.annotations().get(DRAINED);
    Instance {
        name: pod.name_any(),
        release: pod.labels().get(release::LABEL).cloned(),
        serves: pod.labels().get(release::TRAFFIC).map(|value| value == "on"),
        ready: pod::is_ready(pod),
        image: wanted.and_then(|container| container.image.clone()),
        container: main.and_then(|status| status.container_id.clone()),
        drained_at: since.and_then(|text| text.parse::<Timestamp>().ok()),
        swapped_from: pod.annotations().get(SWAPPED).cloned(),
        holds: pod.annotations().get(release::KEEP_ADDRESS).is_some_and(|value| value == "true"),
    }
}

/// Whether a reservation of `slots` is held.
pub fn room(reservation: Option<&ConfigMap>, slots: i32) -> Room {
    let stored = reservation.and_then(|map| map.annotations().get(SLOTS));
    let nodes: Value = stored.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let set: i64 = nodes
        .as_object()
        .map_or(0, |nodes| nodes.values().filter_map(|node| node["set"].as_i64()).sum());
    if set >= i64::from(slots) {
        return Room::Held;
    }
    let data = reservation.and_then(|map| map.data.as_ref());
    let amount = |key: &str, word: &str| {
        data.and_then(|data| data.get(key)).map(|amount| format!("{amount} {word}"))
    };
    let each: Vec<String> =
        [amount("cpu", "CPU"), amount("memory", "memory")].into_iter().flatten().collect();
    let each = if each.is_empty() { String::new() } else { format!(" (each {})", each.join(", ")) };
    Room::Missing(format!("{set} of {slots} reserved{each}"))
}

/// Whether two templates differ in nothing but the images of their containers and their labels.
pub fn only_images(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let bare = |template: &PodTemplateSpec| {
        let mut spec = template.spec.clone().unwrap_or_default();
        for container in &mut spec.containers {
            container.image = None;
        }
        spec
    };
    bare(a) == bare(b)
}

/// Why addresses cannot be handed on from pod to pod here; `None` where they can.
pub fn loses_addresses(nodes: &[Arc<Node>]) -> Option<String> {
    let foreign = nodes.iter().find(|node| !node.annotations().contains_key(VOLUMES_DIR));
    if let Some(node) = foreign {
        let name = node.name_any();
        return Some(format!("node {name} gives out addresses by a network that is not Berth's"));
    }
    let many = nodes.len() > 1;
    many.then(|| "an address belongs to its node, and there are several nodes".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stateful_set_that_goes_back_is_not_back_at_once() {
        let updated = |revisions: [&str; 2], counts: [Option<i32>; 2]| {
            let set = serde_json::from_value(json!({
                "metadata": {}, "spec": { "replicas": 3, "selector": {}, "template": {} },
                "status": { "replicas": 3, "readyReplicas": 3,
                    "currentRevision": revisions[0], "updateRevision": revisions[1],
                    "currentReplicas": counts[0], "updatedReplicas": counts[1] } }));
            of_stateful_set(&set.unwrap()).updated
        };
        assert_eq!(updated(["a", "b"], [Some(1), Some(2)]), 2, "a canary");
        assert_eq!(updated(["a", "a"], [Some(1), Some(1)]), 1, "taken back: two are still new");
        assert_eq!(updated(["a", "a"], [Some(3), None]), 3, "it is back");
    }
}
