//! Services and pods, and the slices and subsets they become.

use k8s_openapi::api::discovery::v1::EndpointConditions;
use serde_json::json;

use super::*;

fn service(spec: serde_json::Value) -> Service {
    let mut value = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "s1", "labels": {"team": "a"}},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.43.0.9",
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}
    });
    for (key, field) in spec.as_object().into_iter().flatten() {
        value["spec"][key] = field.clone();
    }
    serde_json::from_value(value).expect("a service")
}

fn pod(number: u32, ready: bool, port: i32) -> Pod {
    let status = if ready { "True" } else { "False" };
    serde_json::from_value(json!({
        "metadata": {"name": format!("p{number}"), "namespace": "default",
            "uid": format!("u{number}"), "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "hostname": "h", "subdomain": "web", "containers": [
            {"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
        "status": {"phase": "Running", "podIP": format!("10.42.{}.{}", number / 250, number % 250),
            "conditions": [{"type": "Ready", "status": status}]}
    }))
    .expect("a pod")
}

/// What was made and changed, taken as written.
fn carry(plan: &Plan, before: &[Arc<EndpointSlice>]) -> Vec<Arc<EndpointSlice>> {
    let mut after: Vec<_> = before
        .iter()
        .filter(|slice| !plan.delete.contains(slice))
        .map(|slice| {
            let same = |new: &&EndpointSlice| new.metadata.name == slice.metadata.name;
            plan.update.iter().find(same).map_or_else(|| slice.clone(), |new| Arc::new(new.clone()))
        })
        .collect();
    for (number, new) in plan.create.iter().enumerate() {
        let mut new = new.clone();
        new.metadata.name = Some(format!("web-{}-{number}", before.len()));
        after.push(Arc::new(new));
    }
    after
}

fn run(service: &Service, pods: &[Pod], slices: &[Arc<EndpointSlice>]) -> Plan {
    let pods: Vec<_> = pods.iter().cloned().map(Arc::new).collect();
    plan(&Snapshot { service, pods: &pods, slices, endpoints: None })
}

fn conditions(slice: &EndpointSlice) -> Vec<(bool, bool, bool)> {
    let read = |c: &EndpointConditions| {
        (c.ready == Some(true), c.serving == Some(true), c.terminating == Some(true))
    };
    let endpoints = slice.endpoints.as_deref().unwrap_or_default();
    endpoints.iter().filter_map(|e| e.conditions.as_ref().map(read)).collect()
}

fn ending(mut pod: Pod) -> Pod {
    pod.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
    pod
}

#[test]
fn a_member_is_ready_serving_terminating_as_its_pod_is() {
    let check = |spec, pod: Pod, expected: &[(bool, bool, bool)]| {
        let plan = run(&service(spec), &[pod], &[]);
        assert_eq!(conditions(&plan.create[0]), expected);
    };
    check(json!({}), pod(1, true, 8080), &[(true, true, false)]);
    check(json!({}), pod(1, false, 8080), &[(false, false, false)]);
    check(json!({}), ending(pod(1, true, 8080)), &[(false, true, true)]);
    check(json!({"publishNotReadyAddresses": true}), pod(1, false, 8080), &[(true, false, false)]);
    let mut finished = pod(1, false, 8080);
    finished.status.get_or_insert_default().phase = Some("Succeeded".into());
    check(json!({}), finished, &[]);
}

#[test]
fn a_slice_says_whose_it_is_and_where_its_members_are() {
    let plan = run(&service(json!({"clusterIP": "None"})), &[pod(1, true, 8080)], &[]);
    let slice = &plan.create[0];
    let labels = slice.metadata.labels.as_ref().expect("labels");
    assert_eq!(labels["kubernetes.io/service-name"], "web");
    assert_eq!(labels["endpointslice.kubernetes.io/managed-by"], "endpointslice-controller.k8s.io");
    assert_eq!(labels["team"], "a");
    assert!(labels.contains_key("service.kubernetes.io/headless"));
    let endpoint = &slice.endpoints.as_ref().expect("endpoints")[0];
    assert_eq!(endpoint.hostname.as_deref(), Some("h"));
    assert_eq!(endpoint.node_name.as_deref(), Some("n1"));
    assert_eq!(endpoint.target_ref.as_ref().and_then(|r| r.name.as_deref()), Some("p1"));
    assert_eq!(slice.ports.as_ref().expect("ports")[0].port, Some(8080));
}

#[test]
fn pods_whose_named_ports_differ_stand_in_different_slices() {
    let plan = run(&service(json!({})), &[pod(1, true, 8080), pod(2, true, 9090)], &[]);
    assert_eq!(plan.create.len(), 2);
    let endpoints = plan.endpoints.expect("endpoints");
    assert_eq!(endpoints.subsets.expect("subsets").len(), 2);
}

#[test]
fn a_change_of_one_pod_rewrites_one_slice() {
    let service = service(json!({}));
    let mut pods: Vec<_> = (0..250).map(|number| pod(number, true, 80)).collect();
    let slices = carry(&run(&service, &pods, &[]), &[]);
    let lengths = |slices: &[Arc<EndpointSlice>]| -> Vec<usize> {
        slices.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len)).collect()
    };
    assert_eq!(lengths(&slices), [100, 100, 50]);
    let same = run(&service, &pods, &slices);
    assert_eq!((same.create, same.update, same.delete), (vec![], vec![], vec![]));
    pods[120] = ending(pods[120].clone());
    let plan = run(&service, &pods, &slices);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
    pods.truncate(20);
    let left = carry(&run(&service, &pods, &slices), &slices);
    assert_eq!(lengths(&left).iter().sum::<usize>(), 20);
    let none = carry(&run(&service, &[], &left), &left);
    assert_eq!(lengths(&none), [0], "one empty slice stays");
    let again = run(&service, &[], &none);
    assert_eq!((again.create, again.update, again.delete), (vec![], vec![], vec![]));
}

#[test]
fn endpoints_tell_ready_from_not_ready_and_forget_the_ending() {
    let pods = [pod(1, true, 80), pod(2, false, 80), ending(pod(3, true, 80))];
    let endpoints = run(&service(json!({})), &pods, &[]).endpoints.expect("endpoints");
    let subset = &endpoints.subsets.expect("subsets")[0];
    let ips = |list: &Option<Vec<k8s_openapi::api::core::v1::EndpointAddress>>| -> Vec<String> {
        list.iter().flatten().map(|address| address.ip.clone()).collect()
    };
    assert_eq!(ips(&subset.addresses), ["10.42.0.1"]);
    assert_eq!(ips(&subset.not_ready_addresses), ["10.42.0.2"]);
}

#[test]
fn services_without_a_selector_are_left_alone() {
    let plan = run(&service(json!({"selector": {}})), &[pod(1, true, 80)], &[]);
    assert_eq!(plan, Plan::default());
}
