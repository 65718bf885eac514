//! Filters and scores against what Kubernetes' documentation says of each plugin, case by case.

use super::*;

/// Which of `nodes` take the pod.
fn takers(nodes: &[Value], placed: &[Value], wanted: &Value) -> Vec<String> {
    let mut cluster = cluster(nodes, placed, Profile::standard(7));
    let labels = |env: &str| BTreeMap::from([("env".to_owned(), env.to_owned())]);
    cluster.set_namespace("other".to_owned(), Some(labels("other")));
    let wanted = read(wanted);
    let all: Vec<String> = cluster.nodes().map(|node| node.name.clone()).collect();
    let mut found: Vec<String> =
        all.into_iter().filter(|name| cluster.check(&wanted, name).is_ok()).collect();
    found.sort();
    found
}

fn check(nodes: &[Value], placed: &[Value], wanted: &Value, expected: &[&str]) {
    assert_eq!(takers(nodes, placed, wanted), expected, "{wanted}\nbeside {placed:?}");
}

fn labelled(name: &str, labels: Value) -> Value {
    node(name, json!({ "metadata": { "labels": labels } }))
}

#[test]
fn node_affinity_knows_every_operator_and_how_terms_combine() {
    let nodes = [
        labelled("a", json!({ "disk": "hdd", "cores": "4" })),
        labelled("b", json!({ "disk": "ssd", "cores": "16" })),
        labelled("c", json!({ "cores": "many" })),
    ];
    let required = |terms: Value| {
        pod(
            "p",
            json!({ "spec": { "affinity": { "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": terms } } } } }),
        )
    };
    let one = |key: &str, operator: &str, values: &[&str]| json!({ "key": key, "operator": operator, "values": values });
    let labels = |all: &[Value]| json!({ "matchExpressions": all });
    for (expression, expected) in [
        (one("disk", "In", &["ssd", "nvme"]), &["b"][..]),
        // Who lacks the label is not in any set, and not in none of it.
        (one("disk", "NotIn", &["ssd"]), &["a", "c"]),
        (one("disk", "Exists", &[]), &["a", "b"]),
        (one("disk", "DoesNotExist", &[]), &["c"]),
        // What is no whole number compares with nothing.
        (one("cores", "Gt", &["4"]), &["b"]),
        (one("cores", "Lt", &["16"]), &["a"]),
        (one("cores", "Gt", &["-1"]), &["a", "b"]),
        (one("cores", "Lt", &["few"]), &[]),
        (one("disk", "Gt", &["1"]), &[]),
    ] {
        check(&nodes, &[], &required(json!([labels(&[expression])])), expected);
    }
    let ssd = one("disk", "In", &["ssd"]);
    let small = one("cores", "Lt", &["8"]);
    // Within a term all must hold, of terms any.
    check(&nodes, &[], &required(json!([labels(&[ssd.clone(), small.clone()])])), &[]);
    check(
        &nodes,
        &[],
        &required(json!([labels(std::slice::from_ref(&ssd)), labels(&[small])])),
        &["a", "b"],
    );
    let name = |operator: &str| json!([one("metadata.name", operator, &["b"])]);
    check(&nodes, &[], &required(json!([{ "matchFields": name("In") }])), &["b"]);
    check(&nodes, &[], &required(json!([{ "matchFields": name("NotIn") }])), &["a", "c"]);
    let both = json!([{ "matchFields": name("NotIn"), "matchExpressions": [ssd.clone()] }]);
    check(&nodes, &[], &required(both), &[]);
    // An empty term means no node; no terms mean none.
    check(&nodes, &[], &required(json!([{}, labels(std::slice::from_ref(&ssd))])), &["b"]);
    check(&nodes, &[], &required(json!([])), &[]);
    // The selector stands beside the affinity.
    let mut selective = required(json!([labels(&[ssd])]));
    merge(&mut selective, json!({ "spec": { "nodeSelector": { "cores": "4" } } }));
    check(&nodes, &[], &selective, &[]);
}

#[test]
fn taints_are_borne_by_key_operator_value_and_effect() {
    let tainted = |name: &str, key: &str, value: &str, effect: &str| {
        let taint = json!({ "key": key, "value": value, "effect": effect });
        node(name, json!({ "spec": { "taints": [taint] } }))
    };
    let nodes = [
        tainted("a", "gpu", "yes", "NoSchedule"),
        tainted("b", "gpu", "old", "NoExecute"),
        tainted("c", "gpu", "yes", "PreferNoSchedule"),
        node("d", json!({})),
    ];
    let bearing = |toleration: Value| pod("p", json!({ "spec": { "tolerations": [toleration] } }));
    for (toleration, expected) in [
        (json!({ "key": "other", "operator": "Exists" }), &["c", "d"][..]),
        (json!({ "key": "gpu", "operator": "Exists" }), &["a", "b", "c", "d"]),
        (json!({ "key": "gpu", "operator": "Equal", "value": "yes" }), &["a", "c", "d"]),
        // Equal is what is meant where nothing is said.
        (json!({ "key": "gpu", "value": "old" }), &["b", "c", "d"]),
        (json!({ "key": "gpu", "operator": "Exists", "effect": "NoSchedule" }), &["a", "c", "d"]),
        (json!({ "key": "gpu", "operator": "Exists", "effect": "NoExecute" }), &["b", "c", "d"]),
        // Without a key, Exists bears everything, of an effect or of all.
        (json!({ "operator": "Exists" }), &["a", "b", "c", "d"]),
        (json!({ "operator": "Exists", "effect": "NoExecute" }), &["b", "c", "d"]),
        // How long it would stay is asked only of those that are there.
        (
            json!({ "key": "gpu", "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": 1 }),
            &["b", "c", "d"],
        ),
    ] {
        check(&nodes, &[], &bearing(toleration), expected);
    }
    // Every taint must be borne.
    let two =
        json!([{ "key": "x", "effect": "NoSchedule" }, { "key": "y", "effect": "NoSchedule" }]);
    let both = [node("a", json!({ "spec": { "taints": two } }))];
    check(&both, &[], &bearing(json!({ "key": "x", "operator": "Exists" })), &[]);
    // Of nodes that will do, those with fewer disliked taints are better.
    let rated = |on: &str| scores(&nodes, &[], &pod("p", json!({})), on)["TaintToleration"];
    assert_eq!((rated("c"), rated("d")), (0, 300));
}

/// A web pod on a node, in a namespace, with more labels.
fn neighbour(name: &str, on: &str, namespace: &str, labels: Value) -> Value {
    let mut web = web(name, on);
    merge(&mut web, json!({ "metadata": { "namespace": namespace, "labels": labels } }));
    web
}

#[test]
fn affinity_between_pods_looks_in_the_namespaces_that_it_names() {
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let placed = [
        neighbour("1", "a", "default", json!({ "track": "stable" })),
        neighbour("2", "b", "other", json!({ "track": "canary" })),
    ];
    let with = |kind: &str, more: Value| {
        let mut term = json!({ "topologyKey": "kubernetes.io/hostname",
            "labelSelector": { "matchLabels": { "app": "web" } } });
        merge(&mut term, more);
        let affinity =
            json!({ kind: { "requiredDuringSchedulingIgnoredDuringExecution": [term] } });
        pod(
            "p",
            json!({ "metadata": { "labels": { "track": "canary" } },
                "spec": { "affinity": affinity } }),
        )
    };
    let env = |env: &str| json!({ "namespaceSelector": { "matchLabels": { "env": env } } });
    let listed_and_selected = json!({ "namespaces": ["default"], "namespaceSelector": { "matchLabels": { "env": "other" } } });
    for (more, near) in [
        // Its own namespace where it names none.
        (json!({}), &["a"][..]),
        (json!({ "namespaces": ["other"] }), &["b"]),
        (json!({ "namespaces": ["other", "default"] }), &["a", "b"]),
        (env("other"), &["b"]),
        (env("nowhere"), &[]),
        // An empty selector means every namespace; a list and a selector add up.
        (json!({ "namespaceSelector": {} }), &["a", "b"]),
        (listed_and_selected, &["a", "b"]),
        // Alike in a label of its own, or different in it.
        (json!({ "namespaceSelector": {}, "matchLabelKeys": ["track"] }), &["b"]),
        (json!({ "namespaceSelector": {}, "mismatchLabelKeys": ["track"] }), &["a"]),
        // A key that the pod has not asks nothing.
        (json!({ "namespaceSelector": {}, "matchLabelKeys": ["tier"] }), &["a", "b"]),
        // No selector means no pod, an empty one every pod.
        (json!({ "labelSelector": null }), &[]),
        (json!({ "labelSelector": { "matchLabels": null } }), &["a"]),
    ] {
        check(&nodes, &placed, &with("podAffinity", more.clone()), near);
        let away: Vec<&str> = ["a", "b"].into_iter().filter(|name| !near.contains(name)).collect();
        check(&nodes, &placed, &with("podAntiAffinity", more), &away);
    }
    // A node without the label is near nobody, and nobody is near on it.
    let by_zone = json!({ "topologyKey": "zone" });
    check(&nodes, &placed, &with("podAffinity", by_zone.clone()), &[]);
    check(&nodes, &placed, &with("podAntiAffinity", by_zone), &["a", "b"]);
}

#[test]
fn spread_counts_the_domains_that_its_policies_leave() {
    let zone = |name: &str, zone: &str, spec: Value| {
        node(name, json!({ "metadata": { "labels": { "zone": zone } }, "spec": spec }))
    };
    let taint = json!({ "taints": [{ "key": "t", "effect": "NoSchedule" }] });
    let nodes =
        [zone("a", "x", json!({})), zone("b", "y", json!({})), zone("c", "z", taint.clone())];
    let spread = |more: Value, spec: Value| {
        let mut spread = json!({ "maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": { "matchLabels": { "app": "web" } } });
        merge(&mut spread, more);
        let mut own = pod(
            "p",
            json!({ "metadata": { "labels": { "app": "web", "pod-template-hash": "2" } },
                "spec": { "topologySpreadConstraints": [spread] } }),
        );
        merge(&mut own, json!({ "spec": spec }));
        own
    };
    let each = [web("1", "a"), web("2", "b")];
    // The tainted zone is empty and counts, unless taints are honoured.
    check(&nodes, &each, &spread(json!({}), json!({})), &[]);
    check(&nodes, &each, &spread(json!({ "nodeTaintsPolicy": "Honor" }), json!({})), &["a", "b"]);
    let bears = json!({ "tolerations": [{ "operator": "Exists" }] });
    check(&nodes, &each, &spread(json!({ "nodeTaintsPolicy": "Honor" }), bears.clone()), &["c"]);
    // Zones that the selector excludes do not count, unless affinity is ignored.
    let in_x = json!({ "nodeSelector": { "zone": "x" } });
    check(&nodes, &[web("1", "a")], &spread(json!({}), in_x.clone()), &["a"]);
    let ignoring = json!({ "nodeAffinityPolicy": "Ignore" });
    check(&nodes, &[web("1", "a")], &spread(ignoring, in_x), &[]);
    // With fewer domains than wanted, the emptiest counts as empty.
    let two = [nodes[0].clone(), nodes[1].clone()];
    check(&two, &each, &spread(json!({}), json!({})), &["a", "b"]);
    check(&two, &each, &spread(json!({ "minDomains": 2 }), json!({})), &["a", "b"]);
    check(&two, &each, &spread(json!({ "minDomains": 3 }), json!({})), &[]);
    check(&two, &each, &spread(json!({ "minDomains": 3, "maxSkew": 2 }), json!({})), &["a", "b"]);
    // Only pods of the same revision count.
    let revision = |name: &str, on: &str, hash: &str| {
        neighbour(name, on, "default", json!({ "pod-template-hash": hash }))
    };
    let keyed = json!({ "matchLabelKeys": ["pod-template-hash"] });
    let old = [revision("1", "a", "1"), revision("2", "a", "1")];
    check(&two, &old, &spread(json!({}), json!({})), &["b"]);
    check(&two, &old, &spread(keyed.clone(), json!({})), &["a", "b"]);
    check(&two, &[revision("3", "b", "2")], &spread(keyed, json!({})), &["a"]);
    // Pods of other namespaces and pods that end do not count.
    let mut ending = web("1", "a");
    merge(&mut ending, json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }));
    let elsewhere = neighbour("2", "a", "other", json!({}));
    check(&two, &[ending, elsewhere], &spread(json!({}), json!({})), &["a", "b"]);
    // A pod that its own selector does not mean adds nothing where it goes.
    let others = json!({ "labelSelector": { "matchLabels": { "app": "web", "tier": "x" } } });
    check(&two, &[], &spread(others, json!({})), &["a", "b"]);
}

#[test]
fn a_port_is_taken_on_an_address_or_on_all() {
    let nodes = [node("a", json!({}))];
    let listens = |address: &str, port: u16, protocol: &str| {
        let port = json!({ "containerPort": 1, "hostPort": port, "hostIP": address,
            "protocol": protocol });
        let ports = json!([{ "name": "c", "ports": [port] }]);
        pod("p", json!({ "spec": { "containers": ports } }))
    };
    for (there, own, fits) in [
        (("", 80, "TCP"), ("", 80, "TCP"), false),
        (("", 80, "TCP"), ("", 81, "TCP"), true),
        (("", 80, "TCP"), ("", 80, "UDP"), true),
        (("0.0.0.0", 80, "TCP"), ("127.0.0.1", 80, "TCP"), false),
        (("127.0.0.1", 80, "TCP"), ("0.0.0.0", 80, "TCP"), false),
        (("127.0.0.1", 80, "TCP"), ("", 80, "TCP"), false),
        (("127.0.0.1", 80, "TCP"), ("127.0.0.2", 80, "TCP"), true),
        (("127.0.0.1", 80, "TCP"), ("127.0.0.1", 80, "TCP"), false),
        (("::", 80, "SCTP"), ("127.0.0.1", 80, "SCTP"), false),
    ] {
        let mut other = listens(there.0, there.1, there.2);
        merge(&mut other, json!({ "metadata": { "uid": "o" }, "spec": { "nodeName": "a" } }));
        let expected: &[&str] = if fits { &["a"] } else { &[] };
        check(&nodes, &[other], &listens(own.0, own.1, own.2), expected);
    }
    // On the host's network a container's port is the node's, and an init container's too.
    let mut host = listens("", 0, "TCP");
    merge(&mut host, json!({ "spec": { "hostNetwork": true, "nodeName": "a" } }));
    merge(&mut host, json!({ "metadata": { "uid": "o" } }));
    let ports = json!([{ "containerPort": 80 }]);
    host["spec"]["containers"] = json!([{ "name": "c", "ports": ports }]);
    check(&nodes, &[host], &listens("", 80, "TCP"), &[]);
}

#[test]
fn a_disk_is_shared_by_readers_alone() {
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let with = |volume: Value| {
        let mut own = pod("p", json!({}));
        own["spec"]["volumes"] = json!([volume]);
        own
    };
    let disk = |read: bool| json!({ "name": "v", "gcePersistentDisk": { "pdName": "d", "readOnly": read } });
    let block = |read: bool| json!({ "name": "v", "awsElasticBlockStore": { "volumeID": "d", "readOnly": read } });
    let iscsi = |iqn: &str, read: bool| {
        json!({ "name": "v", "iscsi": { "targetPortal": "10.0.0.1", "iqn": iqn, "lun": 0,
            "readOnly": read } })
    };
    let rbd = |monitors: &[&str], pool: &str, read: bool| {
        json!({ "name": "v", "rbd": { "monitors": monitors, "image": "i", "pool": pool,
            "readOnly": read } })
    };
    for (there, own, shared) in [
        (disk(false), disk(false), false),
        (disk(true), disk(false), false),
        (disk(true), disk(true), true),
        // Of these not even readers share one.
        (block(true), block(true), false),
        (iscsi("x", false), iscsi("x", true), false),
        (iscsi("x", true), iscsi("x", true), true),
        (iscsi("x", false), iscsi("y", false), true),
        (rbd(&["m1", "m2"], "p", false), rbd(&["m2", "m3"], "p", false), false),
        (rbd(&["m1"], "p", false), rbd(&["m2"], "p", false), true),
        (rbd(&["m1"], "p", false), rbd(&["m1"], "q", false), true),
        (rbd(&["m1"], "p", true), rbd(&["m1"], "p", true), true),
    ] {
        let mut other = with(there);
        merge(&mut other, json!({ "metadata": { "uid": "o" }, "spec": { "nodeName": "a" } }));
        let expected: &[&str] = if shared { &["a", "b"] } else { &["b"] };
        check(&nodes, &[other.clone()], &with(own.clone()), expected);
        if !shared {
            let words = "0/1 nodes are available: 1 node(s) had no available disk.";
            stays(&nodes[..1], &[other], &with(own), words);
        }
    }
}

#[test]
fn images_count_by_size_and_by_how_many_nodes_have_them() {
    const MIB: i64 = 1024 * 1024;
    let with = |name: &str, images: &[(&str, i64)]| {
        let images: Vec<Value> = images
            .iter()
            .map(|(name, mib)| json!({ "names": [name], "sizeBytes": mib * MIB }))
            .collect();
        node(name, json!({ "status": { "images": images } }))
    };
    let asks = |images: &[&str]| {
        let containers: Vec<Value> =
            images.iter().map(|image| json!({ "name": "c", "image": image })).collect();
        let mut own = pod("p", json!({}));
        own["spec"]["containers"] = json!(containers);
        own
    };
    let rate =
        |nodes: &[Value], images: &[&str]| scores(nodes, &[], &asks(images), "a")["ImageLocality"];
    let none = with("b", &[]);
    // Under 23 MiB nothing counts, from 1000 MiB an image on all nodes counts all.
    assert_eq!(rate(&[with("a", &[("web:1", 22)])], &["web:1"]), 0);
    assert_eq!(rate(&[with("a", &[("web:1", 5000)])], &["web:1"]), 100);
    let half = (250 - 23) * 100 / (1000 - 23);
    assert_eq!(rate(&[with("a", &[("web:1", 500)]), none.clone()], &["web:1"]), half);
    // No tag means the latest.
    assert!(rate(&[with("a", &[("web:latest", 500)])], &["web"]) > 0);
    assert_eq!(rate(&[with("a", &[("web:2", 500)])], &["web:1"]), 0);
    // Two images may weigh twice as much.
    let two = rate(&[with("a", &[("web:1", 1000), ("log:1", 0)])], &["web:1", "log:1"]);
    assert_eq!(two, (1000 - 23) * 100 / (2000 - 23));
}

#[test]
fn room_is_rated_by_strategy_and_weight() {
    let nodes =
        [node("a", json!({ "status": { "allocatable": { "cpu": "4", "memory": "8Gi" } } }))];
    let mut there = pod("o", json!({ "spec": { "nodeName": "a" } }));
    there["spec"]["containers"] = json!([{ "name": "c", "resources": {
        "requests": { "cpu": "1", "memory": "2Gi" } } }]);
    let mut own = pod("p", json!({}));
    own["spec"]["containers"] = json!([{ "name": "c", "resources": {
        "requests": { "cpu": "1", "memory": "4Gi" } } }]);
    // Afterwards 2 of 4 cores and 6 of 8 GiB are asked for.
    let equal = json!([{ "name": "cpu" }, { "name": "memory" }]);
    let cpu_thrice = json!([{ "name": "cpu", "weight": 3 }, { "name": "memory", "weight": 1 }]);
    let shape = json!([{ "utilization": 0, "score": 0 }, { "utilization": 70, "score": 10 },
        { "utilization": 100, "score": 0 }]);
    let tip = json!([{ "utilization": 50, "score": 0 }, { "utilization": 100, "score": 10 }]);
    for (strategy, resources, expected) in [
        (json!({ "type": "LeastAllocated" }), &equal, (50 + 25) / 2),
        (json!({ "type": "LeastAllocated" }), &cpu_thrice, (3 * 50 + 25) / 4),
        (json!({ "type": "MostAllocated" }), &equal, (50 + 75) / 2),
        (json!({ "type": "MostAllocated" }), &cpu_thrice, (3 * 50 + 75) / 4),
        // 50 % is five sevenths of the way to 70 %, 75 % a sixth of the way down; 77.5 is rounded.
        (json!({ "type": "RequestedToCapacityRatio", "shape": shape }), &equal, 78),
        // What is worth nothing does not count.
        (json!({ "type": "RequestedToCapacityRatio", "shape": tip }), &equal, 50),
        // What the node does not have does not count.
        (
            json!({ "type": "MostAllocated" }),
            &json!([{ "name": "cpu" }, { "name": "example.com/card" }]),
            50,
        ),
    ] {
        let profile = json!({ "strategy": strategy, "resources": resources });
        let profile: Profile = serde_json::from_value(profile).unwrap();
        let mut cluster = cluster(&nodes, &[there.clone()], profile.validate().unwrap());
        let best = cluster.explain(&read(&own)).best;
        let fit = best[0].scores.iter().find(|(name, _)| *name == "NodeResourcesFit");
        assert_eq!(fit.unwrap().1, expected, "{strategy} {resources}");
    }
    // Balance: 25 % and 25 % become 50 % and 75 %, one eighth apart: half of it is lost.
    let balance = scores(&nodes, &[there.clone()], &own, "a")["NodeResourcesBalancedAllocation"];
    assert_eq!(balance, 50 + (50 + 87 - 100) / 2);
    // Who evens out what is uneven is better than who changes nothing.
    let mut memory = there.clone();
    memory["spec"]["containers"][0]["resources"]["requests"] = json!({ "memory": "4Gi" });
    let mut cpu = own.clone();
    cpu["spec"]["containers"][0]["resources"]["requests"] = json!({ "cpu": "2" });
    let evened = scores(&nodes, &[memory], &cpu, "a")["NodeResourcesBalancedAllocation"];
    assert_eq!(evened, 50 + (50 + 100 - 75) / 2);
    // And who asks for nothing is not rated.
    let nothing = scores(&nodes, &[there], &pod("p", json!({})), "a");
    assert!(!nothing.contains_key("NodeResourcesBalancedAllocation"), "{nothing:?}");
}
