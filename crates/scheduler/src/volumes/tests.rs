//! Claims, in the shapes that people write.

use serde_json::{Value, json};

use super::*;
use crate::Cluster;
use crate::snapshot::{node, pod};

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn a_claim(class: &str, volume: Option<&str>, mode: &str) -> Claim {
    let annotations = match volume {
        Some(_) => json!({ "pv.kubernetes.io/bind-completed": "yes" }),
        None => json!({}),
    };
    claim(&read(json!({ "metadata": { "name": "c", "annotations": annotations }, "spec": {
        "storageClassName": class, "volumeName": volume, "accessModes": [mode],
        "resources": { "requests": { "storage": "1Gi" } } } })))
}

fn a_volume(size: &str, on: Option<&str>, labels: &Value) -> Volume {
    let mut object = json!({ "metadata": { "name": "v", "labels": labels }, "spec": {
        "storageClassName": "local", "capacity": { "storage": size },
        "accessModes": ["ReadWriteOnce", "ReadWriteOncePod"] } });
    if let Some(on) = on {
        object["spec"]["nodeAffinity"] = json!({ "required": { "nodeSelectorTerms": [{
            "matchExpressions": [{ "key": "host", "operator": "In", "values": [on] }] }] } });
    }
    volume(&read(object))
}

fn a_class(provisioner: &str, waits: bool, zone: Option<&str>) -> Class {
    let mut object = json!({ "metadata": { "name": "k" }, "provisioner": provisioner,
        "volumeBindingMode": if waits { "WaitForFirstConsumer" } else { "Immediate" } });
    if let Some(zone) = zone {
        object["allowedTopologies"] =
            json!([{ "matchLabelExpressions": [{ "key": "zone", "values": [zone] }] }]);
    }
    class(&read(object))
}

fn world(claims: Vec<Claim>, volumes: Vec<(&str, Volume)>, class: Class) -> Volumes {
    Volumes {
        claims: claims.into_iter().map(|claim| ("default/c".to_owned(), claim)).collect(),
        volumes: volumes.into_iter().map(|(name, each)| (name.to_owned(), each)).collect(),
        classes: [("local".to_owned(), class)].into(),
    }
}

fn a_pod(name: &str) -> Pod {
    pod(&read(json!({ "metadata": { "namespace": "default", "name": name, "uid": name },
        "spec": { "containers": [{ "name": "c" }],
            "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }] } })))
}

/// Nodes `a` in zone `x` and `b` in zone `y`.
fn nodes() -> [Node; 2] {
    [("a", "x"), ("b", "y")].map(|(name, zone)| {
        node(&read(json!({
            "metadata": { "name": name, "labels": { "host": name, "zone": zone,
                "topology.kubernetes.io/zone": zone } },
            "status": { "allocatable": { "cpu": "1", "pods": "9" } } })))
    })
}

/// Where the pod goes, or why nowhere.
fn goes(volumes: &Volumes) -> Result<String, String> {
    let mut cluster = Cluster::new(Vec::new());
    nodes().into_iter().for_each(|node| {
        cluster.set_node(node);
    });
    let needs = volumes.needs(&a_pod("p"))?;
    let pod = Pod { volumes: needs, ..a_pod("p") };
    let decided = cluster.decide(&std::sync::Arc::new(pod));
    decided.map(|placement| placement.node).map_err(|why| why.to_string())
}

#[test]
fn a_pod_goes_where_its_volumes_are_or_can_be() {
    let none = || a_class("kubernetes.io/no-provisioner", true, None);
    let rwo = "ReadWriteOnce";
    fn check(volumes: &Volumes, expected: Result<&str, &str>) {
        let found = goes(volumes);
        assert_eq!(found.as_deref().map_err(String::as_str), expected);
    }
    let plain = json!({});
    let on = |node| ("v", a_volume("2Gi", Some(node), &plain));
    check(&world(vec![], vec![], none()), Err("persistentvolumeclaim \"c\" not found"));
    check(&world(vec![a_claim("local", Some("v"), rwo)], vec![on("b")], none()), Ok("b"));
    check(
        &world(vec![a_claim("local", Some("v"), rwo)], vec![on("z")], none()),
        Err("0/2 nodes are available: 2 node(s) had volume node affinity conflict."),
    );
    let zoned = a_volume("2Gi", None, &json!({ "topology.kubernetes.io/zone": "y" }));
    check(&world(vec![a_claim("local", Some("v"), rwo)], vec![("v", zoned)], none()), Ok("b"));
    let elsewhere = a_volume("2Gi", None, &json!({ "topology.kubernetes.io/zone": "q" }));
    check(
        &world(vec![a_claim("local", Some("v"), rwo)], vec![("v", elsewhere)], none()),
        Err("0/2 nodes are available: 2 node(s) had no available volume zone."),
    );
    // Not bound yet: a free volume that fits, or one made where the class allows.
    check(&world(vec![a_claim("local", None, rwo)], vec![on("b")], none()), Ok("b"));
    let small = ("v", a_volume("1Mi", Some("b"), &plain));
    check(
        &world(vec![a_claim("local", None, rwo)], vec![small], none()),
        Err("0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind."),
    );
    check(
        &world(vec![a_claim("local", None, rwo)], vec![], a_class("disks", true, Some("y"))),
        Ok("b"),
    );
    check(
        &world(vec![a_claim("local", None, rwo)], vec![on("b")], a_class("disks", false, None)),
        Err("pod has unbound immediate PersistentVolumeClaims"),
    );
}

#[test]
fn the_smallest_volume_that_fits_is_taken_else_one_is_made() {
    let [a, b] = nodes();
    let plain = json!({});
    let volumes = world(
        vec![a_claim("local", None, "ReadWriteOnce")],
        vec![
            ("large", a_volume("9Gi", Some("a"), &plain)),
            ("small", a_volume("2Gi", Some("a"), &plain)),
        ],
        a_class("disks", true, None),
    );
    let taken = Choice::Take { claim: "c".into(), volume: "small".into() };
    assert_eq!(volumes.choose(&a_pod("p"), &a), Ok(vec![taken]));
    assert_eq!(volumes.choose(&a_pod("p"), &b), Ok(vec![Choice::Make { claim: "c".into() }]));
    let bare = Volumes { classes: BTreeMap::new(), ..volumes };
    assert_eq!(bare.choose(&a_pod("p"), &b), Err("c".to_owned()));
}

#[test]
fn one_pod_alone_uses_a_claim_that_says_so() {
    let volumes = world(
        vec![a_claim("local", Some("v"), "ReadWriteOncePod")],
        vec![("v", a_volume("2Gi", None, &json!({})))],
        a_class("disks", true, None),
    );
    let mut cluster = Cluster::new(Vec::new());
    nodes().into_iter().for_each(|node| {
        cluster.set_node(node);
    });
    let with = |name: &str| {
        let pod = a_pod(name);
        std::sync::Arc::new(Pod { volumes: volumes.needs(&pod).unwrap(), ..pod })
    };
    let first = cluster.decide(&with("p")).unwrap();
    cluster.place(with("p"), &first.node);
    let why = cluster.decide(&with("q")).unwrap_err();
    assert_eq!(why.by_filter["VolumeRestrictions"], 2);
    cluster.remove("p");
    assert!(cluster.decide(&with("q")).is_ok());
}

#[test]
fn a_node_attaches_so_many_volumes_and_no_more() {
    let mut cluster = Cluster::new(Vec::new());
    let [mut a, _] = nodes();
    a.volume_limits = [("disks".to_owned(), 2)].into();
    cluster.set_node(a);
    let with = |name: &str, volume: &str| {
        let mut pod = a_pod(name);
        pod.volumes.attach = vec![("disks".to_owned(), volume.to_owned())];
        std::sync::Arc::new(pod)
    };
    cluster.place(with("1", "one"), "a");
    cluster.place(with("2", "two"), "a");
    assert!(cluster.decide(&with("3", "two")).is_ok(), "it is attached already");
    let why = cluster.decide(&with("4", "three")).unwrap_err().to_string();
    assert_eq!(why, "0/1 nodes are available: 1 node(s) exceed max volume count.");
}
