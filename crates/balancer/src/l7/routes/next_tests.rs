//! A table that was carried on from world to world is the one that the last world makes by itself.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::l7::Snapshot;

fn scope() -> Scope {
    Scope { ingress_class: "berth".to_owned(), http_port: 8080, https_port: 8443 }
}

/// Objects of a few names, so that changes meet; `kind`, what it is called, and what it says.
fn object((kind, name, variant): (u8, u8, u8)) -> (String, Option<Value>) {
    let class = if variant % 7 == 6 { Value::Null } else { json!("berth") };
    let age = format!("2026-01-01T00:00:{:02}Z", variant % 4);
    let meta = |name: String| json!({"namespace": "n", "name": name, "creationTimestamp": age});
    let host = ["a.example", "*.example", "b.example", ""][usize::from(variant % 4)];
    let service = format!("s{}", variant % 3);
    let key = format!("{kind}/{name}");
    let value = match kind {
        0 => {
            let backend = json!({"service": {"name": service, "port": {"number": 80}}});
            let path = json!({"path": format!("/{}", variant % 2), "pathType": "Prefix",
                "backend": backend});
            let mut spec = json!({"ingressClassName": class,
                "rules": [{"host": host, "http": {"paths": [path, path]}}]});
            if variant % 5 == 4 {
                spec["defaultBackend"] = backend;
            }
            let mut metadata = meta(format!("i{name}"));
            if variant % 3 == 1 {
                metadata["annotations"] = json!({"berth.dev/pick": "round-robin"});
            }
            json!({"metadata": metadata, "spec": spec})
        }
        1 => {
            let hosts = if host.is_empty() { json!([]) } else { json!([host]) };
            let far = if variant % 6 == 5 { json!("m") } else { json!("n") };
            let backend = json!({"name": service, "port": 80, "namespace": far});
            let rule = json!({"matches": [{"path": {"type": "PathPrefix", "value": "/0"}},
                {"method": "GET"}], "backendRefs": [backend]});
            json!({"metadata": meta(format!("r{name}")),
                "spec": {"parentRefs": [{"name": "door"}], "hostnames": hosts, "rules": [rule]}})
        }
        2 => {
            let mut metadata = meta(format!("s{}", name % 3));
            if variant % 4 == 1 {
                metadata["annotations"] =
                    json!({"berth.dev/tls-host": "x", "berth.dev/tls-ca": "ca"});
            }
            if variant % 4 == 2 {
                metadata["annotations"] = json!({"berth.dev/pick": "round-robin"});
            }
            let port = if variant % 5 == 4 { 81 } else { 80 };
            json!({"metadata": metadata, "spec": {"ports": [{"name": "http", "port": port}]}})
        }
        3 => {
            let mut metadata = meta(format!("e{name}"));
            metadata["labels"] = json!({"kubernetes.io/service-name": service});
            let pod = |pod| json!({"addresses": [format!("10.0.{name}.{pod}")]});
            let pods: Vec<_> = (0..variant % 4).map(pod).collect();
            json!({"metadata": metadata, "addressType": "IPv4", "endpoints": pods,
                "ports": [{"name": "http", "port": 8080}]})
        }
        4 => {
            let mut listeners = vec![json!({"name": "http", "port": 80, "protocol": "HTTP"})];
            if variant % 2 == 1 {
                listeners.push(json!({"name": "a", "port": 80, "protocol": "HTTP",
                    "hostname": "*.example"}));
            }
            if variant % 3 == 1 {
                listeners.push(json!({"name": "tls", "port": 443, "protocol": "HTTPS",
                    "tls": {"certificateRefs": [{"name": "ca"}]}}));
            }
            if variant % 3 == 2 {
                listeners[0]["allowedRoutes"] = json!({"namespaces": {"from": "Selector",
                    "selector": {"matchLabels": {"in": "yes"}}}});
            }
            json!({"metadata": meta("door".into()),
                "spec": {"gatewayClassName": "berth", "listeners": listeners}})
        }
        5 => json!({"metadata": {"name": "n",
            "labels": {"in": if variant % 2 == 0 { "yes" } else { "no" }}}}),
        6 => json!({"metadata": {"namespace": "m", "name": "g"}, "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "n"}],
            "to": [{"group": "", "kind": "Service"}]}}),
        7 => json!({"metadata": {"name": "berth", "annotations": {
            "ingressclass.kubernetes.io/is-default-class": (variant % 2 == 0).to_string()}}}),
        _ => json!({"metadata": meta("ca".into()), "data": {"tls.crt": "LS0tLS1CRUdJTiA=",
            "tls.key": if variant % 2 == 0 { "LS0tLS1CRUdJTiA=" } else { "" }}}),
    };
    // One in four is a deletion.
    (key, (variant % 8 < 6).then_some(value))
}

fn snapshot(objects: &BTreeMap<String, Value>) -> Snapshot {
    fn put<K: serde::de::DeserializeOwned>(all: &mut Vec<Arc<K>>, value: &Value) {
        all.push(Arc::new(serde_json::from_value(value.clone()).unwrap()));
    }
    let mut snapshot = Snapshot::default();
    let class =
        json!({"metadata": {"name": "berth"}, "spec": {"controllerName": "berth.dev/gateway"}});
    put(&mut snapshot.gateway.classes, &class);
    for (key, value) in objects {
        match key.split_once('/').unwrap().0 {
            "0" => put(&mut snapshot.ingresses, value),
            "1" => put(&mut snapshot.gateway.http, value),
            "2" => put(&mut snapshot.services, value),
            "3" => put(&mut snapshot.slices, value),
            "4" => put(&mut snapshot.gateway.gateways, value),
            "5" => put(&mut snapshot.gateway.namespaces, value),
            "6" => put(&mut snapshot.gateway.grants, value),
            "7" => put(&mut snapshot.classes, value),
            _ => put(&mut snapshot.secrets, value),
        }
    }
    snapshot
}

/// `after`, with what is the same in `before` the very same, as it is followed.
fn carried(before: &Snapshot, mut after: Snapshot) -> Snapshot {
    fn keep<K: PartialEq>(before: &[Arc<K>], after: &mut [Arc<K>]) {
        for one in after {
            if let Some(same) = before.iter().find(|same| *same == one) {
                *one = same.clone();
            }
        }
    }
    keep(&before.ingresses, &mut after.ingresses);
    keep(&before.services, &mut after.services);
    keep(&before.slices, &mut after.slices);
    keep(&before.classes, &mut after.classes);
    keep(&before.secrets, &mut after.secrets);
    keep(&before.gateway.http, &mut after.gateway.http);
    keep(&before.gateway.gateways, &mut after.gateway.gateways);
    keep(&before.gateway.grants, &mut after.gateway.grants);
    keep(&before.gateway.classes, &mut after.gateway.classes);
    after
}

/// All that a request can meet, in words.
fn told(table: &Table) -> Vec<String> {
    let mut words = Vec::new();
    let backend = |to: &Result<Arc<Backend>, String>| match to {
        Err(why) => why.clone(),
        Ok(to) => {
            let made_of = to.endpoints().map(|set| (set.made_of().to_vec(), set.policy.clone()));
            format!("{to} {:?} {} {made_of:?}", to.protocol, to.secured.is_some())
        }
    };
    let route = |route: &Route| {
        let targets: Vec<_> = route.targets.iter().map(|target| backend(&target.to)).collect();
        format!("{} {:?} {targets:?}", route.name, route.filters)
    };
    for (name, door) in [("http", &table.http), ("https", &table.https)] {
        let any = (String::new(), &door.any);
        let hosts = door.hosts.iter().map(|(host, rules)| (host.clone(), rules));
        let wild = door.wildcards.iter().map(|(host, rules)| (format!("*.{host}"), rules));
        let mut all: Vec<_> = std::iter::once(any).chain(hosts).chain(wild).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        for (host, rules) in all {
            words.push(format!("{name} {host} {}", rules.deep));
            words.extend(rules.rules.iter().map(|ruled| {
                let Ruled { from, rule } = ruled;
                format!("  {from:?} {:?} {:?} {}", rule.path, rule.method, route(&rule.then))
            }));
        }
        words.push(format!("{name} else {:?}", door.default.as_deref().map(route)));
        words.push(format!("{} wild", door.has_wildcards));
    }
    let mut reports = table.reports();
    reports.routes.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    words.push(format!("{reports:?} {:?}", table.certificates()));
    let mut sets: Vec<_> = table.sets().iter().map(|set| format!("{:?}", set.made_of())).collect();
    sets.sort();
    words.extend(sets);
    let mut uses: Vec<_> = table
        .uses
        .iter()
        .map(|(used, users)| {
            let cells: Vec<_> = users.cells.iter().map(|(key, (_, count))| (key, *count)).collect();
            format!("{used:?} {:?} {cells:?}", users.parts)
        })
        .collect();
    uses.sort();
    words.extend(uses);
    words
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn a_table_carried_on_is_the_one_made_anew(
        steps in prop::collection::vec(prop::collection::vec((0u8..9, 0u8..4, 0u8..24), 1..6), 1..16),
    ) {
        let mut objects = BTreeMap::new();
        let (mut table, mut before) = (Table::default(), Snapshot::default());
        for step in steps {
            for change in step {
                match object(change) {
                    (key, Some(value)) => drop(objects.insert(key, value)),
                    (key, None) => drop(objects.remove(&key)),
                }
            }
            // Two names may stand for one object; the API has each once.
            let mut seen = std::collections::HashSet::new();
            objects.retain(|key, value| {
                seen.insert((key.split_once('/').unwrap().0.to_owned(), value["metadata"]["name"].to_string()))
            });
            let now = carried(&before, snapshot(&objects));
            table = routes(&now, &scope(), &table);
            let anew = routes(&now, &scope(), &Table::default());
            prop_assert_eq!(told(&table), told(&anew));
            before = now;
        }
    }
}

#[test]
fn a_changed_endpoint_makes_nothing_anew_but_its_set() {
    let mut objects = BTreeMap::new();
    for change in [(0, 0, 0), (0, 1, 1), (2, 0, 0), (2, 1, 0), (3, 0, 0), (3, 1, 1)] {
        let (key, value) = object(change);
        objects.insert(key, value.unwrap());
    }
    let before = snapshot(&objects);
    let table = routes(&before, &scope(), &Table::default());
    objects.insert("3/1".into(), object((3, 1, 4 + 3 * 3)).1.unwrap());
    let after = carried(&before, snapshot(&objects));
    let next = routes(&after, &scope(), &table);
    assert!(next.parts.is_same(&table.parts) && next.http.hosts.is_same(&table.http.hosts));
    assert_eq!(told(&next), told(&routes(&after, &scope(), &Table::default())));
}
