//! What one pass over a StatefulSet does, case by case.

use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2030-01-01T00:10:00Z".parse().expect("a time")
}

/// A set `db` of three with `extra` merged into its spec.
fn set(image: &str, extra: Value) -> StatefulSet {
    let mut spec = json!({
        "replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
        "template": {"metadata": {"labels": {"app": "db"}},
            "spec": {"containers": [{"name": "c", "image": image}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"]}}],
    });
    for (key, value) in extra.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let value = json!({"metadata": {"name": "db", "namespace": "d", "uid": "s"}, "spec": spec});
    serde_json::from_value(value).expect("a set")
}

/// A world that carries plans out as the API server, the kubelet and the collector would.
struct Ground {
    set: StatefulSet,
    pods: Vec<Arc<Pod>>,
    claims: Vec<Arc<PersistentVolumeClaim>>,
    revisions: Vec<ControllerRevision>,
}

impl Ground {
    fn new(set: StatefulSet) -> Self {
        Self { set, pods: Vec::new(), claims: Vec::new(), revisions: Vec::new() }
    }

    fn plan(&self) -> Plan {
        let snapshot = Snapshot {
            set: &self.set,
            pods: &self.pods,
            claims: &self.claims,
            revisions: &self.revisions,
        };
        plan(&snapshot, now())
    }

    /// One pass; what it did, in words.
    fn pass(&mut self) -> String {
        let plan = self.plan();
        let mut said = Vec::new();
        if plan.history.write {
            let mut made = plan.history.current.clone();
            made.metadata.uid = Some("r".into());
            self.revisions.retain(|one| one.metadata.name != made.metadata.name);
            self.revisions.push(made);
        }
        for claim in plan.claims {
            said.push(format!("claim {}", claim.metadata.name.as_deref().unwrap_or_default()));
            self.claims.push(Arc::new(claim));
        }
        for mut pod in plan.create {
            let name = pod.metadata.name.clone().unwrap_or_default();
            pod.metadata.uid = Some(format!("{name}-{}", self.pods.len()));
            said.push(format!("make {name}"));
            self.pods.push(Arc::new(pod));
        }
        for pod in plan.delete {
            said.push(format!("end {}", pod.metadata.name.as_deref().unwrap_or_default()));
            self.pods.retain(|one| one.metadata.uid != pod.metadata.uid);
        }
        if let Some(status) = plan.status {
            self.set.status = Some(status);
        }
        said.join(", ")
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Pod)) {
        let found = self.pods.iter_mut().find(|pod| pod.metadata.name.as_deref() == Some(name));
        change(Arc::make_mut(found.expect("the pod is there")));
    }

    fn ready(&mut self, name: &str, ready: bool) {
        self.change(name, |pod| {
            let ready = if ready { "True" } else { "False" };
            let status = json!({"phase": "Running", "conditions": [{"type": "Ready",
                "status": ready, "lastTransitionTime": "2030-01-01T00:00:00Z"}]});
            pod.status = serde_json::from_value(status).ok();
        });
    }

    /// Passes, with every pod made ready at once, until nothing is done any more.
    fn settle(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        for _ in 0..40 {
            let names: Vec<String> =
                self.pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
            names.iter().for_each(|name| self.ready(name, true));
            match self.pass() {
                nothing if nothing.is_empty() => break,
                something => said.push(something),
            }
        }
        said
    }

    fn images(&self) -> Vec<String> {
        let mut all: Vec<_> = self.pods.iter().collect();
        all.sort_by_key(|pod| pod.metadata.name.clone());
        let image = |pod: &Pod| pod.spec.as_ref()?.containers.first()?.image.clone();
        all.iter().filter_map(|pod| image(pod)).collect()
    }
}

#[test]
fn pods_are_made_in_order_each_after_the_one_before_is_ready() {
    let mut ground = Ground::new(set("a:1", json!({})));
    assert_eq!(ground.pass(), "claim data-db-0, make db-0");
    assert_eq!(ground.pass(), "", "it is not ready yet");
    ground.ready("db-0", true);
    assert_eq!(ground.pass(), "claim data-db-1, make db-1");
    assert_eq!(ground.settle(), ["claim data-db-2, make db-2"]);
    let status = ground.set.status.clone().expect("a status");
    assert_eq!((status.replicas, status.ready_replicas), (3, Some(3)));
    assert_eq!(status.current_revision, status.update_revision);
    assert_eq!((status.current_replicas, status.updated_replicas), (Some(3), Some(3)));
}

#[test]
fn a_pod_has_name_host_name_labels_and_claim() {
    let mut ground = Ground::new(set("a:1", json!({"ordinals": {"start": 5}})));
    assert_eq!(ground.pass(), "claim data-db-5, make db-5");
    let pod = ground.pods[0].clone();
    let label = |key: &str| pod::label(&pod.metadata, key).to_owned();
    assert_eq!(label("statefulset.kubernetes.io/pod-name"), "db-5");
    assert_eq!(label("apps.kubernetes.io/pod-index"), "5");
    assert_eq!(Some(label(history::HASH)), ground.revisions[0].metadata.name);
    let spec = pod.spec.clone().expect("a spec");
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-5"), Some("db")));
    let volume = spec.volumes.into_iter().flatten().find(|volume| volume.name == "data");
    let claim = volume.and_then(|volume| volume.persistent_volume_claim).expect("a claim");
    assert_eq!(claim.claim_name, "data-db-5");
    assert_eq!(pod::label(&ground.claims[0].metadata, "app"), "db");
}

#[test]
fn a_parallel_set_makes_and_ends_all_at_once() {
    let mut ground = Ground::new(set("a:1", json!({"podManagementPolicy": "Parallel"})));
    let made = "claim data-db-0, claim data-db-1, claim data-db-2, make db-0, make db-1, make db-2";
    assert_eq!(ground.pass(), made);
    ground.set.spec.as_mut().expect("a spec").replicas = Some(1);
    assert_eq!(ground.pass(), "end db-2, end db-1");
}

#[test]
fn scaling_down_ends_the_highest_first_and_keeps_the_claims() {
    let mut ground = Ground::new(set("a:1", json!({})));
    ground.settle();
    ground.set.spec.as_mut().expect("a spec").replicas = Some(1);
    assert_eq!(ground.settle(), ["end db-2", "end db-1"]);
    assert_eq!(ground.claims.len(), 3);
    assert!(ground.plan().owners.is_empty());
    ground.set.spec.as_mut().expect("a spec").replicas = Some(2);
    assert_eq!(ground.settle(), ["make db-1"], "its claim is there still");
}

#[test]
fn nothing_is_scaled_down_while_a_pod_below_is_not_ready() {
    let mut ground = Ground::new(set("a:1", json!({})));
    ground.settle();
    ground.ready("db-0", false);
    ground.set.spec.as_mut().expect("a spec").replicas = Some(2);
    assert_eq!(ground.pass(), "");
    ground.ready("db-0", true);
    assert_eq!(ground.pass(), "end db-2");
}

#[test]
fn an_update_goes_from_the_top_one_by_one() {
    let mut ground = Ground::new(set("a:1", json!({})));
    ground.settle();
    ground.set.spec = set("a:2", json!({})).spec;
    let steps = ground.settle();
    let expected = ["end db-2", "make db-2", "end db-1", "make db-1", "end db-0", "make db-0"];
    assert_eq!(steps, expected);
    assert_eq!(ground.images(), ["a:2"; 3]);
    let status = ground.set.status.clone().expect("a status");
    assert_eq!(status.current_revision, status.update_revision);
    assert_eq!(ground.revisions.len(), 2);
}

#[test]
fn pods_below_the_partition_keep_and_regain_the_old_template() {
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}});
    let mut ground = Ground::new(set("a:1", json!({"updateStrategy": strategy})));
    ground.settle();
    ground.set.spec = set("a:2", json!({"updateStrategy": strategy})).spec;
    ground.settle();
    assert_eq!(ground.images(), ["a:1", "a:1", "a:2"]);
    let status = ground.set.status.clone().expect("a status");
    assert_ne!(status.current_revision, status.update_revision);
    assert_eq!((status.current_replicas, status.updated_replicas), (Some(2), Some(1)));
    ground.pods.retain(|pod| pod.metadata.name.as_deref() != Some("db-0"));
    assert_eq!(ground.settle(), ["make db-0"]);
    assert_eq!(ground.images(), ["a:1", "a:1", "a:2"]);
}

#[test]
fn on_delete_updates_nothing_by_itself() {
    let strategy = json!({"type": "OnDelete"});
    let mut ground = Ground::new(set("a:1", json!({"updateStrategy": strategy})));
    ground.settle();
    ground.set.spec = set("a:2", json!({"updateStrategy": strategy})).spec;
    assert!(ground.settle().is_empty());
    ground.pods.retain(|pod| pod.metadata.name.as_deref() != Some("db-1"));
    ground.settle();
    assert_eq!(ground.images(), ["a:1", "a:2", "a:1"]);
}

#[test]
fn two_may_be_missing_where_two_are_allowed() {
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}});
    let mut ground = Ground::new(set("a:1", json!({"updateStrategy": strategy})));
    ground.settle();
    ground.set.spec = set("a:2", json!({"updateStrategy": strategy})).spec;
    assert_eq!(ground.pass(), "end db-2, end db-1");
}

#[test]
fn a_better_template_replaces_one_that_never_became_ready_and_only_that() {
    let mut ground = Ground::new(set("bad:1", json!({})));
    ground.pass();
    ground.ready("db-0", false);
    assert_eq!(ground.pass(), "");
    ground.set.spec = set("good:1", json!({})).spec;
    assert_eq!(ground.pass(), "end db-0");
    assert_eq!(ground.settle().len(), 3);
    assert_eq!(ground.images(), ["good:1"; 3]);

    ground.ready("db-0", false);
    ground.set.spec = set("good:2", json!({})).spec;
    assert_eq!(ground.pass(), "end db-0", "those that are ready stay");
}

#[test]
fn a_parallel_update_waits_for_the_pod_that_goes() {
    let parallel = json!({"podManagementPolicy": "Parallel"});
    let mut ground = Ground::new(set("a:1", parallel.clone()));
    ground.settle();
    ground.set.spec = set("a:2", parallel).spec;
    let leaving = ground.plan().delete;
    assert_eq!(leaving.len(), 1);
    ground.change("db-2", |pod| {
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now());
        pod.metadata.deletion_timestamp = Some(now);
    });
    assert_eq!(ground.pass(), "", "it is still going");
    ground.pods.retain(|pod| pod.metadata.name.as_deref() != Some("db-2"));
    assert_eq!(ground.pass(), "make db-2");
    assert_eq!(ground.pass(), "", "it is not ready yet");
    ground.ready("db-2", true);
    assert_eq!(ground.pass(), "end db-1");
}

#[test]
fn numbers_at_the_edge_are_no_panic() {
    let most = i32::MAX;
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": most}});
    let extra = json!({"ordinals": {"start": most}, "updateStrategy": strategy});
    let ground = Ground::new(set("a:1", extra));
    assert!(ground.plan().create.len() <= 1);
}

#[test]
fn a_pod_waits_for_its_doomed_claim_to_go() {
    let mut ground = Ground::new(set("a:1", json!({"replicas": 1})));
    ground.settle();
    ground.pods.clear();
    let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now());
    Arc::make_mut(&mut ground.claims[0]).metadata.deletion_timestamp = Some(now);
    assert_eq!(ground.pass(), "");
    ground.claims.clear();
    assert_eq!(ground.pass(), "claim data-db-0, make db-0");
}

#[test]
fn a_pod_that_ended_is_made_anew_under_its_name() {
    let mut ground = Ground::new(set("a:1", json!({})));
    ground.settle();
    ground.change("db-1", |pod| {
        pod.status.get_or_insert_default().phase = Some("Failed".into());
    });
    assert_eq!(ground.pass(), "end db-1");
    assert_eq!(ground.pass(), "make db-1");
}

#[test]
fn claims_go_with_the_set_or_with_their_pod_when_it_says_so() {
    let policy = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    let mut ground =
        Ground::new(set("a:1", json!({"persistentVolumeClaimRetentionPolicy": policy})));
    ground.settle();
    let owners = |ground: &Ground| -> Vec<(String, String)> {
        let name = |claim: &PersistentVolumeClaim| claim.metadata.name.clone().unwrap_or_default();
        let kinds = |owners: &[OwnerReference]| {
            owners.iter().map(|owner| owner.kind.clone()).collect::<Vec<_>>().join("+")
        };
        ground.plan().owners.iter().map(|(claim, all)| (name(claim), kinds(all))).collect()
    };
    let with_set = |name: &str| (name.to_owned(), "StatefulSet".to_owned());
    let all = ["data-db-0", "data-db-1", "data-db-2"].map(with_set).to_vec();
    assert_eq!(owners(&ground), all);
    ground.set.spec.as_mut().expect("a spec").replicas = Some(2);
    assert!(owners(&ground).contains(&("data-db-2".to_owned(), "Pod".to_owned())));
}

#[test]
fn only_pods_named_like_the_set_are_taken_up() {
    let mut ground = Ground::new(set("a:1", json!({"replicas": 1})));
    ground.settle();
    for (name, uid) in [("db-7", "x"), ("db-07", "y"), ("web-1", "z")] {
        let mut stray = (*ground.pods[0]).clone();
        stray.metadata.name = Some(name.into());
        stray.metadata.uid = Some(uid.into());
        stray.metadata.owner_references = None;
        ground.pods.push(Arc::new(stray));
    }
    let plan = ground.plan();
    let adopted: Vec<_> =
        plan.adopt.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
    assert_eq!(adopted, ["db-7"]);
}
