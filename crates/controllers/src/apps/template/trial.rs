//! Requests with a header that a canary names go to the new version, whatever its weight is.
//!
//! An Ingress knows no headers, the Gateway API does. The balancer serves both in one table, where a
//! rule with a header goes before one without: so the routes here stand beside the App's Ingress,
//! and take from it only what carries the header.

use std::collections::BTreeMap;

use berth_api::app::{Header, Route};
use berth_api::gateway::{
    BackendTarget, Gateway, GatewaySpec, HTTPRoute, HTTPRouteSpec, HttpMatch, HttpRule, Listener,
    ListenerTls, ParentRef, PathMatch, SecretRef, ValueMatch, WeightedBackend,
};
use berth_api::labels;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// A door and the routes behind it, one for each host.
#[derive(Debug, Default)]
pub struct Trial {
    /// Where requests come in.
    pub gateway: Option<Gateway>,
    /// Which of them go to the new version.
    pub routes: Vec<HTTPRoute>,
}

/// What leads requests with `header` from `routes` to the Service `to`.
///
/// `routes` come with their host and with the port of `to` that each leads to.
pub fn trial(meta: &ObjectMeta, header: &Header, routes: &[(Route, i32)], to: &str) -> Trial {
    let name = format!("{}-trial", meta.name.as_deref().unwrap_or_default());
    let mut hosts: BTreeMap<&str, Vec<&(Route, i32)>> = BTreeMap::new();
    for route in routes {
        hosts.entry(route.0.host.as_deref().unwrap_or_default()).or_default().push(route);
    }
    if hosts.is_empty() {
        return Trial::default();
    }
    let of = |name: &str| ObjectMeta { name: Some(name.to_owned()), ..meta.clone() };
    let mut listeners = Vec::new();
    let mut made = Vec::new();
    for (index, (host, routes)) in hosts.into_iter().enumerate() {
        let secret = routes.iter().find_map(|(route, _)| route.tls_secret.as_ref());
        listeners.extend(doors(index, host, secret));
        let matched = |route: &Route| HttpMatch {
            path: Some(PathMatch {
                kind: Some("PathPrefix".to_owned()),
                value: Some(route.path.clone()),
            }),
            headers: vec![ValueMatch {
                kind: Some("Exact".to_owned()),
                name: header.name.clone(),
                value: header.value.clone(),
            }],
            ..HttpMatch::default()
        };
        let rule = |(route, port): &&(Route, i32)| HttpRule {
            matches: vec![matched(route)],
            backend_refs: vec![backend(to, *port)],
            ..HttpRule::default()
        };
        let mut one = HTTPRoute::new(
            "",
            HTTPRouteSpec {
                parent_refs: vec![ParentRef { name: name.clone(), ..ParentRef::default() }],
                hostnames: vec![host.to_owned()],
                rules: routes.iter().map(rule).collect(),
            },
        );
        one.metadata = of(&format!("{name}-{index}"));
        made.push(one);
    }
    let gateway_class_name = labels::INGRESS_CLASS.to_owned();
    let mut gateway = Gateway::new("", GatewaySpec { gateway_class_name, listeners });
    gateway.metadata = of(&name);
    Trial { gateway: Some(gateway), routes: made }
}

fn doors(index: usize, host: &str, secret: Option<&String>) -> Vec<Listener> {
    let door = |protocol: &str, port: i32| Listener {
        name: format!("{}-{index}", protocol.to_lowercase()),
        hostname: Some(host.to_owned()),
        port,
        protocol: protocol.to_owned(),
        tls: None,
        allowed_routes: None,
    };
    let mut doors = vec![door("HTTP", 80)];
    if let Some(secret) = secret {
        let reference = SecretRef { name: secret.clone(), ..SecretRef::default() };
        let tls = ListenerTls { certificate_refs: vec![reference], ..ListenerTls::default() };
        doors.push(Listener { tls: Some(tls), ..door("HTTPS", 443) });
    }
    doors
}

fn backend(to: &str, port: i32) -> WeightedBackend {
    let target =
        BackendTarget { name: to.to_owned(), port: Some(port), ..BackendTarget::default() };
    WeightedBackend { target, ..WeightedBackend::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_carries_the_header_goes_to_the_new_version() {
        let route = |host: &str, path: &str, secret: Option<&str>| Route {
            host: Some(host.to_owned()),
            path: path.to_owned(),
            port: None,
            tls_secret: secret.map(str::to_owned),
        };
        let routes = [
            (route("a.example", "/", Some("a-tls")), 80),
            (route("b.example", "/", None), 80),
            (route("a.example", "/admin", None), 9000),
        ];
        let meta = ObjectMeta { name: Some("web".into()), ..ObjectMeta::default() };
        let header = Header { name: "x-try".into(), value: "new".into() };
        let made = trial(&meta, &header, &routes, "web-preview");
        let gateway = serde_json::to_value(made.gateway).unwrap();
        let listeners = gateway["spec"]["listeners"].as_array().unwrap();
        assert_eq!(listeners.len(), 3, "{gateway}");
        assert_eq!(listeners[1]["tls"]["certificateRefs"][0]["name"], "a-tls");
        let routes = serde_json::to_value(&made.routes).unwrap();
        assert_eq!(routes[0]["spec"]["hostnames"], json!(["a.example"]));
        assert_eq!(routes[0]["metadata"]["name"], "web-trial-0");
        let admin = &routes[0]["spec"]["rules"][1];
        assert_eq!(admin["matches"][0]["path"]["value"], "/admin");
        assert_eq!(admin["matches"][0]["headers"][0]["value"], "new");
        assert_eq!(admin["backendRefs"][0]["name"], "web-preview");
        assert_eq!(admin["backendRefs"][0]["port"], 9000);
        assert_eq!(routes[1]["spec"]["hostnames"], json!(["b.example"]));
        assert!(trial(&meta, &header, &[], "web-preview").gateway.is_none());
    }
}
