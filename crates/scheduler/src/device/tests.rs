//! Shares of devices: what pods ask for, what is refused, and that no device is given twice.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::cluster::Cluster;
use crate::profile::{DevicePolicy, Profile};
use crate::{preempt, snapshot};

fn node(name: &str, gpus: i64, more: Value) -> Node {
    let mut object = json!({ "metadata": { "name": name, "labels": { "nvidia.com/gpu.product": "T4" } },
        "status": { "allocatable": { "cpu": "64", "memory": "256Gi", "pods": "200",
            "nvidia.com/gpu": gpus.to_string() } } });
    for (key, value) in more.as_object().into_iter().flatten() {
        object["metadata"][key] = value.clone();
    }
    snapshot::node(&serde_json::from_value(object).unwrap())
}

fn pod(name: &str, annotations: Value, spec: Value) -> Arc<Pod> {
    let mut object = json!({
        "metadata": { "namespace": "default", "name": name, "uid": name, "annotations": annotations },
        "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1" } } }] } });
    for (key, value) in spec.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    Arc::new(snapshot::pod(&serde_json::from_value(object).unwrap()))
}

fn part(name: &str, milli: i64) -> Arc<Pod> {
    pod(name, json!({ MILLI: milli.to_string() }), json!({}))
}

fn whole(name: &str, count: i64) -> Arc<Pod> {
    let asks = json!({ "requests": { "nvidia.com/gpu": count.to_string() } });
    pod(name, json!({}), json!({ "containers": [{ "name": "c", "resources": asks }] }))
}

fn on(pod: &Arc<Pod>, index: &str) -> Arc<Pod> {
    Arc::new(Pod { devices: parse_index(index), ..Pod::clone(pod) })
}

fn cluster(nodes: impl IntoIterator<Item = Node>) -> Cluster {
    let mut cluster = Cluster::new(vec![Profile::standard(0)]);
    for node in nodes {
        cluster.set_node(node);
    }
    cluster
}

#[test]
fn what_pods_ask_for() {
    fn check(annotations: Value, spec: Value, expected: Option<(u8, u16)>) {
        let text = format!("{annotations} {spec}");
        let pod = pod("p", annotations, spec);
        let found = asked(&pod, &node("n", 4, json!({})));
        let wrong = found.is_some_and(|share| share.wrong);
        let found = found.filter(|share| !share.wrong).map(|share| (share.count, share.milli));
        assert_eq!(found, expected, "{text}");
        assert_eq!(wrong, text.contains("wrong"), "{text}");
        assert!(!pod.requests.extended.contains_key(MILLI), "a share is no number of things");
    }
    let resources = |all: &[Value]| {
        let containers: Vec<Value> = all
            .iter()
            .map(|each| json!({ "name": "c", "resources": { "requests": each, "limits": each } }))
            .collect();
        json!({ "containers": containers })
    };
    check(json!({}), json!({}), None);
    check(json!({ MILLI: "500" }), json!({}), Some((1, 500)));
    check(json!({ MILLI: "500", COUNT: "2" }), json!({}), Some((2, 500)));
    check(json!({ COUNT: "2" }), json!({}), Some((2, 1000)));
    check(
        json!({}),
        resources(&[json!({ MILLI: "300" }), json!({ MILLI: "400" })]),
        Some((1, 700)),
    );
    check(json!({}), resources(&[json!({ "nvidia.com/gpu": "2" })]), Some((2, 1000)));
    for text in ["0", "1001", "-1", "half", "0.5", ""] {
        check(json!({ MILLI: text, "wrong": "" }), json!({}), None);
    }
    check(json!({ COUNT: "17", "wrong": "" }), json!({}), None);
    let both = resources(&[json!({ "nvidia.com/gpu": "1" })]);
    check(json!({ MILLI: "500", "wrong": "" }), both, None);
}

#[test]
fn an_index_is_read_as_it_is_written() {
    for (text, devices) in [("0", 1), ("0,2", 5), ("15", 1 << 15), (" 1 , 3 ", 10)] {
        assert_eq!(parse_index(text), devices);
        assert_eq!(parse_index(&write_index(devices)), devices);
    }
    for text in ["", "16", "-1", "a", "0,,1"] {
        assert_eq!(parse_index(text), 0, "{text}");
    }
}

#[test]
fn who_says_its_devices_counts_before_who_does_not() {
    fn check(gpus: i64, pods: &[Arc<Pod>], expected: &[u16]) {
        let mut pods: Vec<&Pod> = pods.iter().map(|pod| &**pod).collect();
        let node = node("n", gpus, json!({}));
        assert_eq!(room(&node, pods.iter().copied()).unwrap().free(), expected);
        pods.reverse();
        assert_eq!(room(&node, pods).unwrap().free(), expected, "in whichever order");
    }
    check(2, &[], &[1000, 1000]);
    check(2, &[on(&part("a", 300), "1")], &[1000, 700]);
    check(2, &[whole("w", 1), on(&part("a", 300), "0")], &[700, 0]);
    check(3, &[part("a", 600), part("b", 400), whole("w", 1)], &[0, 0, 1000]);
    // An index that cannot be is none.
    check(2, &[on(&part("a", 300), "7")], &[700, 1000]);
    check(2, &[on(&whole("w", 2), "1")], &[0, 0]);
    // Somebody gave out too much.
    check(2, &[on(&part("a", 700), "0"), on(&part("b", 700), "0")], &[0, 1000]);
    check(1, &[part("a", 700), part("b", 700)], &[0]);
}

#[test]
fn refusals_say_what_the_devices_lack() {
    fn check(node: Node, there: &[Arc<Pod>], pod: &Arc<Pod>, expected: Option<&str>) {
        let mut cluster = cluster([node]);
        for other in there {
            cluster.place(Arc::clone(other), "n");
        }
        let found = cluster.decide(pod);
        let said = found.as_ref().err().map(ToString::to_string);
        let expected = expected.map(|text| format!("0/1 nodes are available: 1 {text}."));
        assert_eq!(said, expected);
    }
    let two = || node("n", 2, json!({}));
    check(two(), &[], &part("p", 500), None);
    check(two(), &[on(&part("a", 600), "0")], &whole("w", 1), None);
    let both = [on(&part("a", 600), "0"), on(&part("b", 600), "1")];
    check(two(), &both, &part("p", 400), None);
    let text = "node(s) had 0 of 1 devices with 500 of 1000 thousandths free";
    check(two(), &both, &part("p", 500), Some(text));
    check(two(), &both, &whole("w", 1), Some("node(s) had only 0 devices that nobody shares"));
    let pair = pod("p", json!({ MILLI: "400", COUNT: "3" }), json!({}));
    let text = "node(s) had 2 of 3 devices with 400 of 1000 thousandths free";
    check(two(), &both, &pair, Some(text));
    let text = "node(s) had no devices to share";
    check(node("n", 0, json!({})), &[], &part("p", 1), Some(text));
    check(node("n", 17, json!({})), &[], &part("p", 1), Some(text));
    check(node("n", 17, json!({})), &[], &whole("w", 17), None);
    let other = pod("p", json!({ MILLI: "400", MODELS: "A100,H100" }), json!({}));
    let text = "node(s) had devices of other models than berth.dev/gpu-models names";
    check(two(), &[], &other, Some(text));
    check(node("n", 2, json!({ "labels": { "berth.dev/gpu-model": "H100" } })), &[], &other, None);
    let text = "pod's berth.dev/gpu-milli is not within 1 to 1000, or its berth.dev/gpu-count not \
                within 1 to 16";
    check(two(), &[], &part("p", 2000), Some(text));
    // Another resource tells the devices.
    let renamed = || node("n", 2, json!({ "annotations": { RESOURCE: "example.com/card" } }));
    check(renamed(), &[], &part("p", 1), Some("node(s) had no devices to share"));
}

#[test]
fn shares_fill_a_device_before_they_open_another() {
    for policy in [DevicePolicy::Archimedes, DevicePolicy::Fgd, DevicePolicy::BestFit] {
        let mut profile = Profile::standard(0);
        profile.device_policy = policy;
        let mut cluster = Cluster::new(vec![profile]);
        for at in 0..4 {
            cluster.set_node(node(&format!("n{at}"), 2, json!({})));
        }
        for at in 0..8 {
            let pod = part(&format!("p{at}"), 250);
            let placement = cluster.decide(&pod).unwrap();
            let given = cluster.with_devices(&pod, &placement.node);
            assert_eq!(given.devices.count_ones(), 1);
            cluster.place(given, &placement.node);
        }
        let free: Vec<u16> =
            (0..4).flat_map(|at| cluster.devices_on(&format!("n{at}")).to_vec()).collect();
        let opened = free.iter().filter(|free| **free < 1000).count();
        assert_eq!(opened, 2, "{policy:?}: {free:?}");
    }
}

#[test]
fn a_model_that_a_label_tells_later_is_known_then() {
    let mut cluster = cluster([node("n", 2, json!({ "labels": {} }))]);
    // Prices are made once enough has come.
    for at in 0..80 {
        let pod = part(&format!("p{at}"), 900);
        if let Ok(placement) = cluster.decide(&pod) {
            cluster.place(cluster.with_devices(&pod, &placement.node), &placement.node);
        }
    }
    cluster.remove("p0");
    cluster.set_node(node("n", 2, json!({ "labels": { "berth.dev/gpu-model": "H100" } })));
    let asks = pod("p", json!({ MILLI: "400", MODELS: "H100" }), json!({}));
    let placement = cluster.decide(&asks).unwrap();
    assert_eq!(cluster.with_devices(&asks, &placement.node).devices.count_ones(), 1);
}

#[test]
fn who_holds_a_share_makes_way_for_the_more_important() {
    let mut cluster = cluster([node("n", 2, json!({}))]);
    for (name, index) in [("a", "0"), ("b", "1")] {
        cluster.place(on(&part(name, 600), index), "n");
    }
    let high = pod("h", json!({ MILLI: "500" }), json!({ "priority": 10 }));
    let found = preempt::preempt(&mut cluster, &high, &[]).unwrap();
    assert_eq!(found.victims.len(), 1);
    let none = pod("h", json!({ MILLI: "500", COUNT: "3" }), json!({ "priority": 10 }));
    assert!(preempt::preempt(&mut cluster, &none, &[]).is_err(), "the node is too small");
}

/// Numbers that are the same for the same seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.0 >> 33) as usize) % end
    }
}

/// As anybody counts who reads the pods: on each device of each node.
fn given_out(pods: &[(Arc<Pod>, String)]) -> std::collections::BTreeMap<(String, usize), u32> {
    let mut sums = std::collections::BTreeMap::new();
    for (pod, name) in pods {
        let share = asked(pod, &node(name, 4, json!({}))).unwrap();
        assert_eq!(pod.devices.count_ones(), u32::from(share.count), "{}", pod.name);
        for index in bits(pod.devices) {
            *sums.entry((name.clone(), index)).or_default() += u32::from(share.milli);
        }
    }
    sums
}

#[test]
fn no_device_is_given_out_beyond_a_whole_one_whoever_comes_and_goes() {
    for seed in 0..9 {
        let mut draw = Draw(seed);
        let mut profile = Profile::standard(seed);
        profile.device_policy =
            [DevicePolicy::Archimedes, DevicePolicy::Fgd, DevicePolicy::BestFit][draw.below(3)];
        let fresh = |profile: &Profile| {
            let mut cluster = Cluster::new(vec![profile.clone()]);
            for at in 0..5 {
                cluster.set_node(node(&format!("n{at}"), 4, json!({})));
            }
            cluster
        };
        let mut cluster = fresh(&profile);
        let mut there: Vec<(Arc<Pod>, String)> = Vec::new();
        let mut refused = BTreeSet::new();
        for step in 0..400 {
            let name = format!("p{step}");
            let pod = match draw.below(4) {
                0 => whole(&name, 1 + draw.below(4) as i64),
                1 => pod(&name, json!({ MILLI: "300", COUNT: "2" }), json!({})),
                _ => part(&name, 50 * (1 + draw.below(20)) as i64),
            };
            match cluster.decide(&pod) {
                Ok(placement) => {
                    let given = cluster.with_devices(&pod, &placement.node);
                    cluster.place(Arc::clone(&given), &placement.node);
                    there.push((given, placement.node));
                }
                Err(_) => drop(refused.insert(step)),
            }
            if draw.below(2) == 0 && !there.is_empty() {
                let (gone, _) = there.swap_remove(draw.below(there.len()));
                cluster.remove(&gone.uid);
            }
            if draw.below(60) == 0 {
                // A restart: all is read again, in another order.
                cluster = fresh(&profile);
                there.reverse();
                for (pod, node) in &there {
                    cluster.place(Arc::clone(pod), node);
                }
            }
            let sums = given_out(&there);
            assert!(sums.values().all(|sum| *sum <= 1000), "seed {seed}: {sums:?}");
            for at in 0..5 {
                let name = format!("n{at}");
                for (index, free) in cluster.devices_on(&name).iter().enumerate() {
                    let used = sums.get(&(name.clone(), index)).copied().unwrap_or(0);
                    assert_eq!(u32::from(*free) + used, 1000, "seed {seed}: {name} {index}");
                }
            }
        }
        assert!(!refused.is_empty(), "the cluster fills");
    }
}
