//! Gateways: their listeners, the routes that attach, and what there is to say of both.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use berth_api::gateway::{CONTROLLER, GROUP, Gateway, Listener, ParentRef, RouteKind, SecretRef};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use super::attach::{Attaching, From, Listening, attach, is_shadowed};
use super::build::{Build, Placed, age};
use super::conditions::{Found, GatewayReport, ListenerReport, RouteReport};
use super::http_rules::{self, Compiled, Source};
use super::{DoorName, Scope};
use crate::l7::Snapshot;
use crate::l7::lenient::Lenient;

/// What may be referred to across namespaces.
pub(super) struct Grants<'a>(Vec<(String, &'a berth_api::gateway::ReferenceGrantSpec)>);

impl<'a> Grants<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        let grants = snapshot
            .gateway
            .grants
            .iter()
            .filter_map(|grant| Some((grant.namespace()?, &grant.object.as_ref().ok()?.spec)));
        Self(grants.collect())
    }

    /// Whether a `kind` of namespace `from` may refer to (group, kind, namespace, name) `to`.
    pub(super) fn allow(&self, kind: &str, from: &str, to: (&str, &str, &str, &str)) -> bool {
        let (group, to_kind, namespace, name) = to;
        from == namespace
            || self.0.iter().filter(|(at, _)| at == namespace).any(|(_, grant)| {
                let who = grant
                    .from
                    .iter()
                    .any(|one| one.group == GROUP && one.kind == kind && one.namespace == from);
                let what = grant.to.iter().any(|one| {
                    one.group == group
                        && one.kind == to_kind
                        && one.name.as_deref().is_none_or(|only| only == name)
                });
                who && what
            })
    }
}

/// Adds what Gateways and their routes say to the table.
pub(super) fn add(snapshot: &Snapshot, scope: &Scope, build: &mut Build<'_>) {
    let mut classes = BTreeSet::new();
    for class in &snapshot.gateway.classes {
        let Ok(object) = &class.object else { continue };
        if object.spec.controller_name == CONTROLLER {
            classes.insert(class.name_any());
            build.table.reports.classes.push((class.name_any(), class.metadata.generation));
        }
    }
    let is_ours = |gateway: &Gateway| classes.contains(&gateway.spec.gateway_class_name);
    let gateways = snapshot.gateway.gateways.iter().filter_map(|one| one.object.as_ref().ok());
    let mut gateways: Vec<&Gateway> = gateways.map(AsRef::as_ref).filter(|g| is_ours(g)).collect();
    gateways.sort_by_cached_key(|gateway| age(*gateway));

    let grants = Grants::new(snapshot);
    let mut listeners = Vec::new();
    let mut found = Vec::new();
    for gateway in &gateways {
        for listener in &gateway.spec.listeners {
            let (at, conditions) = listening(gateway, listener, snapshot, scope, &grants, build);
            listeners.push(at);
            found.push(conditions);
        }
    }
    for at in &listeners {
        if let Some(door) = at.door {
            build.empty.push((door, at.host.clone().unwrap_or_default()));
        }
    }
    build.empty.retain(|(_, host)| !host.is_empty());

    let namespaces = snapshot.gateway.namespaces.iter();
    let namespaces: BTreeMap<_, _> =
        namespaces.map(|one| (one.name_any(), one.labels().clone())).collect();
    let mut adding = Adding { build, listeners, grants, namespaces };
    for route in &snapshot.gateway.http {
        let spec = route.object.as_ref().map(|route| Source::Http(&route.spec));
        adding.route("HTTPRoute", route, spec.map_err(Clone::clone), |object| {
            (&object.spec.parent_refs, &object.spec.hostnames)
        });
    }
    for route in &snapshot.gateway.grpc {
        let spec = route.object.as_ref().map(|route| Source::Grpc(&route.spec));
        adding.route("GRPCRoute", route, spec.map_err(Clone::clone), |object| {
            (&object.spec.parent_refs, &object.spec.hostnames)
        });
    }
    let Adding { listeners, .. } = adding;

    let mut of_listeners = listeners.iter().zip(found);
    for gateway in gateways {
        let reports: Vec<_> = of_listeners
            .by_ref()
            .take(gateway.spec.listeners.len())
            .map(|(at, conditions)| ListenerReport {
                name: at.name.clone(),
                kinds: at.kinds.iter().map(|kind| route_kind(kind)).collect(),
                attached: at.attached,
                conditions,
            })
            .collect();
        build.table.reports.gateways.push(gateway_report(gateway, reports));
    }
}

fn route_kind(kind: &str) -> RouteKind {
    RouteKind { group: Some(GROUP.to_owned()), kind: kind.to_owned() }
}

fn gateway_report(gateway: &Gateway, listeners: Vec<ListenerReport>) -> GatewayReport {
    let is = |report: &ListenerReport, kind: &str| {
        report.conditions.iter().any(|found| found.kind == kind && found.is_so)
    };
    let bad: Vec<_> = listeners.iter().filter(|one| !is(one, "Programmed")).collect();
    let names = bad.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut accepted = Found::so("Accepted");
    if !bad.is_empty() {
        accepted.reason = "ListenersNotValid";
        accepted.message = format!("listeners that do not work: {names}");
        accepted.is_so = listeners.iter().any(|one| is(one, "Accepted"));
    }
    let programmed = if bad.len() < listeners.len() {
        Found::so("Programmed")
    } else {
        Found::not("Programmed", "Invalid", format!("listeners that do not work: {names}"))
    };
    GatewayReport {
        namespace: gateway.namespace().unwrap_or_default(),
        name: gateway.name_any(),
        generation: gateway.metadata.generation,
        conditions: vec![accepted, programmed],
        listeners,
    }
}

/// A listener as routes see it, and what there is to say of it.
fn listening(
    gateway: &Gateway,
    listener: &Listener,
    snapshot: &Snapshot,
    scope: &Scope,
    grants: &Grants<'_>,
    build: &mut Build<'_>,
) -> (Listening, Vec<Found>) {
    let namespace = gateway.namespace().unwrap_or_default();
    let port = u16::try_from(listener.port).unwrap_or_default();
    let (door, accepted) = match listener.protocol.as_str() {
        "HTTP" if port == 80 || port == scope.http_port => {
            (Some(DoorName::Http), Found::so("Accepted"))
        }
        "HTTPS" if port == 443 || port == scope.https_port => {
            (Some(DoorName::Https), Found::so("Accepted"))
        }
        "HTTP" | "HTTPS" => {
            let message = format!(
                "HTTP is served at port {} (or 80), HTTPS at {} (or 443)",
                scope.http_port, scope.https_port
            );
            (None, Found::not("Accepted", "PortUnavailable", message))
        }
        other => {
            let message = format!("protocol {other} is not served by this balancer");
            (None, Found::not("Accepted", "UnsupportedProtocol", message))
        }
    };
    let (kinds, mut resolved) = kinds(listener);
    let conflict = conflict(gateway, listener);
    let mut secrets = Vec::new();
    if listener.protocol == "HTTPS" {
        match certificates(&namespace, listener, snapshot, grants) {
            Ok(found) => secrets = found,
            Err(found) => resolved = found,
        }
    }
    let works = accepted.is_so && resolved.is_so && conflict.is_none();
    let host = listener.hostname.as_ref().map(|host| host.to_ascii_lowercase());
    if works {
        let host = host.clone().unwrap_or_default();
        let shown = secrets.into_iter().map(|secret| (host.clone(), secret));
        build.table.certificates.extend(shown);
    }
    let programmed = if works {
        Found::so("Programmed")
    } else {
        Found::not("Programmed", "Invalid", "see the other conditions")
    };
    let conflicted = conflict
        .unwrap_or(Found { reason: "NoConflicts", ..Found::not("Conflicted", "NoConflicts", "") });
    if resolved.is_so {
        resolved = Found::so("ResolvedRefs");
    }
    let allowed = listener.allowed_routes.as_ref();
    let from = allowed.and_then(|allowed| allowed.namespaces.as_ref());
    let from = match from.and_then(|from| from.from.as_deref()).unwrap_or("Same") {
        "All" => From::All,
        "Same" => From::Same,
        "Selector" => {
            From::Selected(from.and_then(|from| from.selector.clone()).unwrap_or_default())
        }
        _ => From::None,
    };
    let at = Listening {
        namespace,
        gateway: gateway.name_any(),
        name: listener.name.clone(),
        host,
        port: listener.port,
        door: door.filter(|_| works),
        kinds,
        from,
        attached: 0,
    };
    (at, vec![accepted, conflicted, resolved, programmed])
}

/// The kinds of routes that a listener takes, and whether all that it names are some.
fn kinds(listener: &Listener) -> (Vec<String>, Found) {
    let fitting: &[&str] = match listener.protocol.as_str() {
        "HTTP" | "HTTPS" => &["HTTPRoute", "GRPCRoute"],
        _ => &[],
    };
    let named = listener.allowed_routes.as_ref().map_or(&[][..], |allowed| &allowed.kinds);
    if named.is_empty() {
        return (
            fitting.iter().map(|kind| (*kind).to_owned()).collect(),
            Found::so("ResolvedRefs"),
        );
    }
    let fits = |kind: &&RouteKind| {
        kind.group.as_deref().unwrap_or(GROUP) == GROUP && fitting.contains(&kind.kind.as_str())
    };
    let good: Vec<_> = named.iter().filter(fits).map(|kind| kind.kind.clone()).collect();
    let found = if good.len() == named.len() {
        Found::so("ResolvedRefs")
    } else {
        Found::not(
            "ResolvedRefs",
            "InvalidRouteKinds",
            "a kind of routes does not fit the protocol",
        )
    };
    (good, found)
}

/// Whether another listener of the same Gateway claims the same.
fn conflict(gateway: &Gateway, listener: &Listener) -> Option<Found> {
    let others = gateway.spec.listeners.iter().filter(|other| {
        other.name != listener.name
            && other.port == listener.port
            && (other.protocol == "UDP") == (listener.protocol == "UDP")
    });
    let host =
        |listener: &Listener| listener.hostname.as_ref().map(|host| host.to_ascii_lowercase());
    for other in others {
        let reason = if other.protocol != listener.protocol {
            "ProtocolConflict"
        } else if host(other) == host(listener) {
            "HostnameConflict"
        } else {
            continue;
        };
        let message = format!("listener {} claims the same", other.name);
        return Some(Found { is_so: true, ..Found::not("Conflicted", reason, message) });
    }
    None
}

/// The Secrets of an HTTPS listener, `NAMESPACE/NAME`, or what is wrong with them.
fn certificates(
    namespace: &str,
    listener: &Listener,
    snapshot: &Snapshot,
    grants: &Grants<'_>,
) -> Result<Vec<String>, Found> {
    let wrong = |reason, message: String| Found::not("ResolvedRefs", reason, message);
    let tls = listener.tls.as_ref();
    if tls.and_then(|tls| tls.mode.as_deref()).unwrap_or("Terminate") != "Terminate" {
        let message = "HTTPS is always terminated here".to_owned();
        return Err(wrong("InvalidCertificateRef", message));
    }
    let named = tls.map_or(&[][..], |tls| &tls.certificate_refs);
    if named.is_empty() {
        return Err(wrong("InvalidCertificateRef", "HTTPS needs a certificateRef".to_owned()));
    }
    named
        .iter()
        .map(|SecretRef { group, kind, name, namespace: of }| {
            let of = of.as_deref().unwrap_or(namespace);
            let key = format!("{of}/{name}");
            let is_secret = group.as_deref().unwrap_or_default().is_empty()
                && kind.as_deref().unwrap_or("Secret") == "Secret";
            if !is_secret {
                return Err(wrong("InvalidCertificateRef", format!("{key} is no Secret")));
            }
            if !grants.allow("Gateway", namespace, ("", "Secret", of, name)) {
                let message = format!("no ReferenceGrant for Secret {key}");
                return Err(wrong("RefNotPermitted", message));
            }
            let is_named = |secret: &&std::sync::Arc<Secret>| {
                secret.namespace().as_deref() == Some(of) && secret.name_any() == *name
            };
            match snapshot.secrets.iter().find(is_named) {
                None => {
                    Err(wrong("InvalidCertificateRef", format!("there is no TLS Secret {key}")))
                }
                Some(secret) if !has_pem(secret) => {
                    Err(wrong("InvalidCertificateRef", format!("Secret {key} has no certificate")))
                }
                Some(_) => Ok(key),
            }
        })
        .collect()
}

fn has_pem(secret: &Secret) -> bool {
    ["tls.crt", "tls.key"].iter().all(|part| {
        let data = secret.data.as_ref().and_then(|data| data.get(*part));
        data.is_some_and(|data| data.0.windows(11).any(|bytes| bytes == b"-----BEGIN "))
    })
}

struct Adding<'a, 'b> {
    build: &'a mut Build<'b>,
    listeners: Vec<Listening>,
    grants: Grants<'a>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

impl Adding<'_, '_> {
    fn route<K>(
        &mut self,
        kind: &'static str,
        route: &Lenient<K>,
        spec: Result<Source<'_>, String>,
        parts: impl for<'k> Fn(&'k K) -> (&'k [ParentRef], &'k [String]),
    ) where
        K: 'static,
    {
        let namespace = route.metadata.namespace.clone().unwrap_or_default();
        let name = route.metadata.name.clone().unwrap_or_default();
        let (Ok(object), Ok(source)) = (&route.object, spec) else {
            // Without its spec nobody knows whose it is: there is no parent to report to.
            let error = route.object.as_ref().err();
            tracing::warn!(kind, namespace, name, error, "the route cannot be read");
            return;
        };
        let (parents, hosts) = parts(object);
        let annotations = route.metadata.annotations.clone().unwrap_or_default();
        let named = (name.as_str(), &annotations);
        let attaching = Attaching { kind, namespace: &namespace, hosts };
        let mut reports = Vec::new();
        let mut placed: HashSet<(DoorName, String)> = HashSet::new();
        for parent in parents {
            let attached = attach(attaching, parent, &self.listeners, &self.namespaces);
            let Some(attached) = attached else { continue };
            let mut conditions = Vec::new();
            match attached {
                Err(found) => {
                    let compiled = self.compile(kind, &namespace, named, source, 80);
                    conditions.push(found);
                    conditions.push(compiled.map_or(Found::so("ResolvedRefs"), |one| one.refs));
                }
                Ok(attached) => {
                    let mut outcome = Ok(Found::so("ResolvedRefs"));
                    for (index, hosts) in attached {
                        let port = u16::try_from(self.listeners[index].port).unwrap_or_default();
                        match self.compile(kind, &namespace, named, source, port) {
                            Err(why) => outcome = Err(why),
                            Ok(compiled) => {
                                outcome = outcome.map(|_| compiled.refs.clone());
                                self.listeners[index].attached += 1;
                                self.place(index, hosts, &compiled, age(route), &mut placed);
                            }
                        }
                    }
                    match outcome {
                        Ok(refs) => conditions.extend([Found::so("Accepted"), refs]),
                        Err(why) => conditions.extend([
                            Found::not("Accepted", "UnsupportedValue", why),
                            Found::so("ResolvedRefs"),
                        ]),
                    }
                }
            }
            reports.push((parent.clone(), conditions));
        }
        if !reports.is_empty() {
            let generation = route.metadata.generation;
            let report = RouteReport { kind, namespace, name, generation, parents: reports };
            self.build.table.reports.routes.push(report);
        }
    }

    fn compile(
        &mut self,
        kind: &'static str,
        namespace: &str,
        (name, annotations): (&str, &BTreeMap<String, String>),
        source: Source<'_>,
        port: u16,
    ) -> Result<Compiled, String> {
        let full = format!("{kind} {namespace}/{name}");
        let context = http_rules::Context {
            kind,
            namespace,
            name: &full,
            annotations,
            listener_port: port,
            grants: &self.grants,
        };
        http_rules::compile(source, &context, &mut self.build.backends)
    }

    fn place(
        &mut self,
        index: usize,
        hosts: Vec<String>,
        compiled: &Compiled,
        age: super::build::Age,
        placed: &mut HashSet<(DoorName, String)>,
    ) {
        let at = &self.listeners[index];
        let Some(door) = at.door else { return };
        for host in hosts {
            // Two listeners of one door with the same host are one place.
            if is_shadowed(at, &host, &self.listeners) || !placed.insert((door, host.clone())) {
                continue;
            }
            for rule in &compiled.rules {
                let (host, rule) = (host.clone(), rule.clone());
                self.build.rules.push(Placed { door, host, deep: true, age: age.clone(), rule });
            }
        }
    }
}
