//! Snapshots and the nftables text they become.

use serde_json::{Value, json};

use super::*;

fn config() -> Config {
    Config {
        instance: "b1".into(),
        pod_range: "10.42.0.0/24".parse().unwrap(),
        service_range: "10.43.0.0/16".parse().unwrap(),
        node_address: Ipv4Addr::new(10, 42, 0, 1),
        bridge: "b1".into(),
    }
}

fn service(name: &str, spec: Value) -> Arc<Service> {
    let object = json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec});
    Arc::new(serde_json::from_value(object).unwrap())
}

/// `endpoints`: address and what is true of it: `ready`, `serving`, `terminating`.
fn slice(
    service: &str,
    port: Value,
    endpoints: &[(&str, &[&str])],
) -> Arc<k8s_openapi::api::discovery::v1::EndpointSlice> {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(address, truths)| {
            let is = |word| truths.contains(&word);
            json!({"addresses": [address], "conditions": {"ready": is("ready"),
                "serving": is("serving"), "terminating": is("terminating")}})
        })
        .collect();
    let object = json!({
        "metadata": {"namespace": "shop", "name": format!("{service}-x"),
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [port], "endpoints": endpoints,
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

const UP: &[&str] = &["ready", "serving"];
const LEAVING: &[&str] = &["serving", "terminating"];
const DOWN: &[&str] = &[];

fn changed(services: Vec<Arc<Service>>, slices: Vec<Arc<EndpointSlice>>) -> (Ruleset, String) {
    let mut rules = Ruleset::default();
    let change = rules.change(&Snapshot { services, slices }, &config());
    (rules, change.script)
}

fn web_service() -> Arc<Service> {
    service("web", json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80, "targetPort": 8080}]}))
}

fn web_slice(endpoints: &[(&str, &[&str])]) -> Arc<EndpointSlice> {
    slice("web", json!({"port": 8080, "protocol": "TCP"}), endpoints)
}

/// The script from one set of endpoints to another.
fn from_to(before: &[(&str, &[&str])], after: &[(&str, &[&str])]) -> String {
    let web = web_service();
    let (mut rules, _) = changed(vec![web.clone()], vec![web_slice(before)]);
    let snapshot = Snapshot { services: vec![web], slices: vec![web_slice(after)] };
    let script = rules.change(&snapshot, &config()).script;
    assert_eq!(rules.change(&snapshot, &config()), Change::default());
    script
}

#[test]
fn only_ready_endpoints_get_traffic_and_serving_ones_that_terminate_when_there_are_none() {
    let check = |endpoints: &[(&str, &[&str])], expected: &[&str]| {
        let (rules, script) = changed(vec![web_service()], vec![web_slice(endpoints)]);
        let front = (Some(Ipv4Addr::new(10, 43, 0, 5)), Protocol::Tcp, 80);
        let target = rules.target(&front).unwrap();
        let found: Vec<_> = target.endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{endpoints:?}");
        assert_eq!(script.contains("goto refuse"), expected.is_empty(), "{endpoints:?}");
    };
    check(&[("10.42.0.3", UP), ("10.42.0.2", UP)], &["10.42.0.2:8080", "10.42.0.3:8080"]);
    check(&[("10.42.0.3", UP), ("10.42.0.2", DOWN)], &["10.42.0.3:8080"]);
    check(&[("10.42.0.3", UP), ("10.42.0.2", LEAVING)], &["10.42.0.3:8080"]);
    check(&[("10.42.0.3", DOWN), ("10.42.0.2", LEAVING)], &["10.42.0.2:8080"]);
    check(&[("10.42.0.3", &["terminating"])], &[]);
    check(&[("10.42.0.3", DOWN)], &[]);
    check(&[], &[]);
}

#[test]
fn an_endpoint_change_names_its_elements_only() {
    assert_eq!(
        from_to(&[("10.42.0.2", UP), ("10.42.0.3", UP)], &[("10.42.0.2", UP), ("10.42.0.4", UP)]),
        "delete element ip b1 ends { 10.43.0.5 . tcp . 80 . 1 }\n\
         delete element ip b1 hairpins { 10.42.0.3 . 10.42.0.3 }\n\
         add element ip b1 ends { 10.43.0.5 . tcp . 80 . 1 : 10.42.0.4 . 8080 }\n\
         add element ip b1 hairpins { 10.42.0.4 . 10.42.0.4 }\n"
    );
}

#[test]
fn another_number_of_endpoints_is_another_chain() {
    assert_eq!(
        from_to(&[("10.42.0.2", UP)], &[("10.42.0.2", UP), ("192.0.2.4", UP)]),
        "delete element ip b1 services { 10.43.0.5 . tcp . 80 }\n\
         add element ip b1 services { 10.43.0.5 . tcp . 80 : goto any-2 }\n\
         add element ip b1 ends { 10.43.0.5 . tcp . 80 . 1 : 192.0.2.4 . 8080 }\n"
    );
}

#[test]
fn a_number_that_no_chain_picks_from_is_a_new_table() {
    let addresses: Vec<String> = (1..=USUAL + 1).map(|last| format!("10.42.0.{last}")).collect();
    let all: Vec<(&str, &[&str])> = addresses.iter().map(|one| (one.as_str(), UP)).collect();
    let web = web_service();
    let of = |count: usize| Snapshot {
        services: vec![web.clone()],
        slices: vec![web_slice(&all[..count])],
    };
    let mut rules = Ruleset::default();
    let first = rules.change(&of(1), &config());
    assert!(!first.is_too_much && first.script.contains(&format!("add chain ip b1 any-{USUAL}\n")));
    assert!(!rules.change(&of(USUAL), &config()).is_too_much);
    assert!(rules.change(&of(USUAL + 1), &config()).is_too_much);
    let mut anew = Ruleset::default();
    let all = anew.change(&of(USUAL + 1), &config());
    assert!(!all.is_too_much && all.script.contains("add chain ip b1 any-65\n"));
    assert!(!anew.change(&of(2), &config()).is_too_much);
    assert!(!anew.change(&of(USUAL + 1), &config()).is_too_much);
}

#[test]
fn a_service_that_loses_its_last_endpoint_refuses() {
    assert_eq!(
        from_to(&[("10.42.0.2", UP)], &[]),
        "delete element ip b1 services { 10.43.0.5 . tcp . 80 }\n\
         delete element ip b1 ends { 10.43.0.5 . tcp . 80 . 0 }\n\
         delete element ip b1 hairpins { 10.42.0.2 . 10.42.0.2 }\n\
         add element ip b1 services { 10.43.0.5 . tcp . 80 : goto refuse }\n"
    );
}

fn fronts(spec: Value, endpoints: &[(&str, &[&str])]) -> Vec<String> {
    let slice = slice("web", json!({"name": "http", "port": 8080}), endpoints);
    let (rules, _) = changed(vec![service("web", spec)], vec![slice]);
    let claims: BTreeSet<_> = rules.claims.keys().collect();
    let named = claims.into_iter().map(|front| {
        let (ip, protocol, port) = front;
        let ip = ip.map_or_else(|| "*".to_owned(), |ip| ip.to_string());
        let target = rules.target(front).unwrap();
        let count = target.endpoints.len();
        let guard = target.sources.as_ref().map(|sources| format!(" for {sources:?}"));
        format!("{ip} {protocol} {port} {count}{}", guard.unwrap_or_default())
    });
    named.collect()
}

#[test]
fn every_kind_of_address_is_a_front() {
    let port = json!([{"name": "http", "port": 80, "nodePort": 30080}]);
    let check = |spec: Value, expected: &[&str]| {
        assert_eq!(fronts(spec.clone(), &[("10.42.0.2", UP)]), expected, "{spec}");
    };
    check(
        json!({"clusterIP": "10.43.0.5", "externalIPs": ["192.0.2.7"], "ports": port}),
        &["* tcp 30080 1", "10.43.0.5 tcp 80 1", "192.0.2.7 tcp 80 1"],
    );
    check(json!({"clusterIP": "None", "ports": port}), &["* tcp 30080 1"]);
    check(json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}), &[]);
    check(json!({"type": "ExternalName", "externalName": "x", "ports": port}), &[]);
    // The endpoints' port is found by name and protocol.
    check(
        json!({"clusterIP": "10.43.0.5", "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]}),
        &["10.43.0.5 udp 53 0"],
    );
}

#[test]
fn local_policies_keep_to_this_machine() {
    let spec = |inner: &str, outer: &str| {
        json!({"clusterIP": "10.43.0.5", "internalTrafficPolicy": inner,
            "externalTrafficPolicy": outer,
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}]})
    };
    let both: &[(&str, &[&str])] = &[("10.42.0.2", UP), ("192.0.2.9", UP)];
    let away: &[(&str, &[&str])] = &[("192.0.2.9", UP)];
    let check = |spec: Value, endpoints, outer: usize, inner: usize| {
        let expected = [format!("* tcp 30080 {outer}"), format!("10.43.0.5 tcp 80 {inner}")];
        assert_eq!(fronts(spec, endpoints), expected);
    };
    check(spec("Cluster", "Cluster"), both, 2, 2);
    check(spec("Cluster", "Local"), both, 1, 2);
    check(spec("Local", "Local"), both, 1, 1);
    check(spec("Cluster", "Local"), away, 0, 1);
    check(spec("Local", "Cluster"), away, 1, 0);
}

#[test]
fn source_ranges_guard_the_addresses_that_a_balancer_gave() {
    let guarded = |ranges: Value| {
        let object = json!({"metadata": {"namespace": "shop", "name": "web"},
            "spec": {"clusterIP": "10.43.0.5", "loadBalancerSourceRanges": ranges,
                "ports": [{"port": 80}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.8"}]}}});
        let service = Arc::new(serde_json::from_value(object).unwrap());
        let (_, script) = changed(vec![service], vec![web_slice(&[("192.0.2.9", UP)])]);
        let is_guard = |line: &&str| line.contains("guarded") || line.contains("allowed");
        script.lines().filter(is_guard).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(guarded(json!([])), [] as [String; 0]);
    assert_eq!(
        guarded(json!(["10.0.0.0/9", " 10.128.0.0/9", "10.1.0.0/16", "198.51.100.7/24"])),
        [
            "add element ip b1 guarded { 192.0.2.8 . tcp . 80 }",
            "add element ip b1 allowed { 192.0.2.8 . tcp . 80 . 10.0.0.0/8 }",
            "add element ip b1 allowed { 192.0.2.8 . tcp . 80 . 198.51.100.0/24 }",
        ]
    );
    // Of what cannot be read, nobody is let in.
    assert_eq!(guarded(json!(["::/0"])), ["add element ip b1 guarded { 192.0.2.8 . tcp . 80 }"]);
}

#[test]
fn affinity_is_kept_for_each_endpoint_and_goes_with_it() {
    let spec = |seconds: u32| {
        json!({"clusterIP": "10.43.0.5", "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}},
            "ports": [{"port": 80}]})
    };
    let snapshot = |seconds, endpoints: &[(&str, &[&str])]| Snapshot {
        services: vec![service("web", spec(seconds))],
        slices: vec![slice("web", json!({"port": 80}), endpoints)],
    };
    let one: &[(&str, &[&str])] = &[("10.42.0.2", UP)];
    let (mut rules, chain) = (Ruleset::default(), "svc-shop/web/tcp/80");
    let first = rules.change(&snapshot(60, one), &config()).script;
    let set = "of-svc-shop/web/tcp/80/10.42.0.2/80";
    let own = format!("add rule ip b1 {chain} ");
    assert_eq!(
        first.lines().filter(|line| line.starts_with(&own)).collect::<Vec<_>>(),
        [
            format!("add rule ip b1 {chain} meta mark set meta mark or 0x100000"),
            format!(
                "add rule ip b1 {chain} meta l4proto tcp ip saddr @{set} update @{set} \
                 {{ ip saddr }} dnat to 10.42.0.2:80"
            ),
            format!(
                "add rule ip b1 {chain} meta l4proto tcp update @{set} {{ ip saddr }} \
                 dnat to 10.42.0.2:80"
            ),
            format!("add rule ip b1 {chain} meta l4proto tcp dnat to 10.42.0.2:80"),
        ]
    );
    // Another endpoint leaves the clients of the first where they are; its own go with it.
    let two = snapshot(60, &[("10.42.0.2", UP), ("10.42.0.3", UP)]);
    let more = rules.change(&two, &config()).script;
    assert!(!more.contains(&format!("set ip b1 {set}")), "{more}");
    let less = rules.change(&snapshot(60, one), &config()).script;
    assert!(less.contains("delete set ip b1 of-svc-shop/web/tcp/80/10.42.0.3/80\n"), "{less}");
    assert!(!less.contains(&format!("delete set ip b1 {set}")), "{less}");
    // Another timeout is another set.
    let longer = rules.change(&snapshot(90, one), &config()).script;
    let heads: Vec<_> = longer.lines().map(|line| line.split(" ip b1").next().unwrap()).collect();
    assert_eq!(heads[..3], ["flush chain", "delete set", "add set"], "{longer}");
    // And without affinity the chain goes.
    let plain = Snapshot {
        services: vec![service("web", json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80}]}))],
        slices: vec![slice("web", json!({"port": 80}), one)],
    };
    let last = rules.change(&plain, &config()).script;
    assert!(last.contains(&format!("delete chain ip b1 {chain}\n")), "{last}");
    assert!(last.contains("goto any-1"), "{last}");
}

#[test]
fn the_order_of_objects_does_not_matter_and_the_first_claim_of_a_front_holds() {
    let spec = json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80}]});
    let (a, b) = (service("a", spec.clone()), service("b", spec));
    let slices = vec![
        slice("a", json!({"port": 80}), &[("10.42.0.2", UP)]),
        slice("b", json!({"port": 80}), &[("10.42.0.3", UP)]),
    ];
    let front = (Some(Ipv4Addr::new(10, 43, 0, 5)), Protocol::Tcp, 80);
    let leads = |rules: &Ruleset| rules.target(&front).unwrap().endpoints[0].to_string();
    let (_, script) = changed(vec![a.clone(), b.clone()], slices.clone());
    let reversed = slices.iter().rev().cloned().collect();
    let (mut rules, other) = changed(vec![b.clone(), a], reversed);
    assert_eq!(script, other);
    assert_eq!(leads(&rules), "10.42.0.2:80");
    // When the first goes, the second has it.
    let change = rules.change(&Snapshot { services: vec![b], slices }, &config());
    assert_eq!(leads(&rules), "10.42.0.3:80");
    assert!(change.script.contains("ends { 10.43.0.5 . tcp . 80 . 0 : 10.42.0.3 . 80 }"));
    let gone = rules.change(&Snapshot::default(), &config()).script;
    assert!(rules.claims.is_empty() && rules.shared.is_empty() && rules.services.is_empty());
    assert!(gone.contains("delete element ip b1 services { 10.43.0.5 . tcp . 80 }"), "{gone}");
}
