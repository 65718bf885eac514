//! ReplicaSets as they stand, and what a Deployment does next.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

fn now() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().expect("a time")
}

fn deployment(replicas: i32, extra: serde_json::Value) -> Deployment {
    let mut value = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "d1", "generation": 1},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "v1"}]}
            }
        }
    });
    for (key, field) in extra.as_object().into_iter().flatten() {
        value["spec"][key] = field.clone();
    }
    serde_json::from_value(value).expect("a deployment")
}

fn image(deployment: &mut Deployment, image: &str) {
    let spec = deployment.spec.as_mut().expect("it has a spec");
    let template = spec.template.spec.as_mut().expect("it has a template");
    template.containers[0].image = Some(image.into());
}

/// A model cluster: plans are carried out at once, pods become available when told to.
struct Model {
    deployment: Deployment,
    sets: BTreeMap<String, ReplicaSet>,
    now: Timestamp,
    made: usize,
}

impl Model {
    fn new(deployment: Deployment) -> Self {
        Self { deployment, sets: BTreeMap::new(), now: now(), made: 0 }
    }

    fn plan(&self) -> Plan {
        let sets: Vec<_> = self.sets.values().cloned().map(Arc::new).collect();
        plan(&Snapshot { deployment: &self.deployment, sets: &sets, pods: &[] }, self.now)
    }

    /// One step; whether it changed anything.
    fn step(&mut self) -> bool {
        let plan = self.plan();
        let moved = plan.create.is_some() || !plan.update.is_empty() || !plan.delete.is_empty();
        for mut set in plan.create.into_iter().chain(plan.update) {
            let name = set.metadata.name.clone().expect("a set has a name");
            if set.metadata.uid.is_none() {
                self.made += 1;
                set.metadata.uid = Some(name.clone());
                let at = self.now.checked_add(SignedDuration::from_secs(self.made as i64));
                set.metadata.creation_timestamp = Some(Time(at.expect("a time")));
            }
            // As the ReplicaSet controller: surplus pods go at once, the unready ones first.
            let status = set.status.get_or_insert_default();
            status.replicas = size_of(&set.spec);
            let available = status.available_replicas.unwrap_or(0).min(status.replicas);
            status.available_replicas = Some(available);
            status.ready_replicas = Some(available);
            self.sets.insert(name, set);
        }
        for set in plan.delete {
            self.sets.remove(set.metadata.name.as_deref().expect("a set has a name"));
        }
        if let Some(revision) = plan.revision {
            let annotations = self.deployment.metadata.annotations.get_or_insert_default();
            annotations.insert(revision::REVISION.into(), revision.to_string());
        }
        let changed = plan.status.is_some();
        self.deployment.status = plan.status.or(self.deployment.status.take());
        moved || changed
    }

    /// Steps until nothing moves.
    fn settle(&mut self) {
        for _ in 0..100 {
            if !self.step() {
                return;
            }
            self.check_bounds();
        }
        panic!("it never settles");
    }

    /// One more pod of the newest set becomes available; `false` when all are.
    fn one_becomes_available(&mut self) -> bool {
        for set in self.sets.values_mut() {
            let status = set.status.get_or_insert_default();
            if status.available_replicas.unwrap_or(0) < status.replicas {
                status.available_replicas = Some(status.available_replicas.unwrap_or(0) + 1);
                status.ready_replicas = status.available_replicas;
                return true;
            }
        }
        false
    }

    fn finish(&mut self) {
        self.settle();
        while self.one_becomes_available() {
            self.settle();
        }
    }

    fn check_bounds(&self) {
        let wanted = Wanted::read(&self.deployment).expect("it has a spec");
        let total: i32 = self.sets.values().map(size).sum();
        assert!(total <= wanted.replicas + wanted.surge, "{total} pods are too many");
    }

    fn sizes(&self) -> Vec<(i64, i32)> {
        let mut all: Vec<_> =
            self.sets.values().map(|set| (revision::of(&set.metadata), size(set))).collect();
        all.sort();
        all
    }

    fn condition(&self, type_: &str) -> (String, String) {
        let status = self.deployment.status.as_ref().expect("a status was written");
        let all = status.conditions.as_ref().expect("it has conditions");
        let one = all.iter().find(|c| c.type_ == type_).expect("the condition is there");
        (one.status.clone(), one.reason.clone().unwrap_or_default())
    }
}

fn size_of(spec: &Option<ReplicaSetSpec>) -> i32 {
    spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

#[test]
fn a_new_deployment_gets_one_set_and_completes() {
    let mut model = Model::new(deployment(3, json!({})));
    model.settle();
    assert_eq!(model.sizes(), [(1, 3)]);
    assert_eq!(model.condition("Available").0, "False");
    model.finish();
    assert_eq!(model.condition("Available").0, "True");
    assert_eq!(model.condition("Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
    let set = model.sets.values().next().expect("there is one");
    assert!(set.metadata.labels.as_ref().expect("labels").contains_key(HASH));
    let spec = set.spec.as_ref().expect("a spec");
    assert!(spec.selector.match_labels.as_ref().expect("labels").contains_key(HASH));
}

#[test]
fn a_rolling_update_keeps_its_bounds_whatever_they_are() {
    for replicas in [1, 2, 3, 5, 10] {
        for (surge, unavailable) in
            [("25%", "25%"), ("0", "1"), ("1", "0"), ("100%", "0%"), ("0", "100%"), ("3", "2")]
        {
            let number = |text: &str| text.parse::<i32>().map_or(json!(text), |n| json!(n));
            let rolling = json!({"maxSurge": number(surge), "maxUnavailable": number(unavailable)});
            let strategy = json!({"type": "RollingUpdate", "rollingUpdate": rolling});
            let mut model = Model::new(deployment(replicas, json!({ "strategy": strategy })));
            model.finish();
            image(&mut model.deployment, "v2");
            let least = {
                let wanted = Wanted::read(&model.deployment).expect("it has a spec");
                wanted.replicas - wanted.unavailable
            };
            loop {
                let moved = model.step();
                model.check_bounds();
                let available: i32 = model.sets.values().map(available).sum();
                assert!(available >= least, "{available} of {replicas} with {surge}/{unavailable}");
                if !moved && !model.one_becomes_available() {
                    break;
                }
            }
            assert_eq!(model.sizes(), [(1, 0), (2, replicas)], "{surge}/{unavailable}");
        }
    }
}

#[test]
fn an_unhealthy_update_stops_and_is_reported_after_its_deadline() {
    let mut model = Model::new(deployment(4, json!({"progressDeadlineSeconds": 60})));
    model.finish();
    image(&mut model.deployment, "broken");
    model.settle();
    assert_eq!(model.sizes(), [(1, 3), (2, 2)]);
    let wait = model.plan().again.expect("it looks again at the deadline");
    assert!(wait <= Duration::from_secs(61), "{wait:?}");
    model.now = model.now.checked_add(SignedDuration::from_secs(61)).expect("a time");
    model.settle();
    assert_eq!(model.condition("Progressing"), ("False".into(), "ProgressDeadlineExceeded".into()));
}

#[test]
fn going_back_takes_the_old_set_up_under_the_next_revision() {
    let mut model = Model::new(deployment(2, json!({})));
    model.finish();
    image(&mut model.deployment, "v2");
    model.finish();
    image(&mut model.deployment, "v1");
    model.finish();
    assert_eq!(model.sizes(), [(2, 0), (3, 2)]);
    assert_eq!(revision::of(&model.deployment.metadata), 3);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_keeps_the_proportions() {
    let strategy =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}});
    let mut model = Model::new(deployment(10, json!({ "strategy": strategy })));
    model.finish();
    image(&mut model.deployment, "broken");
    model.settle();
    assert_eq!(model.sizes(), [(1, 8), (2, 5)]);
    model.deployment.spec.as_mut().expect("a spec").replicas = Some(15);
    model.settle();
    assert_eq!(model.sizes(), [(1, 11), (2, 7)]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut model = Model::new(deployment(3, json!({"paused": true})));
    model.deployment.spec.as_mut().expect("a spec").paused = Some(false);
    model.finish();
    let spec = model.deployment.spec.as_mut().expect("a spec");
    (spec.paused, spec.replicas) = (Some(true), Some(5));
    image(&mut model.deployment, "v2");
    model.settle();
    assert_eq!(model.sizes(), [(1, 5)]);
    assert_eq!(model.condition("Progressing").1, "DeploymentPaused");
    model.deployment.spec.as_mut().expect("a spec").paused = Some(false);
    model.finish();
    assert_eq!(model.sizes(), [(1, 0), (2, 5)]);
}

#[test]
fn history_keeps_as_many_old_sets_as_it_is_told() {
    let mut model = Model::new(deployment(1, json!({"revisionHistoryLimit": 2})));
    for version in 1..6 {
        image(&mut model.deployment, &format!("v{version}"));
        model.finish();
    }
    assert_eq!(model.sizes(), [(3, 0), (4, 0), (5, 1)]);
}

#[test]
fn recreate_waits_until_the_last_old_pod_is_gone() {
    let mut model = Model::new(deployment(2, json!({"strategy": {"type": "Recreate"}})));
    model.finish();
    let old = model.sets.values().next().expect("there is one").clone();
    image(&mut model.deployment, "v2");
    model.step();
    assert_eq!(model.sizes(), [(1, 0)]);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "uid": "p", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": old.metadata.uid,
             "controller": true}]},
        "status": {"phase": "Running"}
    }))
    .expect("a pod");
    let sets: Vec<_> = model.sets.values().cloned().map(Arc::new).collect();
    let pods = [Arc::new(pod)];
    let snapshot = Snapshot { deployment: &model.deployment, sets: &sets, pods: &pods };
    assert_eq!(plan(&snapshot, now()).create, None);
    model.finish();
    assert_eq!(model.sizes(), [(1, 0), (2, 2)]);
}

#[test]
fn a_set_of_another_template_under_our_name_is_a_collision() {
    let mut model = Model::new(deployment(1, json!({})));
    model.settle();
    let set = model.sets.values().next().expect("there is one").clone();
    assert!(!collides(&model.deployment, &set));
    image(&mut model.deployment, "v2");
    assert!(collides(&model.deployment, &set));
}
