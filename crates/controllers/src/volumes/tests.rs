//! Tables of claims, volumes and what is done about them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::claims::{self, Snapshot, Step};
use super::released;
use super::{BIND_COMPLETED, LOCAL_PATH, PLACE, SELECTED_NODE};

fn merge(base: Value, more: Value) -> Value {
    match (base, more) {
        (Value::Object(mut base), Value::Object(more)) => {
            for (key, value) in more {
                let before = base.remove(&key).unwrap_or(Value::Null);
                base.insert(key, merge(before, value));
            }
            Value::Object(base)
        }
        (_, more) => more,
    }
}

fn claim(more: Value) -> PersistentVolumeClaim {
    let base = json!({
        "metadata": { "name": "data", "namespace": "shop", "uid": "c1",
                      "finalizers": ["kubernetes.io/pvc-protection"] },
        "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "plain",
                  "resources": { "requests": { "storage": "5Gi" } } },
        "status": { "phase": "Pending" },
    });
    serde_json::from_value(merge(base, more)).unwrap()
}

fn volume(name: &str, size: &str, more: Value) -> Arc<PersistentVolume> {
    let base = json!({
        "metadata": { "name": name, "uid": name, "finalizers": ["kubernetes.io/pv-protection"] },
        "spec": { "capacity": { "storage": size }, "accessModes": ["ReadWriteOnce"],
                  "storageClassName": "plain", "hostPath": { "path": "/x" } },
        "status": { "phase": "Available" },
    });
    Arc::new(serde_json::from_value(merge(base, more)).unwrap())
}

fn class(name: &str, provisioner: &str, mode: &str, more: Value) -> Arc<StorageClass> {
    let base = json!({ "metadata": { "name": name }, "provisioner": provisioner,
                       "volumeBindingMode": mode });
    Arc::new(serde_json::from_value(merge(base, more)).unwrap())
}

fn node(name: &str) -> Arc<Node> {
    Arc::new(
        serde_json::from_value(json!({ "metadata": {
            "name": name, "labels": { "kubernetes.io/hostname": name },
            "annotations": { PLACE: "/var/lib/berth/volumes" },
        } }))
        .unwrap(),
    )
}

fn plan(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>]) -> claims::Plan {
    let classes = [
        class("plain", "kubernetes.io/no-provisioner", "Immediate", json!({})),
        class("local", LOCAL_PATH, "WaitForFirstConsumer", json!({})),
        class("other", "example.com/disks", "Immediate", json!({})),
    ];
    let nodes = [node("one"), node("two")];
    claims::plan(&Snapshot { claim, volumes, classes: &classes, nodes: &nodes, pods: &[] })
}

#[test]
fn a_claim_takes_the_smallest_volume_that_fits() {
    let here = |labels: Value| json!({ "metadata": { "labels": labels } });
    let volumes = [
        volume("small", "1Gi", json!({})),
        volume("huge", "50Gi", here(json!({ "tier": "gold" }))),
        volume("good", "6Gi", json!({})),
        volume(
            "taken",
            "5Gi",
            json!({ "spec": { "claimRef": {
            "namespace": "shop", "name": "b", "uid": "c2" } } }),
        ),
        volume("block", "5Gi", json!({ "spec": { "volumeMode": "Block" } })),
        volume("many", "5Gi", json!({ "spec": { "accessModes": ["ReadWriteMany"] } })),
        volume("fast", "5Gi", json!({ "spec": { "storageClassName": "fast" } })),
        volume(
            "going",
            "5Gi",
            json!({ "metadata": {
            "deletionTimestamp": "2026-01-01T00:00:00Z" } }),
        ),
    ];
    let check = |more: Value, expected: Option<&str>| {
        let plan = plan(&claim(more.clone()), &volumes);
        let taken = match &plan.step {
            Some(Step::Take(volume, _)) => volume.metadata.name.as_deref(),
            _ => None,
        };
        assert_eq!(taken, expected, "{more}: {plan:?}");
    };
    check(json!({}), Some("good"));
    check(json!({ "spec": { "selector": { "matchLabels": { "tier": "gold" } } } }), Some("huge"));
    check(json!({ "spec": { "accessModes": ["ReadWriteMany"] } }), Some("many"));
    check(json!({ "spec": { "volumeMode": "Block" } }), Some("block"));
    check(json!({ "spec": { "storageClassName": "fast" } }), Some("fast"));
    check(json!({ "spec": { "resources": { "requests": { "storage": "1Ti" } } } }), None);
    check(json!({ "spec": { "volumeName": "small" } }), None);
    check(json!({ "spec": { "volumeName": "huge" } }), Some("huge"));
    check(json!({ "spec": { "volumeName": "taken" } }), None);
}

#[test]
fn a_volume_that_waits_for_the_claim_by_name_comes_first() {
    let waits = json!({ "spec": { "claimRef": { "namespace": "shop", "name": "data" } } });
    let volumes = [volume("a", "5Gi", json!({})), volume("b", "9Gi", waits)];
    let plan = plan(&claim(json!({})), &volumes);
    let Some(Step::Take(taken, patch)) = plan.step else { panic!("{plan:?}") };
    assert_eq!(taken.metadata.name.as_deref(), Some("b"));
    assert_eq!(patch["spec"]["claimRef"]["uid"], "c1");
    // Its author bound it, so it is not ours to take back.
    assert_eq!(patch.get("metadata"), None);
}

#[test]
fn a_binding_goes_from_the_volume_to_the_claim_to_its_status() {
    let bound = json!({ "spec": { "claimRef": {
        "namespace": "shop", "name": "data", "uid": "c1" } } });
    let volumes = [volume("a", "8Gi", bound)];
    let first = plan(&claim(json!({})), &volumes);
    let Some(Step::Change(patch)) = first.step else { panic!("{first:?}") };
    assert_eq!(patch["spec"]["volumeName"], "a");
    let named = json!({ "metadata": { "annotations": { BIND_COMPLETED: "yes" } },
                        "spec": { "volumeName": "a" } });
    let next = plan(&claim(named.clone()), &volumes);
    let Some(Step::Status(status)) = next.step else { panic!("{next:?}") };
    assert_eq!(status.phase.as_deref(), Some("Bound"));
    assert_eq!(status.capacity.unwrap()["storage"].0, "8Gi");
    let lost = plan(&claim(named), &[]);
    let Some(Step::Status(status)) = lost.step else { panic!("{lost:?}") };
    assert_eq!(status.phase.as_deref(), Some("Lost"));
    assert_eq!(lost.note.unwrap().1.reason, "ClaimLost");
}

#[test]
fn a_claim_of_our_class_waits_for_its_node_and_gets_a_directory_there() {
    let local = json!({ "spec": { "storageClassName": "local" } });
    let waiting = plan(&claim(local.clone()), &[]);
    assert_eq!(waiting.step, None);
    assert_eq!(waiting.note.unwrap().1.reason, "WaitForFirstConsumer");
    let chosen = merge(
        local,
        json!({ "metadata": { "annotations": {
            SELECTED_NODE: "two", "volume.kubernetes.io/storage-provisioner": LOCAL_PATH } } }),
    );
    let made = plan(&claim(chosen.clone()), &[]);
    let Some(Step::Provision(made)) = made.step else { panic!("{made:?}") };
    let made = serde_json::to_value(made).unwrap();
    assert_eq!(made["spec"]["local"]["path"], "/var/lib/berth/volumes/pvc-c1");
    assert_eq!(made["spec"]["claimRef"]["uid"], "c1");
    let terms = &made["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"];
    assert_eq!(terms[0]["matchExpressions"][0]["values"], json!(["two"]));
    let wide = merge(chosen.clone(), json!({ "spec": { "accessModes": ["ReadWriteMany"] } }));
    assert_eq!(plan(&claim(wide), &[]).note.unwrap().1.reason, "ProvisioningFailed");
    let gone = merge(chosen, json!({ "metadata": { "annotations": { SELECTED_NODE: "zero" } } }));
    let gone = plan(&claim(gone), &[]);
    let Some(Step::Change(patch)) = gone.step else { panic!("{gone:?}") };
    assert_eq!(patch["metadata"]["annotations"][SELECTED_NODE], Value::Null);
}

#[test]
fn what_cannot_be_bound_says_why() {
    let check = |more: Value, reason: &str| {
        let found = plan(&claim(more), &[]).note.map(|(_, note)| note.reason);
        assert_eq!(found, Some(reason));
    };
    check(json!({}), "FailedBinding");
    check(json!({ "spec": { "storageClassName": "" } }), "FailedBinding");
    check(json!({ "spec": { "storageClassName": "none" } }), "ProvisioningFailed");
    let told = json!({ "metadata": { "annotations": {
        "volume.kubernetes.io/storage-provisioner": "example.com/disks" } },
        "spec": { "storageClassName": "other" } });
    check(told, "ExternalProvisioning");
}

#[test]
fn a_claim_without_class_gets_the_newest_default() {
    let marked = |name: &str, at: &str| {
        class(
            name,
            LOCAL_PATH,
            "Immediate",
            json!({ "metadata": {
            "creationTimestamp": at,
            "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } } }),
        )
    };
    let classes = [marked("old", "2026-01-01T00:00:00Z"), marked("new", "2026-02-01T00:00:00Z")];
    let claim = claim(json!({ "spec": { "storageClassName": null } }));
    let world = Snapshot { claim: &claim, volumes: &[], classes: &classes, nodes: &[], pods: &[] };
    let expected = Step::Change(json!({ "spec": { "storageClassName": "new" } }));
    assert_eq!(claims::plan(&world).step, Some(expected));
}

#[test]
fn a_claim_in_use_is_not_let_go() {
    let going = claim(json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }));
    let pod = |node: Value| -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": { "name": "web", "namespace": "shop" },
                "spec": { "containers": [], "nodeName": node, "volumes": [
                    { "name": "v", "persistentVolumeClaim": { "claimName": "data" } } ] },
            }))
            .unwrap(),
        )
    };
    let of = |pods: &[Arc<Pod>]| {
        claims::plan(&Snapshot { claim: &going, volumes: &[], classes: &[], nodes: &[], pods }).step
    };
    assert_eq!(of(&[pod(json!("one"))]), None);
    let free = Some(Step::Change(json!({ "metadata": { "finalizers": [] } })));
    assert_eq!(of(&[pod(Value::Null)]), free);
    assert_eq!(of(&[]), free);
}

#[test]
fn a_volume_follows_its_claim_to_the_end() {
    let check = |volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>, wanted: &str| {
        let found = match released::plan(volume, claim).step {
            None => "nothing".to_owned(),
            Some(released::Step::Delete) => "delete".to_owned(),
            Some(released::Step::Change(patch)) => patch.to_string(),
            Some(released::Step::Status(status)) => status.phase.unwrap(),
        };
        assert_eq!(found, wanted);
    };
    let mine = json!({ "spec": { "claimRef": {
        "namespace": "shop", "name": "data", "uid": "c1" } } });
    let named = claim(json!({ "spec": { "volumeName": "a" } }));
    let again = claim(json!({ "metadata": { "uid": "c9" }, "spec": { "volumeName": "a" } }));
    let with = |more: Value| volume("a", "5Gi", merge(mine.clone(), more));
    check(&volume("a", "5Gi", json!({ "status": { "phase": "Pending" } })), None, "Available");
    check(&with(json!({})), Some(&named), "Bound");
    check(&with(json!({ "status": { "phase": "Bound" } })), Some(&named), "nothing");
    check(&with(json!({ "status": { "phase": "Bound" } })), None, "Released");
    check(&with(json!({ "status": { "phase": "Bound" } })), Some(&again), "Released");
    let over = |policy: &str, by: Value| {
        with(json!({
            "metadata": { "annotations": { "pv.kubernetes.io/provisioned-by": by } },
            "spec": { "persistentVolumeReclaimPolicy": policy },
            "status": { "phase": "Released" },
        }))
    };
    check(&over("Retain", json!(LOCAL_PATH)), None, "nothing");
    check(&over("Delete", json!(LOCAL_PATH)), None, "delete");
    check(&over("Delete", json!("example.com/disks")), None, "nothing");
    let by_hand = with(json!({ "spec": { "persistentVolumeReclaimPolicy": "Delete" },
                               "status": { "phase": "Released" } }));
    check(&by_hand, None, "Failed");
    let going = |phase: &str| {
        with(json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": ["kubernetes.io/pv-protection", LOCAL_PATH] },
            "status": { "phase": phase } }))
    };
    check(&going("Bound"), Some(&named), "nothing");
    let left = json!({ "metadata": { "finalizers": [LOCAL_PATH] } }).to_string();
    check(&going("Released"), None, &left);
}
