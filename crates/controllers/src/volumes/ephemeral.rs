//! Claims of a pod's own: one for each `volumes[].ephemeral`, gone when the pod is.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PostParams;
use kube::runtime::events::EventType;

use crate::driver::{Controller, Error, Key, Queue, World};
use crate::workloads::recorder::Recorder;
use crate::workloads::{Note, pod};

/// Makes the claims; the garbage collector ends them.
pub(super) struct Ephemeral {
    recorder: Recorder,
}

impl Ephemeral {
    pub(super) fn new(world: &World) -> Self {
        Self { recorder: Recorder::new(world, Self::NAME) }
    }
}

impl Controller for Ephemeral {
    const NAME: &'static str = "ephemeral-volume-controller";
    type Key = Key;

    fn wire(&self, world: &World, queue: &Queue<Key>) {
        let waiting = queue.clone();
        world.pods.subscribe(move |change| {
            let Some(pod) = change.new.filter(|_| change.old.is_none()) else { return };
            if !missing_from(pod).is_empty() {
                waiting.add(Key::of(&pod.metadata));
            }
        });
        // A claim in a pod's way may have gone.
        let (waiting, pods) = (queue.clone(), world.pods.clone());
        world.claims.subscribe(move |change| {
            if change.new.is_some() {
                return;
            }
            let meta = &change.latest().metadata;
            let namespace = meta.namespace.as_deref().unwrap_or_default();
            for pod in pods.list(namespace) {
                if missing_from(&pod).iter().any(|claim| claim.metadata.name == meta.name) {
                    waiting.add(Key::of(&pod.metadata));
                }
            }
        });
    }

    async fn reconcile(&self, world: &World, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(pod) = world.pods.at(key) else { return Ok(None) };
        for claim in missing_from(&pod) {
            let name = claim.metadata.name.clone().unwrap_or_default();
            let known = match world.claims.get(&key.namespace, &name) {
                Some(known) => Some((*known).clone()),
                None => {
                    let api = world.api::<PersistentVolumeClaim>(&key.namespace);
                    match api.create(&PostParams::default(), &claim).await {
                        Ok(made) => {
                            world.claims.remember(made);
                            None
                        }
                        Err(kube::Error::Api(status)) if status.code == 409 => {
                            api.get_opt(&name).await?
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            };
            let owner =
                known.as_ref().map(|known| known.metadata.owner_references.iter().flatten());
            let is_ours = owner
                .is_none_or(|mut all| all.any(|one| Some(&one.uid) == pod.metadata.uid.as_ref()));
            if !is_ours {
                let message = format!("PVC {key}: {name} was not created for the pod");
                let note = Note { reason: "FailedBinding", message };
                self.recorder.tell(&*pod, EventType::Warning, note).await;
            }
        }
        Ok(None)
    }
}

/// The claims that a pod which lives is to have.
fn missing_from(pod: &Pod) -> Vec<PersistentVolumeClaim> {
    if !pod::is_active(pod) {
        return Vec::new();
    }
    let own = pod.metadata.name.clone().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let made = volumes.filter_map(|volume| {
        let template = volume.ephemeral.as_ref()?.volume_claim_template.clone()?;
        let given = template.metadata.unwrap_or_default();
        Some(PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(format!("{own}-{}", volume.name)),
                namespace: pod.metadata.namespace.clone(),
                labels: given.labels,
                annotations: given.annotations,
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Pod".to_owned(),
                    name: own.clone(),
                    uid: pod.metadata.uid.clone().unwrap_or_default(),
                    controller: Some(true),
                    block_owner_deletion: Some(true),
                }]),
                ..ObjectMeta::default()
            },
            spec: Some(template.spec),
            status: None,
        })
    });
    made.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_that_lives_has_a_claim_for_each_ephemeral_volume() {
        let pod = |phase: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": { "name": "web", "namespace": "shop", "uid": "u" },
                "spec": { "containers": [], "volumes": [
                    { "name": "other", "emptyDir": {} },
                    { "name": "scratch", "ephemeral": { "volumeClaimTemplate": {
                        "metadata": { "labels": { "a": "b" } },
                        "spec": { "accessModes": ["ReadWriteOnce"] },
                    } } },
                ] },
                "status": { "phase": phase },
            }))
            .unwrap()
        };
        let made = missing_from(&pod("Pending"));
        let [claim] = made.as_slice() else { panic!("{made:?}") };
        assert_eq!(claim.metadata.name.as_deref(), Some("web-scratch"));
        assert_eq!(claim.metadata.labels.as_ref().unwrap()["a"], "b");
        assert_eq!(claim.metadata.owner_references.as_ref().unwrap()[0].uid, "u");
        assert!(missing_from(&pod("Succeeded")).is_empty());
    }
}
