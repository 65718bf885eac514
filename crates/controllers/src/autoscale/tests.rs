//! Tables of readings, behaviours and the sizes that they come to.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::behavior::{Memory, Rules, pace};
use super::plan::{Plan, Reading, Scale, Snapshot, plan};
use super::replicas::{Sample, Samples};

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

/// A pod that asks for 100m; `ready` since `age` seconds, begun as long ago.
fn pod(name: &str, phase: &str, ready: bool, age: i64) -> Arc<Pod> {
    let since = (now() - SignedDuration::from_secs(age)).to_string();
    Arc::new(
        serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "shop" },
            "spec": { "containers": [
                { "name": "a", "resources": { "requests": { "cpu": "100m", "memory": "1Gi" } } },
            ] },
            "status": { "phase": phase, "startTime": since, "conditions": [
                { "type": "Ready", "status": if ready { "True" } else { "False" },
                  "lastTransitionTime": since },
            ] },
        }))
        .unwrap(),
    )
}

fn samples(values: &[(&str, i64)]) -> Samples {
    let sample = |value: i64| Sample { value, at: now(), window: SignedDuration::from_secs(15) };
    values.iter().map(|(name, value)| ((*name).to_owned(), sample(*value))).collect()
}

fn autoscaler(spec: Value) -> HorizontalPodAutoscaler {
    let mut base = json!({
        "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" },
        "minReplicas": 1, "maxReplicas": 10,
        "metrics": [cpu(50)],
    });
    for (key, value) in spec.as_object().unwrap() {
        base[key] = value.clone();
    }
    serde_json::from_value(json!({ "metadata": { "name": "web", "namespace": "shop" },
        "spec": base }))
    .unwrap()
}

fn cpu(percent: i32) -> Value {
    json!({ "type": "Resource", "resource": { "name": "cpu", "target": {
        "type": "Utilization", "averageUtilization": percent } } })
}

fn run(
    spec: Value,
    wanted: i32,
    pods: &[Arc<Pod>],
    readings: &[Result<Reading, String>],
    memory: &mut Memory,
) -> Plan {
    let autoscaler = autoscaler(spec);
    let scale = Ok(Scale { wanted, running: wanted });
    plan(&Snapshot { autoscaler: &autoscaler, scale, pods, readings }, memory, now())
}

/// Of an autoscaler that has been there for long and has found nothing to do.
fn long_known() -> Memory {
    Memory { is_begun: true, ..Memory::default() }
}

fn condition<'a>(plan: &'a Plan, type_: &str) -> (&'a str, &'a str) {
    let all = plan.status.conditions.as_ref().unwrap();
    let found = all.iter().find(|one| one.type_ == type_).unwrap();
    (&found.status, found.reason.as_deref().unwrap())
}

#[test]
fn usage_of_pods_becomes_a_size() {
    let old = |name: &str| pod(name, "Running", true, 3600);
    let check = |pods: &[Arc<Pod>], used: &[(&str, i64)], expected: i32| {
        let wanted = i32::try_from(pods.len()).unwrap();
        let readings = [Ok(Reading::Pods(samples(used)))];
        let made = run(json!({}), wanted, pods, &readings, &mut long_known());
        assert_eq!(made.status.desired_replicas, expected, "{used:?}: {made:?}");
    };
    let two = [old("a"), old("b")];
    check(&two, &[("a", 50), ("b", 50)], 2);
    // 10 % off is near enough.
    check(&two, &[("a", 54), ("b", 55)], 2);
    check(&two, &[("a", 100), ("b", 100)], 4);
    check(&two, &[("a", 20), ("b", 20)], 1);
    // A pod without a reading counts as using nothing when more would be made …
    check(&two, &[("a", 100)], 2);
    check(&two, &[("a", 160)], 4);
    // … and all it asked for when less would be.
    check(&two, &[("a", 10)], 2);
    // One that is only starting is not yet load.
    let young = [old("a"), pod("b", "Running", true, 5)];
    check(&young, &[("a", 50), ("b", 1000)], 2);
    check(&young, &[("a", 120), ("b", 1000)], 3);
    let pending = [old("a"), pod("b", "Pending", false, 5)];
    check(&pending, &[("a", 120)], 3);
    let failed = [old("a"), pod("b", "Failed", false, 3600)];
    check(&failed, &[("a", 50), ("b", 900)], 2);
}

#[test]
fn sizes_stay_within_bounds_and_say_so() {
    let pods = [pod("a", "Running", true, 3600)];
    let much = [Ok(Reading::Pods(samples(&[("a", 400)])))];
    let made = run(json!({ "maxReplicas": 3 }), 1, &pods, &much, &mut Memory::default());
    assert_eq!(made.status.desired_replicas, 3);
    assert_eq!(condition(&made, "ScalingLimited"), ("True", "TooManyReplicas"));
    let made = run(json!({ "minReplicas": 4 }), 2, &pods, &much, &mut Memory::default());
    assert_eq!(made.rescale.unwrap().0, 4);
    let made = run(json!({}), 40, &pods, &much, &mut Memory::default());
    assert_eq!(made.rescale.unwrap().0, 10);
    let made = run(json!({}), 0, &pods, &much, &mut Memory::default());
    assert_eq!((made.rescale.is_none(), made.status.desired_replicas), (true, 0));
    assert_eq!(condition(&made, "ScalingActive"), ("False", "ScalingDisabled"));
}

#[test]
fn the_metric_that_wants_most_decides_and_an_unknown_one_only_holds() {
    let pods = [pod("a", "Running", true, 3600), pod("b", "Running", true, 3600)];
    let external = json!({ "type": "External", "external": { "metric": { "name": "queue" },
        "target": { "type": "AverageValue", "averageValue": "10" } } });
    let spec = json!({ "metrics": [cpu(50), external] });
    let low = Ok(Reading::Pods(samples(&[("a", 20), ("b", 20)])));
    let made = run(
        spec.clone(),
        2,
        &pods,
        &[low.clone(), Ok(Reading::One(30_000))],
        &mut Memory::default(),
    );
    assert_eq!(made.rescale, Some((3, "external metric queue above target".to_owned())));
    let away = Err("unable to get external metric".to_owned());
    let made = run(spec.clone(), 2, &pods, &[low, away.clone()], &mut Memory::default());
    assert_eq!(made.rescale, None);
    assert_eq!(condition(&made, "ScalingActive"), ("False", "FailedGetExternalMetric"));
    let high = Ok(Reading::Pods(samples(&[("a", 100), ("b", 100)])));
    let made = run(spec, 2, &pods, &[high, away], &mut Memory::default());
    assert_eq!(made.rescale.as_ref().unwrap().0, 4);
    assert_eq!(condition(&made, "ScalingActive"), ("True", "ValidMetricFound"));
}

#[test]
fn nothing_runs_while_nothing_waits() {
    let spec = json!({ "minReplicas": 0, "metrics": [
        { "type": "External", "external": { "metric": { "name": "queue" },
          "target": { "type": "Value", "value": "5" } } } ] });
    let check = |wanted: i32, queue: i64, expected: i32| {
        let pods = [pod("a", "Running", true, 3600)];
        let pods = if wanted > 0 { &pods[..] } else { &[] };
        let readings = [Ok(Reading::One(queue))];
        let made = run(spec.clone(), wanted, pods, &readings, &mut long_known());
        assert_eq!(made.status.desired_replicas, expected, "{wanted} {queue}");
    };
    check(0, 0, 0);
    check(0, 12_000, 3);
    check(1, 0, 0);
}

#[test]
fn what_is_missing_is_told_as_kubernetes_tells_it() {
    let pods: Vec<Arc<Pod>> = vec![Arc::new(
        serde_json::from_value(json!({ "metadata": { "name": "a" },
            "spec": { "containers": [{ "name": "main" }] },
            "status": { "phase": "Running" } }))
        .unwrap(),
    )];
    let readings = [Ok(Reading::Pods(samples(&[("a", 9)])))];
    let made = run(json!({}), 1, &pods, &readings, &mut Memory::default());
    assert_eq!(condition(&made, "ScalingActive"), ("False", "FailedGetResourceMetric"));
    let told = &made.notes[0].message;
    assert_eq!(told, "missing request for cpu in container main of Pod a");
    let autoscaler = autoscaler(json!({}));
    let lost = Snapshot {
        autoscaler: &autoscaler,
        scale: Err(("FailedGetScale", "deployments.apps \"web\" not found".to_owned())),
        pods: &[],
        readings: &[],
    };
    let made = plan(&lost, &mut Memory::default(), now());
    assert_eq!(condition(&made, "AbleToScale"), ("False", "FailedGetScale"));
}

#[test]
fn who_has_just_come_takes_nothing_down() {
    let pods = [pod("a", "Running", true, 3600), pod("b", "Running", true, 3600)];
    let idle = [Ok(Reading::Pods(samples(&[("a", 1), ("b", 1)])))];
    let mut memory = Memory::default();
    let made = run(json!({}), 2, &pods, &idle, &mut memory);
    assert_eq!(made.rescale, None);
    assert_eq!(condition(&made, "AbleToScale"), ("True", "ScaleDownStabilized"));
    // Five minutes later the size it was found at holds it no more.
    for (at, _) in &mut memory.recommendations {
        *at -= SignedDuration::from_secs(301);
    }
    assert_eq!(run(json!({}), 2, &pods, &idle, &mut memory).rescale.unwrap().0, 1);
    let at_once = json!({ "behavior": { "scaleDown": { "stabilizationWindowSeconds": 0 } } });
    assert_eq!(run(at_once, 2, &pods, &idle, &mut Memory::default()).rescale.unwrap().0, 1);
}

#[test]
fn policies_and_windows_hold_the_pace() {
    let rules = |behavior: Value| -> Rules {
        let behavior = serde_json::from_value(behavior).unwrap();
        Rules::of(Some(&behavior))
    };
    let ago = |seconds: i64| now() - SignedDuration::from_secs(seconds);
    let check = |behavior: Value, memory: Memory, from: i32, wanted: i32, expected: (i32, &str)| {
        let mut memory = memory;
        let made = pace(&rules(behavior.clone()), &mut memory, from, wanted, (1, 100), now());
        let why = made.limited.or(made.stabilized).map_or("", |(reason, _)| reason);
        assert_eq!((made.replicas, why), expected, "{behavior} {from} → {wanted}");
    };
    let none = Memory::default;
    // Kubernetes' defaults: doubled or four more, whichever is more.
    check(json!({}), none(), 1, 50, (5, "ScaleUpLimit"));
    check(json!({}), none(), 10, 50, (20, "ScaleUpLimit"));
    check(json!({}), none(), 10, 500, (20, "ScaleUpLimit"));
    check(json!({}), none(), 80, 500, (100, "TooManyReplicas"));
    let grown = Memory { steps: vec![(ago(5), 5)], ..none() };
    check(json!({}), grown, 15, 50, (20, "ScaleUpLimit"));
    let recent = Memory { recommendations: vec![(ago(100), 8)], ..none() };
    check(json!({}), recent, 10, 2, (8, "ScaleDownStabilized"));
    let past = Memory { recommendations: vec![(ago(301), 8)], ..none() };
    check(json!({}), past, 10, 2, (2, ""));
    let slowly = json!({ "scaleDown": { "stabilizationWindowSeconds": 0, "policies": [
        { "type": "Pods", "value": 2, "periodSeconds": 60 },
        { "type": "Percent", "value": 50, "periodSeconds": 60 } ] } });
    check(slowly.clone(), none(), 10, 1, (5, "ScaleDownLimit"));
    let mut least = slowly.clone();
    least["scaleDown"]["selectPolicy"] = json!("Min");
    check(least, none(), 10, 1, (8, "ScaleDownLimit"));
    let shrunk = Memory { steps: vec![(ago(30), -3)], ..none() };
    check(slowly.clone(), shrunk, 7, 1, (5, "ScaleDownLimit"));
    let mut never = slowly;
    never["scaleDown"]["selectPolicy"] = json!("Disabled");
    check(never, none(), 10, 1, (10, "ScaleDownLimit"));
    let patient = json!({ "scaleUp": { "stabilizationWindowSeconds": 60 } });
    let low = Memory { recommendations: vec![(ago(30), 3)], ..none() };
    check(patient, low, 2, 6, (3, "ScaleUpStabilized"));
}
