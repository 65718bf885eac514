//! Making the table: Ingresses here, Gateways in `gateways`, and the order of all rules.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::actions::{Route, Targets};
use super::backends::{Backends, Port, Wanted};
use super::matching::{PathMatch, Rule};
use super::{Door, DoorName, Scope, Table, gateways};
use crate::l7::Snapshot;

/// How much a request's body may have, on an Ingress or an HTTPRoute: a quantity.
pub(super) const MAX_BODY: &str = "balancer.berth.dev/max-request-body";

/// The routes in `snapshot`; what is known of endpoints is taken over from `before`.
///
/// # Guarantees
/// The order of objects in the snapshot does not matter. Where two objects claim the same requests,
/// the older one has them (then the first by namespace and name).
pub fn routes(snapshot: &Snapshot, scope: &Scope, before: &Table) -> Table {
    let mut build = Build {
        backends: Backends::new(snapshot, before),
        rules: Vec::new(),
        empty: Vec::new(),
        table: Table::default(),
    };
    for ingress in snapshot.served(&scope.ingress_class) {
        build.add(ingress);
    }
    gateways::add(snapshot, scope, &mut build);
    let Build { backends, mut rules, empty, mut table } = build;
    (table.sets, table.secured) = backends.finish();
    // Stable: rules of one object stay in the order that they have in it.
    rules.sort_by(|a, b| a.age.cmp(&b.age));
    for Placed { door, host, deep, rule, .. } in rules {
        let place = table.door_mut(door).place(&host);
        place.deep |= deep;
        place.rules.push(rule);
    }
    for (door, host) in empty {
        table.door_mut(door).place(&host).deep = true;
    }
    for name in [DoorName::Http, DoorName::Https] {
        let door: &mut Door = table.door_mut(name);
        door.all().for_each(|host| host.rules.sort_by_cached_key(Rule::order));
    }
    table
}

/// When an object was made, and what tells two of one moment apart.
pub(super) type Age = (Option<Timestamp>, String, String);

pub(super) fn age(object: &impl ResourceExt) -> Age {
    let created = object.creation_timestamp().map(|time| time.0);
    (created, object.namespace().unwrap_or_default(), object.name_any())
}

/// A rule and where it belongs.
pub(super) struct Placed {
    pub(super) door: DoorName,
    pub(super) host: String,
    pub(super) deep: bool,
    pub(super) age: Age,
    pub(super) rule: Rule,
}

/// A table that is being made.
pub(super) struct Build<'a> {
    pub(super) backends: Backends<'a>,
    pub(super) rules: Vec<Placed>,
    /// Hosts that belong to a listener, with routes or without.
    pub(super) empty: Vec<(DoorName, String)>,
    pub(super) table: Table,
}

impl Build<'_> {
    fn add(&mut self, ingress: &Ingress) {
        let Some(spec) = &ingress.spec else { return };
        let limit = ingress.annotations().get(MAX_BODY).and_then(|text| bytes(text));
        let mut route = |backend: &IngressBackend| self.route(ingress, backend, limit);
        let default = spec.default_backend.as_ref().map(&mut route);
        let mut placed: Vec<(String, Rule)> = Vec::new();
        for rule in spec.rules.iter().flatten() {
            let host = rule.host.as_deref().unwrap_or_default().to_ascii_lowercase();
            for path in rule.http.iter().flat_map(|http| &http.paths) {
                let rule = Rule::simple(path_match(path), route(&path.backend));
                placed.push((host.clone(), rule));
            }
            if let Some(default) = &default {
                let all = PathMatch::Prefix(String::new());
                placed.push((host, Rule::simple(all, default.clone())));
            }
        }
        for (host, rule) in placed {
            for door in [DoorName::Http, DoorName::Https] {
                let (host, rule) = (host.clone(), rule.clone());
                self.rules.push(Placed { door, host, deep: false, age: age(ingress), rule });
            }
        }
        for door in [DoorName::Http, DoorName::Https] {
            let place = &mut self.table.door_mut(door).default;
            if place.is_none() {
                place.clone_from(&default);
            }
        }
    }

    fn route(
        &mut self,
        ingress: &Ingress,
        backend: &IngressBackend,
        max_body: Option<u64>,
    ) -> Arc<Route> {
        let namespace = ingress.namespace().unwrap_or_default();
        let name = format!("Ingress {namespace}/{}", ingress.name_any());
        let service = backend.service.as_ref();
        let port = service.and_then(|service| service.port.as_ref());
        let by_name = port.and_then(|port| port.name.clone()).map(Port::Name);
        let by_number = || Port::Number(port.and_then(|port| port.number).unwrap_or_default());
        let wanted = Wanted {
            namespace,
            service: service.map(|service| service.name.clone()).unwrap_or_default(),
            port: by_name.unwrap_or_else(by_number),
            h2c: false,
        };
        let targets = Targets::one(self.backends.get(wanted, (&name, ingress.annotations())));
        Arc::new(Route { name, targets, max_body, ..Route::default() })
    }
}

/// A quantity of bytes; what is none is no limit.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let quantity: berth_api::Quantity = text.parse().ok()?;
    u64::try_from(quantity.whole()).ok()
}

fn path_match(path: &HTTPIngressPath) -> PathMatch {
    let text = path.path.as_deref().unwrap_or("/");
    match path.path_type.as_str() {
        "Exact" => PathMatch::Exact(text.to_owned()),
        // What is implementation specific is a prefix here.
        _ => PathMatch::prefix(text),
    }
}
