//! Nothing of anybody's names is left in an anonymised recording.

use berth_sim::Recording;
use berth_sim::recording::{RecordedBudget, RecordedNode, RecordedPod, RecordedUse};
use serde_json::{Value, json};

/// What every secret word contains.
const SECRET: &str = "sEcReT";

/// A spec with words wherever a scheduler reads words.
fn spec() -> Value {
    let word = |what: &str| format!("{what}-{SECRET}");
    let key = format!("{SECRET}.example/key");
    let term = json!({
        "labelSelector": {
            "matchLabels": { &key: word("value") },
            "matchExpressions": [{ "key": key, "operator": "In", "values": [word("value")] }],
        },
        "namespaceSelector": { "matchLabels": { &key: word("value") } },
        "namespaces": [word("namespace")],
        "matchLabelKeys": [key],
        "mismatchLabelKeys": [key],
        "topologyKey": key,
    });
    let affinity = json!({
        "requiredDuringSchedulingIgnoredDuringExecution": [term],
        "preferredDuringSchedulingIgnoredDuringExecution": [
            { "weight": 7, "podAffinityTerm": term },
        ],
    });
    let node_term = json!({
        "matchExpressions": [
            { "key": key, "operator": "NotIn", "values": [word("value")] },
            { "key": word("size"), "operator": "Gt", "values": ["4"] },
            // Nobody's number, though it is compared as one.
            { "key": word("rank"), "operator": "Lt", "values": [word("value")] },
        ],
        "matchFields": [
            { "key": "metadata.name", "operator": "In", "values": [word("node")] },
        ],
    });
    let asked = json!({ "cpu": "1", format!("{SECRET}.example/board"): "2" });
    json!({
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [node_term],
                },
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    { "weight": 3, "preference": node_term },
                ],
            },
            "podAffinity": affinity,
            "podAntiAffinity": affinity,
        },
        "containers": [{
            "name": "",
            "ports": [{ "containerPort": 80, "hostPort": 80, "hostIP": "192.0.2.77" }],
            "resources": { "requests": asked },
        }],
        "initContainers": [{ "name": "", "resources": { "requests": asked } }],
        "overhead": asked,
        "resources": { "requests": asked },
        "nodeSelector": { &key: word("value") },
        "schedulerName": word("scheduler"),
        "tolerations": [
            { "key": key, "operator": "Equal", "value": word("value"), "effect": "NoSchedule" },
            { "operator": "Exists" },
        ],
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": { "matchLabels": { &key: word("value") } },
            "matchLabelKeys": [key],
        }],
    })
}

fn recording() -> Recording {
    let word = |what: &str| format!("{what}-{SECRET}");
    let labels = || [(format!("{SECRET}.example/key"), word("value"))].into();
    let node = RecordedNode {
        name: word("node"),
        cpu_milli: 4000,
        memory_mib: 4096,
        gpus: 1,
        model: "V100".to_owned(),
        resources: [(format!("{SECRET}.example/board"), 4)].into(),
        labels: [
            ("kubernetes.io/hostname".to_owned(), word("node")),
            (format!("{SECRET}.example/key"), word("value")),
            (word("size"), "8".to_owned()),
            (word("rank"), word("value")),
        ]
        .into(),
        taints: vec![format!("{SECRET}.example/key={}:NoSchedule", word("value"))],
        ..RecordedNode::default()
    };
    let pod = RecordedPod {
        name: format!("{}/{}", word("space"), word("pod")),
        cpu_milli: 1000,
        memory_mib: 128,
        node: Some(word("node")),
        owner: Some(format!("ReplicaSet/{}", word("set"))),
        labels: labels(),
        node_selector: labels(),
        tolerations: vec![format!("{SECRET}.example/key={}", word("value")), word("key")],
        like: labels(),
        spec: Some(spec()),
        ..RecordedPod::default()
    };
    let budget = RecordedBudget {
        name: format!("{}/{}", word("space"), word("budget")),
        min_available: Some("1".to_owned()),
        selector: labels(),
        expressions: vec![
            json!({ "key": word("key"), "operator": "In", "values": [word("value")] }),
        ],
        ..RecordedBudget::default()
    };
    let used = RecordedUse { pod: pod.name.clone(), at_s: 1, cpu_milli: 7, memory_mib: 9 };
    Recording {
        source: word("cluster"),
        missing: vec!["measured use".to_owned()],
        nodes: vec![node],
        pods: vec![pod],
        budgets: vec![budget],
        uses: vec![used],
    }
}

#[test]
fn no_word_is_left_and_the_file_is_still_a_recording() {
    let shown = format!("{:?}", recording());
    assert!(shown.matches(SECRET).count() > 60, "the test lost its words");
    let hidden = recording().anonymised();
    let shown = format!("{hidden:?}");
    let at = shown.find(SECRET).map(|at| &shown[at.saturating_sub(200)..at + 20]);
    assert_eq!(at, None);
    assert!(!shown.contains("192.0.2.77"), "{shown}");
    let mut file = Vec::new();
    hidden.write_to(&mut file).unwrap();
    assert_eq!(Recording::read_from(file.as_slice()).unwrap(), hidden);
}

#[test]
fn the_same_word_stays_the_same_and_numbers_stay_comparable() {
    let hidden = recording().anonymised();
    let (node, pod) = (&hidden.nodes[0], &hidden.pods[0]);
    let spec = pod.spec.as_ref().unwrap();
    let (key, value) = spec["nodeSelector"].as_object().unwrap().iter().next().unwrap();
    assert_eq!(node.labels.get(key).map(String::as_str), value.as_str());
    assert_eq!(pod.node_selector.get(key).map(String::as_str), value.as_str());
    assert_eq!(pod.like, pod.labels);
    let terms = &spec["affinity"]["nodeAffinity"];
    let term = &terms["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0];
    assert_eq!(term["matchFields"][0]["values"][0], json!(node.name));
    let size = &term["matchExpressions"][1];
    assert_eq!(size["values"][0], json!("4"));
    assert_eq!(node.labels[size["key"].as_str().unwrap()], "8");
    let board = node.resources.keys().next().unwrap();
    assert_eq!(spec["overhead"][board], json!("2"));
    let bears = &spec["tolerations"][0];
    let taint = format!(
        "{}={}:NoSchedule",
        bears["key"].as_str().unwrap(),
        bears["value"].as_str().unwrap()
    );
    assert_eq!(node.taints, [taint]);
    assert_eq!(spec["schedulerName"], json!("scheduler-1"));
}
