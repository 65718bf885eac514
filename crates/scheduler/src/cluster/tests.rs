//! Whole decisions, in the YAML shapes that people write.

mod documented;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::snapshot;

fn node(name: &str, extra: Value) -> Value {
    let mut node = json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "spec": {},
        "status": { "allocatable": { "cpu": "2", "memory": "4Gi", "pods": "10" } },
    });
    merge(&mut node, extra);
    node
}

fn pod(name: &str, extra: Value) -> Value {
    let mut pod = json!({
        "metadata": { "name": name, "namespace": "default", "uid": name },
        "spec": { "containers": [{ "name": "c" }] },
    });
    merge(&mut pod, extra);
    pod
}

fn web(name: &str, on: &str) -> Value {
    pod(name, json!({ "metadata": { "labels": { "app": "web" } }, "spec": { "nodeName": on } }))
}

fn cpu(amount: &str) -> Value {
    json!({ "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": amount } } }] } })
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn read(value: &Value) -> Arc<Pod> {
    Arc::new(snapshot::pod(&serde_json::from_value(value.clone()).unwrap()))
}

fn cluster(nodes: &[Value], placed: &[Value], profile: Profile) -> Cluster {
    let mut cluster = Cluster::new(vec![profile]);
    let labels = BTreeMap::from([("env".to_owned(), "test".to_owned())]);
    cluster.set_namespace("default".to_owned(), Some(labels));
    for value in nodes {
        cluster.set_node(snapshot::node(&serde_json::from_value(value.clone()).unwrap()));
    }
    for value in placed {
        let pod = read(value);
        let node = pod.node.clone().unwrap();
        cluster.place(pod, &node);
    }
    cluster
}

fn decide(nodes: &[Value], placed: &[Value], wanted: &Value) -> Result<Placement, Unschedulable> {
    cluster(nodes, placed, Profile::standard(7)).decide(&read(wanted))
}

fn goes(nodes: &[Value], placed: &[Value], wanted: &Value, expected: &str) {
    assert_eq!(
        decide(nodes, placed, wanted).map(|placement| placement.node).as_deref(),
        Ok(expected)
    );
}

fn stays(nodes: &[Value], placed: &[Value], wanted: &Value, expected: &str) {
    assert_eq!(decide(nodes, placed, wanted).expect_err("no node fits").to_string(), expected);
}

#[test]
fn without_nodes_nothing_is_placed() {
    stays(&[], &[], &pod("p", json!({})), "no nodes available to schedule pods");
}

#[test]
fn a_pod_needs_free_room() {
    let one = [node("a", json!({}))];
    goes(&one, &[], &pod("p", cpu("2")), "a");
    stays(&one, &[], &pod("p", cpu("3")), "0/1 nodes are available: 1 Insufficient cpu.");
    let mut other = pod("o", cpu("1500m"));
    merge(&mut other, json!({ "spec": { "nodeName": "a" } }));
    stays(
        &one,
        &[other.clone()],
        &pod("p", cpu("1")),
        "0/1 nodes are available: 1 Insufficient cpu.",
    );
    goes(&one, &[other], &pod("p", cpu("500m")), "a");
    let greedy = json!({ "spec": { "containers": [{ "name": "c", "resources": {
        "requests": { "cpu": "8", "memory": "8Gi", "berth.dev/gpu": "1" } } }] } });
    stays(
        &one,
        &[],
        &pod("p", greedy),
        "0/1 nodes are available: 1 Insufficient berth.dev/gpu, 1 Insufficient cpu, 1 Insufficient memory.",
    );
    let full = [node("a", json!({ "status": { "allocatable": { "pods": "1" } } }))];
    stays(
        &full,
        &[web("w", "a")],
        &pod("p", json!({})),
        "0/1 nodes are available: 1 Too many pods.",
    );
}

#[test]
fn a_cordoned_or_tainted_node_takes_only_who_tolerates_it() {
    let cordoned = [node("a", json!({ "spec": { "unschedulable": true } }))];
    stays(
        &cordoned,
        &[],
        &pod("p", json!({})),
        "0/1 nodes are available: 1 node(s) were unschedulable.",
    );
    let tolerant = |key: &str, effect: &str| {
        let toleration = json!({ "key": key, "operator": "Exists", "effect": effect });
        pod("p", json!({ "spec": { "tolerations": [toleration] } }))
    };
    goes(&cordoned, &[], &tolerant("node.kubernetes.io/unschedulable", "NoSchedule"), "a");
    let taint = |effect: &str| {
        [
            node(
                "a",
                json!({ "spec": { "taints": [{ "key": "gpu", "value": "yes", "effect": effect }] } }),
            ),
            node("b", json!({ "spec": { "unschedulable": true } })),
        ]
    };
    stays(
        &taint("NoExecute"),
        &[],
        &pod("p", json!({})),
        "0/2 nodes are available: 1 node(s) had untolerated taint {gpu: yes}, 1 node(s) were unschedulable.",
    );
    goes(&taint("NoExecute"), &[], &tolerant("gpu", "NoExecute"), "a");
    goes(&taint("PreferNoSchedule"), &[], &pod("p", json!({})), "a");
    let free = [taint("PreferNoSchedule")[0].clone(), node("b", json!({}))];
    goes(&free, &[web("w", "b")], &pod("p", json!({})), "b");
}

#[test]
fn selectors_and_affinity_choose_nodes_by_label_and_name() {
    let nodes = [
        node("a", json!({ "metadata": { "labels": { "disk": "hdd", "cores": "4" } } })),
        node("b", json!({ "metadata": { "labels": { "disk": "ssd", "cores": "16" } } })),
    ];
    let refused = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
    goes(&nodes, &[], &pod("p", json!({ "spec": { "nodeSelector": { "disk": "ssd" } } })), "b");
    stays(
        &nodes,
        &[],
        &pod("p", json!({ "spec": { "nodeSelector": { "disk": "nvme" } } })),
        refused,
    );
    let required = |term: Value| {
        let terms = json!({ "nodeSelectorTerms": [term] });
        pod(
            "p",
            json!({ "spec": { "affinity": { "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": terms } } } }),
        )
    };
    let cores =
        json!({ "matchExpressions": [{ "key": "cores", "operator": "Gt", "values": ["8"] }] });
    goes(&nodes, &[], &required(cores), "b");
    let name =
        json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["a"] }] });
    goes(&nodes, &[], &required(name), "a");
    stays(&nodes, &[], &required(json!({})), refused);
    let preferred = json!({ "spec": { "affinity": { "nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [{ "weight": 1, "preference": {
            "matchExpressions": [{ "key": "disk", "operator": "In", "values": ["ssd"] }] } }] } } } });
    goes(&nodes, &[], &pod("p", preferred), "b");
}

#[test]
fn a_host_port_serves_one_pod() {
    let nodes = [node("a", json!({}))];
    let with_port = |name: &str, port: Value| {
        pod(name, json!({ "spec": { "containers": [{ "name": "c", "ports": [port] }] } }))
    };
    let mut other =
        with_port("o", json!({ "containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1" }));
    merge(&mut other, json!({ "spec": { "nodeName": "a" } }));
    let refused =
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    stays(
        &nodes,
        &[other.clone()],
        &with_port("p", json!({ "containerPort": 8, "hostPort": 80 })),
        refused,
    );
    goes(&nodes, &[other.clone()], &with_port("p", json!({ "containerPort": 80 })), "a");
    let udp = json!({ "containerPort": 80, "hostPort": 80, "protocol": "UDP" });
    goes(&nodes, &[other.clone()], &with_port("p", udp), "a");
    let elsewhere = json!({ "containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.2" });
    goes(&nodes, &[other], &with_port("p", elsewhere), "a");
}

#[test]
fn spread_keeps_domains_within_the_skew() {
    let zone =
        |name: &str, zone: &str| node(name, json!({ "metadata": { "labels": { "zone": zone } } }));
    let nodes = [zone("a", "x"), zone("b", "y"), node("c", json!({}))];
    let wanted = |when: &str, more: Value| {
        let mut spread = json!({ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": when,
            "labelSelector": { "matchLabels": { "app": "web" } } });
        merge(&mut spread, more);
        pod(
            "p",
            json!({ "metadata": { "labels": { "app": "web" } },
            "spec": { "topologySpreadConstraints": [spread] } }),
        )
    };
    goes(&nodes, &[web("1", "a")], &wanted("DoNotSchedule", json!({})), "b");
    goes(&nodes, &[web("1", "a"), web("2", "c")], &wanted("ScheduleAnyway", json!({})), "b");
    let mut pinned = wanted("DoNotSchedule", json!({ "nodeAffinityPolicy": "Ignore" }));
    merge(&mut pinned, json!({ "spec": { "nodeSelector": { "zone": "x" } } }));
    stays(
        &nodes,
        &[web("1", "a")],
        &pinned,
        "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, 2 node(s) didn't match Pod's node affinity/selector.",
    );
    let three = wanted("DoNotSchedule", json!({ "minDomains": 3 }));
    stays(
        &nodes,
        &[web("1", "a"), web("2", "b")],
        &three,
        "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label), 2 node(s) didn't match pod topology spread constraints.",
    );
}

#[test]
fn pods_go_near_whom_they_like_and_away_from_whom_they_do_not() {
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let term = |more: Value| {
        let mut term = json!({ "topologyKey": "kubernetes.io/hostname",
            "labelSelector": { "matchLabels": { "app": "web" } } });
        merge(&mut term, more);
        term
    };
    let with = |kind: &str, term: Value| {
        pod(
            "p",
            json!({ "metadata": { "labels": { "app": "cache" } }, "spec": { "affinity": { kind: {
            "requiredDuringSchedulingIgnoredDuringExecution": [term] } } } }),
        )
    };
    goes(&nodes, &[web("w", "b")], &with("podAffinity", term(json!({}))), "b");
    goes(&nodes, &[web("w", "b")], &with("podAntiAffinity", term(json!({}))), "a");
    stays(
        &nodes,
        &[],
        &with("podAffinity", term(json!({}))),
        "0/2 nodes are available: 2 node(s) didn't match pod affinity rules.",
    );
    let own = json!({ "labelSelector": { "matchLabels": { "app": "cache" } } });
    let mut first = with("podAffinity", json!({ "topologyKey": "kubernetes.io/hostname" }));
    merge(
        &mut first["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            [0],
        own,
    );
    assert!(decide(&nodes, &[], &first).is_ok(), "the first of a group may go anywhere");
    let elsewhere = term(json!({ "namespaces": ["other"] }));
    assert!(decide(&nodes, &[web("w", "a")], &with("podAffinity", elsewhere)).is_err());
    let by_label = term(json!({ "namespaceSelector": { "matchLabels": { "env": "test" } } }));
    goes(&nodes, &[web("w", "a")], &with("podAffinity", by_label), "a");

    let mut shy = with(
        "podAntiAffinity",
        term(json!({ "labelSelector": { "matchLabels": { "app": "web" } } })),
    );
    merge(&mut shy, json!({ "spec": { "nodeName": "a" } }));
    let newcomer = pod("n", json!({ "metadata": { "labels": { "app": "web" } } }));
    goes(&nodes, &[shy.clone()], &newcomer, "b");
    stays(
        &nodes[..1],
        &[shy],
        &newcomer,
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.",
    );
}

#[test]
fn pods_that_room_is_made_for_count_on_their_node_as_if_they_were_there() {
    let zone =
        |name: &str, zone: &str| node(name, json!({ "metadata": { "labels": { "zone": zone } } }));
    let nodes = [zone("a", "x"), zone("b", "y")];
    let spread = json!({ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": { "matchLabels": { "app": "web" } } });
    let web = json!({ "metadata": { "labels": { "app": "web" } } });
    let mut even = pod("p", web.clone());
    merge(&mut even, json!({ "spec": { "topologySpreadConstraints": [spread] } }));
    let away = json!({ "spec": { "affinity": { "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{ "topologyKey": "zone",
            "labelSelector": { "matchLabels": { "app": "web" } } }] } } } });
    let check =
        |placed: &[Value], awaited: Value, priority: i32, wanted: &Value, a: bool, b: bool| {
            let mut cluster = cluster(&nodes, placed, Profile::standard(7));
            let mut awaited = pod("awaited", awaited);
            merge(&mut awaited, json!({ "spec": { "priority": priority } }));
            cluster.nominate(&read(&awaited), Some("a"));
            let wanted = read(wanted);
            let takes = ["a", "b"].map(|name| cluster.check(&wanted, name).is_ok());
            assert_eq!(takes, [a, b], "{awaited} {wanted:?}");
            assert_eq!(cluster.decide(&wanted).is_ok(), a || b);
        };
    // One in y already: with the awaited one x holds as many, and both do.
    check(&[self::web("1", "b")], web.clone(), 0, &even, true, false);
    check(&[self::web("1", "b"), self::web("2", "b")], web.clone(), 0, &even, true, false);
    check(&[], web.clone(), 0, &even, false, true);
    // Who is less important is not waited for.
    check(&[], web.clone(), -1, &even, true, true);
    // Away from the awaited one, and the awaited one from it.
    check(&[], web.clone(), 0, &pod("p", away.clone()), false, true);
    check(&[], away.clone(), 0, &pod("p", web.clone()), false, true);
    // Near whom is only awaited is near nobody.
    let near = json!({ "spec": { "affinity": { "podAffinity":
        away["spec"]["affinity"]["podAntiAffinity"] } } });
    check(&[], web, 0, &pod("p", near), false, false);
}

#[test]
fn the_emptier_node_wins_and_ties_are_drawn_by_seed() {
    let nodes = [node("a", json!({})), node("b", json!({}))];
    goes(&nodes, &[web("w", "a")], &pod("p", json!({})), "b");
    let first = decide(&nodes, &[], &pod("p", json!({}))).expect("fits");
    let again = decide(&nodes, &[], &pod("p", json!({}))).expect("fits");
    assert_eq!(first, again);
    assert_eq!(first.candidates, 2);
    let names: std::collections::BTreeSet<String> = (0..32)
        .map(|seed| {
            let mut cluster = cluster(&nodes, &[], Profile::standard(seed));
            cluster.decide(&read(&pod("p", json!({})))).expect("fits").node
        })
        .collect();
    assert_eq!(names.len(), 2, "draws favour no node");
}

/// The best node's scores by name, weight included.
fn scores(nodes: &[Value], placed: &[Value], wanted: &Value, node: &str) -> BTreeMap<String, i64> {
    let explained = cluster(nodes, placed, Profile::standard(7)).explain(&read(wanted));
    let rated = explained.best.into_iter().find(|rated| rated.node == node).expect("it fits");
    assert_eq!(rated.total, rated.scores.iter().map(|(_, value)| value).sum::<i64>());
    rated.scores.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[test]
fn scores_are_those_of_the_documentation() {
    let zoned =
        |name: &str, zone: &str| node(name, json!({ "metadata": { "labels": { "zone": zone } } }));
    let nodes = [zoned("a", "x"), zoned("b", "x"), zoned("c", "y")];
    // Two cores and 4 GiB: 1 core and nothing stated (200 MiB) leave 50 % and 95 %.
    let plain = scores(&nodes, &[], &pod("p", cpu("1")), "a");
    assert_eq!(plain["NodeResourcesFit"], (50 + 95) / 2);
    // From nothing to half of the processor and none of the memory: deviation 0.25 more.
    assert_eq!(plain["NodeResourcesBalancedAllocation"], 50 + (50 + 75 - 100) / 2);
    assert_eq!(plain["TaintToleration"], 300);
    assert_eq!(plain["NodeAffinity"], 0);
    let soft = json!({ "metadata": { "labels": { "app": "web" } }, "spec": {
        "topologySpreadConstraints": [{ "maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": { "app": "web" } } }] } });
    let placed = [web("1", "a"), web("2", "b"), web("3", "c")];
    // Two domains: a pod counts ln 4; x holds 2.77 ≈ 3, y holds 1.39 ≈ 1.
    let spread =
        |on: &str| scores(&nodes, &placed, &pod("p", soft.clone()), on)["PodTopologySpread"];
    assert_eq!((spread("a"), spread("c")), (2 * 33, 2 * 100));
    let wish = json!({ "spec": { "affinity": { "podAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [{ "weight": 10, "podAffinityTerm": {
            "topologyKey": "zone", "labelSelector": { "matchLabels": { "app": "web" } } } }] } } } });
    let near = |on: &str| scores(&nodes, &placed, &pod("p", wish.clone()), on)["InterPodAffinity"];
    assert_eq!((near("a"), near("c")), (200, 0));
    let image = |size: i64| {
        node("i", json!({ "status": { "images": [{ "names": ["web:1"], "sizeBytes": size }] } }))
    };
    let asks = json!({ "spec": { "containers": [{ "name": "c", "image": "web:1" }] } });
    let nodes = [image(1000 * 1024 * 1024), node("j", json!({}))];
    // On one node of two an image counts half.
    let held = scores(&nodes, &[], &pod("p", asks), "i")["ImageLocality"];
    assert_eq!(held, (500 - 23) * 100 / (1000 - 23));
}

#[test]
fn strategies_rate_room_as_configured() {
    fn check(strategy: &str, expected: i64) {
        let text = format!(r#"{{"strategy": {strategy}, "resources": [{{"name": "cpu"}}]}}"#);
        let profile: Profile = serde_json::from_str(&text).unwrap();
        let nodes = [node("a", json!({}))];
        let mut cluster = cluster(&nodes, &[], profile.validate().unwrap());
        let explained = cluster.explain(&read(&pod("p", cpu("500m"))));
        let fit = explained.best[0].scores.iter().find(|(name, _)| *name == "NodeResourcesFit");
        assert_eq!(fit.unwrap().1, expected, "{strategy}");
    }
    check(r#"{"type": "LeastAllocated"}"#, 75);
    check(r#"{"type": "MostAllocated"}"#, 25);
    let line = r#"[{"utilization": 0, "score": 0}, {"utilization": 50, "score": 10}]"#;
    check(&format!(r#"{{"type": "RequestedToCapacityRatio", "shape": {line}}}"#), 50);
}

#[test]
fn a_gang_is_placed_whole_or_not_at_all() {
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let mut cluster = cluster(&nodes, &[], Profile::standard(7));
    let gang: Vec<_> = (0..3).map(|at| read(&pod(&format!("g{at}"), cpu("2")))).collect();
    let refused = crate::gang::place(&mut cluster, &gang, 0, 3).unwrap_err();
    assert_eq!((refused.found, refused.least), (2, 3));
    assert!(gang.iter().all(|pod| cluster.node_of(&pod.uid).is_none()));
    let placed = crate::gang::place(&mut cluster, &gang, 0, 2).unwrap();
    assert_eq!(placed.iter().filter(|(_, outcome)| outcome.is_ok()).count(), 2);
    assert_eq!(gang.iter().filter(|pod| cluster.node_of(&pod.uid).is_some()).count(), 2);
}

#[test]
fn reserved_room_is_for_its_owner_alone() {
    use crate::reservation::{Reservation, settle};
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let mut cluster = cluster(&nodes, &[], Profile::standard(7));
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    let wanted = Reservation {
        name: "release".into(),
        namespace: "default".into(),
        selector: Selector::labels(&labels),
        slots: 2,
        slot: read(&pod("s", cpu("2"))).requests.clone(),
        until: Some(100),
        ..Reservation::default()
    };
    let (kept, missing) = settle(&mut cluster, &[wanted], 0);
    assert_eq!((missing, kept[0].floors.len()), (0, 2));
    let stranger = read(&pod("o", cpu("1")));
    assert!(cluster.decide(&stranger).is_err());
    let mut own = pod("w", cpu("2"));
    merge(&mut own, json!({ "metadata": { "labels": { "app": "web" } } }));
    let own = read(&own);
    let node = cluster.decide(&own).unwrap().node;
    cluster.place(Arc::clone(&own), &node);
    assert!(cluster.decide(&stranger).is_err(), "the other slot is still held");
    cluster.remove(&own.uid);
    assert!(cluster.decide(&stranger).is_err(), "a slot that is left is held again");
    let (kept, _) = settle(&mut cluster, &kept, 99);
    assert_eq!(kept[0].floors.len(), 2, "settled again, the slots are where they were");
    let (over, _) = settle(&mut cluster, &kept, 100);
    assert!(over.is_empty() && cluster.decide(&stranger).is_ok(), "it ended");
    // The clock jumped: what had not ended holds again, where it was.
    let (again, missing) = settle(&mut cluster, &kept, -1_000_000);
    assert_eq!((&again[0].floors, &again[0].set, missing), (&kept[0].floors, &kept[0].set, 0));
    assert!(cluster.decide(&stranger).is_err());
}

#[test]
fn a_node_above_the_ceiling_takes_nothing_and_an_idle_one_is_preferred() {
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let profile = Profile { load_ceiling: Some(80), ..Profile::standard(7) };
    let mut cluster = cluster(&nodes, &[], profile);
    let wanted = read(&pod("p", json!({})));
    for (busy, idle) in [("a", "b"), ("b", "a")] {
        cluster.set_load(busy, Some(Load { cpu: 60.0, memory: 10.0 }));
        cluster.set_load(idle, Some(Load { cpu: 20.0, memory: 10.0 }));
        assert_eq!(cluster.decide(&wanted).unwrap().node, idle);
    }
    for name in ["a", "b"] {
        cluster.set_load(name, Some(Load { cpu: 81.0, memory: 10.0 }));
    }
    let why = cluster.decide(&wanted).unwrap_err().to_string();
    assert_eq!(why, "0/2 nodes are available: 2 node(s) were measured above the load ceiling.");
    cluster.set_load("a", None);
    assert!(cluster.decide(&wanted).is_ok(), "what is not measured is not held against a node");
}
