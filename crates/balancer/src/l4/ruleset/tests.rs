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

fn web(endpoints: &[(&str, &[&str])]) -> Ruleset {
    let spec = json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80, "targetPort": 8080}]});
    let snapshot = Snapshot {
        services: vec![service("web", spec)],
        slices: vec![slice("web", json!({"port": 8080, "protocol": "TCP"}), endpoints)],
    };
    ruleset(&snapshot, &config())
}

#[test]
fn only_ready_endpoints_get_traffic_and_serving_ones_that_terminate_when_there_are_none() {
    let check = |endpoints: &[(&str, &[&str])], expected: &[&str]| {
        let rules = web(endpoints);
        let front = (Some(Ipv4Addr::new(10, 43, 0, 5)), Protocol::Tcp, 80);
        let found: Vec<_> = rules.flows[&front].iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{endpoints:?}");
        let refused = rules.fronts[&front] == REFUSE;
        assert_eq!(refused, expected.is_empty(), "{endpoints:?}");
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
fn an_endpoint_change_names_its_chain_only() {
    let before = web(&[("10.42.0.2", UP), ("10.42.0.3", UP)]);
    let after = web(&[("10.42.0.3", UP), ("10.42.0.4", UP)]);
    assert_eq!(
        after.difference(&before, "b1"),
        "flush chain ip b1 svc-shop/web/tcp/80\n\
         add rule ip b1 svc-shop/web/tcp/80 meta mark set meta mark or 0x100000\n\
         add rule ip b1 svc-shop/web/tcp/80 meta l4proto tcp dnat ip to numgen random mod 2 \
         map { 0 : 10.42.0.3 . 8080, 1 : 10.42.0.4 . 8080 }\n\
         delete element ip b1 hairpins { 10.42.0.2 . 10.42.0.2 }\n\
         add element ip b1 hairpins { 10.42.0.4 . 10.42.0.4 }\n"
    );
    assert_eq!(after.difference(&after, "b1"), "");
}

#[test]
fn a_service_that_loses_its_last_endpoint_refuses() {
    let before = web(&[("10.42.0.2", UP)]);
    let after = web(&[]);
    assert_eq!(
        after.difference(&before, "b1"),
        "flush chain ip b1 svc-shop/web/tcp/80\n\
         delete element ip b1 services { 10.43.0.5 . tcp . 80 }\n\
         add element ip b1 services { 10.43.0.5 . tcp . 80 : goto refuse }\n\
         delete element ip b1 hairpins { 10.42.0.2 . 10.42.0.2 }\n\
         delete chain ip b1 svc-shop/web/tcp/80\n"
    );
}

fn fronts(spec: Value, endpoints: &[(&str, &[&str])]) -> Vec<String> {
    let snapshot = Snapshot {
        services: vec![service("web", spec)],
        slices: vec![slice("web", json!({"name": "http", "port": 8080}), endpoints)],
    };
    let rules = ruleset(&snapshot, &config());
    let named = rules.fronts.iter().map(|((ip, protocol, port), chain)| {
        let ip = ip.map_or_else(|| "*".to_owned(), |ip| ip.to_string());
        format!("{ip} {protocol} {port} {chain}")
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
        &[
            "* tcp 30080 svc-shop/web/tcp/80",
            "10.43.0.5 tcp 80 svc-shop/web/tcp/80",
            "192.0.2.7 tcp 80 svc-shop/web/tcp/80",
        ],
    );
    check(json!({"clusterIP": "None", "ports": port}), &["* tcp 30080 ext-shop/web/tcp/80"]);
    check(json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}), &[]);
    check(json!({"type": "ExternalName", "externalName": "x", "ports": port}), &[]);
    // The endpoints' port is found by name and protocol.
    check(
        json!({"clusterIP": "10.43.0.5", "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]}),
        &["10.43.0.5 udp 53 refuse"],
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
    let check = |spec: Value, endpoints, outer: &str, inner: &str| {
        let expected = [format!("* tcp 30080 {outer}"), format!("10.43.0.5 tcp 80 {inner}")];
        assert_eq!(fronts(spec, endpoints), expected);
    };
    let (svc, ext) = ("svc-shop/web/tcp/80", "ext-shop/web/tcp/80");
    check(spec("Cluster", "Cluster"), both, svc, svc);
    check(spec("Cluster", "Local"), both, ext, svc);
    check(spec("Local", "Local"), both, svc, svc);
    check(spec("Cluster", "Local"), away, REFUSE, svc);
    check(spec("Local", "Cluster"), away, ext, REFUSE);
}

#[test]
fn affinity_is_kept_for_each_endpoint_and_goes_with_it() {
    let spec = |seconds: u32| {
        json!({"clusterIP": "10.43.0.5", "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}},
            "ports": [{"port": 80}]})
    };
    let rules = |seconds, endpoints: &[(&str, &[&str])]| {
        let snapshot = Snapshot {
            services: vec![service("web", spec(seconds))],
            slices: vec![slice("web", json!({"port": 80}), endpoints)],
        };
        ruleset(&snapshot, &config())
    };
    let one = rules(60, &[("10.42.0.2", UP)]);
    assert_eq!(
        one.chains["svc-shop/web/tcp/80"],
        [
            "meta mark set meta mark or 0x100000",
            "meta l4proto tcp ip saddr @of-svc-shop/web/tcp/80/10.42.0.2/80 \
             update @of-svc-shop/web/tcp/80/10.42.0.2/80 { ip saddr } dnat to 10.42.0.2:80",
            "meta l4proto tcp update @of-svc-shop/web/tcp/80/10.42.0.2/80 { ip saddr } \
             dnat to 10.42.0.2:80",
            "meta l4proto tcp dnat to 10.42.0.2:80",
        ]
    );
    let two = rules(60, &[("10.42.0.2", UP), ("10.42.0.3", UP)]);
    let gone = one.difference(&two, "b1");
    assert!(gone.contains("delete set ip b1 of-svc-shop/web/tcp/80/10.42.0.3/80\n"), "{gone}");
    // Another timeout is another set, under the same rules.
    let longer = rules(90, &[("10.42.0.2", UP)]).difference(&one, "b1");
    let kinds: Vec<_> = longer.lines().map(|line| line.split(" ip b1").next().unwrap()).collect();
    assert_eq!(
        kinds,
        ["flush chain", "delete set", "add set", "add rule", "add rule", "add rule", "add rule"]
    );
}

#[test]
fn the_order_of_objects_does_not_matter_and_the_first_claim_of_a_front_holds() {
    let spec = json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80}]});
    let mut snapshot = Snapshot {
        services: vec![service("b", spec.clone()), service("a", spec)],
        slices: vec![
            slice("a", json!({"port": 80}), &[("10.42.0.2", UP)]),
            slice("b", json!({"port": 80}), &[("10.42.0.3", UP)]),
        ],
    };
    let rules = ruleset(&snapshot, &config());
    let front = (Some(Ipv4Addr::new(10, 43, 0, 5)), Protocol::Tcp, 80);
    assert_eq!(rules.fronts[&front], "svc-shop/a/tcp/80");
    snapshot.services.reverse();
    snapshot.slices.reverse();
    assert_eq!(ruleset(&snapshot, &config()), rules);
}
