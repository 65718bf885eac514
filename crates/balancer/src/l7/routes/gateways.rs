//! Gateways: their listeners, the routes that attach, and what there is to say of both.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use berth_api::acme;
use berth_api::gateway::{
    CONTROLLER, GROUP, Gateway, Listener, ParentRef, ReferenceGrantSpec, RouteKind, SecretRef,
};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use super::attach::{Attaching, From, Listening, attach, is_shadowed};
use super::build::{Build, age};
use super::conditions::{Found, GatewayReport, ListenerReport, Reports, RouteReport};
use super::http_rules::{self, Compiled, Source};
use super::parts::{Part, Placed};
use super::{DoorName, Scope};
use crate::kept::Key;
use crate::l7::World;
use crate::l7::lenient::Lenient;
use crate::l7::renewals::refused;
use crate::l7::world::Objects;

/// What may be referred to across namespaces.
#[derive(Debug, Default)]
pub(super) struct Grants(Vec<(String, ReferenceGrantSpec)>);

impl Grants {
    pub(super) fn new(world: &World) -> Self {
        let grants = world.grants.values().filter_map(|grant| {
            Some((grant.namespace()?, grant.object.as_ref().ok()?.spec.clone()))
        });
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

/// What routes stand on: Gateways, and what they refer to.
#[derive(Debug, Default)]
pub(super) struct Ground {
    classes: Vec<(String, Option<i64>)>,
    gateways: Vec<Arc<Lenient<Gateway>>>,
    listeners: Vec<Listening>,
    /// What there is to say of each listener.
    found: Vec<Vec<Found>>,
    grants: Grants,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Hosts that belong to a listener, with routes or without.
    pub(super) hosts: BTreeSet<(DoorName, String)>,
    /// Which Secret is shown for which host, `NAMESPACE/NAME`.
    pub(super) certificates: Vec<(String, String)>,
    /// Hosts that certificates are asked for.
    pub(super) certified: BTreeSet<String>,
    /// The Secrets that listeners name, there or not.
    secrets: BTreeSet<Key>,
}

impl Ground {
    pub(super) fn new(world: &World, scope: &Scope) -> Self {
        let mut classes = Vec::new();
        for class in world.gateway_classes.values() {
            let Ok(object) = &class.object else { continue };
            if object.spec.controller_name == CONTROLLER {
                classes.push((class.name_any(), class.metadata.generation));
            }
        }
        classes.sort();
        let is_ours = |gateway: &&Arc<Lenient<Gateway>>| {
            gateway.object.as_ref().is_ok_and(|gateway| {
                classes.iter().any(|(name, _)| *name == gateway.spec.gateway_class_name)
            })
        };
        let mut gateways: Vec<_> = world.gateways.values().filter(is_ours).cloned().collect();
        gateways.sort_by_cached_key(|gateway| age(gateway.as_ref()));
        let namespaces = world.namespaces.values();
        let namespaces = namespaces.map(|one| (one.name_any(), one.labels().clone())).collect();
        let grants = Grants::new(world);
        let mut ground = Self { classes, grants, namespaces, ..Self::default() };
        for gateway in gateways.iter().filter_map(|gateway| gateway.object.as_ref().ok()) {
            for listener in &gateway.spec.listeners {
                if is_certified(gateway.as_ref()) && listener.protocol == "HTTPS" {
                    let host = listener.hostname.as_ref().map(|host| host.to_ascii_lowercase());
                    ground.certified.extend(host);
                }
                let (at, conditions) = ground.listening(gateway, listener, world, scope);
                if let (Some(door), Some(host)) = (at.door, &at.host)
                    && !host.is_empty()
                {
                    ground.hosts.insert((door, host.clone()));
                }
                ground.listeners.push(at);
                ground.found.push(conditions);
            }
        }
        Self { gateways, ..ground }
    }

    /// Whether `world` has another ground than `was`, which this is the ground of.
    ///
    /// Status is written into Gateways and classes at every route that comes or goes: by itself it
    /// changes nothing.
    pub(super) fn is_outdated(&self, was: &World, world: &World) -> bool {
        let selects = |at: &Listening| matches!(at.from, From::Selected(_));
        let names = |key: &Key| self.secrets.contains(key);
        differ(&was.gateway_classes, &world.gateway_classes)
            || differ(&was.gateways, &world.gateways)
            || differ(&was.grants, &world.grants)
            || was.secrets.differing(&world.secrets).iter().any(names)
            || (self.listeners.iter().any(selects)
                && !was.namespaces.differing(&world.namespaces).is_empty())
    }

    /// What became of Gateways, and of the routes in `parts`.
    pub(super) fn reports<'a>(&self, parts: impl Iterator<Item = &'a Arc<Part>>) -> Reports {
        let mut attached = vec![0; self.listeners.len()];
        let mut routes = Vec::new();
        for part in parts {
            part.attached.iter().for_each(|index| attached[*index] += 1);
            routes.extend(part.report.clone());
        }
        let mut listeners = self.listeners.iter().zip(&self.found).zip(attached);
        let objects = self.gateways.iter().filter_map(|gateway| gateway.object.as_ref().ok());
        let gateways = objects.map(|gateway| {
            let of_gateway = listeners.by_ref().take(gateway.spec.listeners.len());
            let reports = of_gateway.map(|((at, conditions), attached)| ListenerReport {
                name: at.name.clone(),
                kinds: at.kinds.iter().map(|kind| route_kind(kind)).collect(),
                attached,
                conditions: conditions.clone(),
            });
            gateway_report(gateway, reports.collect())
        });
        Reports { classes: self.classes.clone(), gateways: gateways.collect(), routes }
    }
}

/// Whether certificates are asked for.
fn is_certified(object: &impl ResourceExt) -> bool {
    object.annotations().get(acme::ASKS).is_some_and(|value| value == "true")
}

/// Whether any is new, gone, or asks for something else.
fn differ<K>(was: &Objects<Lenient<K>>, now: &Objects<Lenient<K>>) -> bool
where
    K: 'static,
{
    let version = |one: &Arc<Lenient<K>>| {
        Some((one.metadata.uid.clone()?, one.metadata.generation?, is_certified(one.as_ref())))
    };
    was.differing(now).iter().any(|key| {
        let (was, now) = (was.get(key).and_then(version), now.get(key).and_then(version));
        was.is_none() || was != now
    })
}

fn route_kind(kind: &str) -> RouteKind {
    RouteKind { group: Some(GROUP.to_owned()), kind: kind.to_owned() }
}

fn gateway_report(gateway: &Gateway, listeners: Vec<ListenerReport>) -> GatewayReport {
    GatewayReport {
        namespace: gateway.namespace().unwrap_or_default(),
        name: gateway.name_any(),
        generation: gateway.metadata.generation,
        conditions: of_listeners(&listeners),
        listeners,
    }
}

/// What there is to say of a Gateway with these listeners.
pub(super) fn of_listeners(listeners: &[ListenerReport]) -> Vec<Found> {
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
    vec![accepted, programmed]
}

/// The namespaces whose routes a listener takes.
pub(super) fn from(listener: &Listener) -> From {
    let allowed = listener.allowed_routes.as_ref();
    let from = allowed.and_then(|allowed| allowed.namespaces.as_ref());
    match from.and_then(|from| from.from.as_deref()).unwrap_or("Same") {
        "All" => From::All,
        "Same" => From::Same,
        "Selector" => {
            From::Selected(from.and_then(|from| from.selector.clone()).unwrap_or_default())
        }
        _ => From::None,
    }
}

impl Ground {
    /// A listener as routes see it, and what there is to say of it.
    fn listening(
        &mut self,
        gateway: &Gateway,
        listener: &Listener,
        world: &World,
        scope: &Scope,
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
            // What there is to say of TCP, UDP and TLS stands in their own report.
            other => {
                let message = format!("protocol {other} is not served by this balancer");
                (None, Found::not("Accepted", "UnsupportedProtocol", message))
            }
        };
        let (kinds, mut resolved) = kinds(listener);
        let conflict = conflict(gateway, listener);
        let (mut secrets, mut outdated) = (Vec::new(), None);
        if listener.protocol == "HTTPS" {
            match self.certificates(&namespace, listener, world) {
                Ok(found) => (secrets, outdated) = found,
                Err(found) => resolved = found,
            }
        }
        let works = accepted.is_so && resolved.is_so && conflict.is_none();
        let host = listener.hostname.as_ref().map(|host| host.to_ascii_lowercase());
        if works {
            let host = host.clone().unwrap_or_default();
            let shown = secrets.into_iter().map(|secret| (host.clone(), secret));
            self.certificates.extend(shown);
        }
        let programmed = if works {
            Found::so("Programmed")
        } else {
            Found::not("Programmed", "Invalid", "see the other conditions")
        };
        let conflicted = conflict.unwrap_or(Found {
            reason: "NoConflicts",
            ..Found::not("Conflicted", "NoConflicts", "")
        });
        if resolved.is_so {
            // It works on, but not with what it names.
            resolved = outdated.unwrap_or(Found::so("ResolvedRefs"));
        }
        let at = Listening {
            namespace,
            gateway: gateway.name_any(),
            name: listener.name.clone(),
            host,
            port: listener.port,
            door: door.filter(|_| works),
            kinds,
            from: from(listener),
            attached: 0,
        };
        (at, vec![accepted, conflicted, resolved, programmed])
    }

    /// The Secrets of an HTTPS listener, `NAMESPACE/NAME`, and what there is to say where one shows
    /// an earlier certificate; or what is wrong with them.
    fn certificates(
        &mut self,
        namespace: &str,
        listener: &Listener,
        world: &World,
    ) -> Result<(Vec<String>, Option<Found>), Found> {
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
        let mut outdated = None;
        let keys = named
            .iter()
            .map(|SecretRef { group, kind, name, namespace: of }| {
                let of = of.as_deref().unwrap_or(namespace);
                let key = format!("{of}/{name}");
                let is_secret = group.as_deref().unwrap_or_default().is_empty()
                    && kind.as_deref().unwrap_or("Secret") == "Secret";
                if !is_secret {
                    return Err(wrong("InvalidCertificateRef", format!("{key} is no Secret")));
                }
                if !self.grants.allow("Gateway", namespace, ("", "Secret", of, name)) {
                    let message = format!("no ReferenceGrant for Secret {key}");
                    return Err(wrong("RefNotPermitted", message));
                }
                let named = (of.to_owned(), name.clone());
                self.secrets.insert(named.clone());
                match world.secrets.get(&named) {
                    None => {
                        Err(wrong("InvalidCertificateRef", format!("there is no TLS Secret {key}")))
                    }
                    Some(secret) if !has_pem(secret) => Err(wrong(
                        "InvalidCertificateRef",
                        format!("Secret {key} has no certificate"),
                    )),
                    Some(secret) => {
                        let say = |why: &str| format!("Secret {key}: {why}; the one before stays");
                        let why = refused(secret).map(say);
                        outdated =
                            why.map(|why| wrong("InvalidCertificateRef", why)).or(outdated.take());
                        Ok(key)
                    }
                }
            })
            .collect::<Result<_, _>>()?;
        Ok((keys, outdated))
    }
}

/// The kinds of routes that a listener takes, and whether all that it names are some.
pub(super) fn kinds(listener: &Listener) -> (Vec<String>, Found) {
    let fitting: &[&str] = match listener.protocol.as_str() {
        "HTTP" | "HTTPS" => &["HTTPRoute", "GRPCRoute"],
        "TCP" => &["TCPRoute"],
        "UDP" => &["UDPRoute"],
        "TLS" => &["TLSRoute"],
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
pub(super) fn conflict(gateway: &Gateway, listener: &Listener) -> Option<Found> {
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

fn has_pem(secret: &Secret) -> bool {
    ["tls.crt", "tls.key"].iter().all(|part| {
        let data = secret.data.as_ref().and_then(|data| data.get(*part));
        data.is_some_and(|data| data.0.windows(11).any(|bytes| bytes == b"-----BEGIN "))
    })
}

/// What a route puts into the table; `None` when it is at no Gateway of ours.
pub(super) fn route<K: 'static>(
    build: &mut Build<'_>,
    kind: &'static str,
    route: &Lenient<K>,
    spec: Result<Source<'_>, String>,
    parts: impl for<'k> Fn(&'k K) -> (&'k [ParentRef], &'k [String]),
) -> Option<Part> {
    let ground = build.ground;
    let namespace = route.metadata.namespace.clone().unwrap_or_default();
    let name = route.metadata.name.clone().unwrap_or_default();
    let (Ok(object), Ok(source)) = (&route.object, spec) else {
        // Without its spec nobody knows whose it is: there is no parent to report to.
        let error = route.object.as_ref().err();
        tracing::warn!(kind, namespace, name, error, "the route cannot be read");
        return None;
    };
    let (parents, hosts) = parts(object);
    let annotations = route.metadata.annotations.clone().unwrap_or_default();
    let full = format!("{kind} {namespace}/{name}");
    let mut compile = |listener_port: u16| {
        let context = http_rules::Context {
            kind,
            namespace: &namespace,
            name: &full,
            annotations: &annotations,
            listener_port,
            grants: &ground.grants,
        };
        http_rules::compile(source, &context, &mut build.backends)
    };
    let attaching = Attaching { kind, namespace: &namespace, hosts };
    let mut part = Part { age: age(route), ..Part::default() };
    let mut reports = Vec::new();
    let mut places: HashSet<(DoorName, String)> = HashSet::new();
    for parent in parents {
        let attached = attach(attaching, parent, &ground.listeners, &ground.namespaces);
        let Some(attached) = attached else { continue };
        let mut conditions = Vec::new();
        match attached {
            Err(found) => {
                conditions.push(found);
                conditions.push(compile(80).map_or(Found::so("ResolvedRefs"), |one| one.refs));
            }
            Ok(attached) => {
                let mut outcome = Ok(Found::so("ResolvedRefs"));
                for (index, hosts) in attached {
                    let port = u16::try_from(ground.listeners[index].port).unwrap_or_default();
                    match compile(port) {
                        Err(why) => outcome = Err(why),
                        Ok(compiled) => {
                            outcome = outcome.map(|_| compiled.refs.clone());
                            part.attached.push(index);
                            ground.place(index, hosts, &compiled, &mut places, &mut part);
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
        part.report = Some(RouteReport { kind, namespace, name, generation, parents: reports });
    }
    Some(part)
}

impl Ground {
    fn place(
        &self,
        index: usize,
        hosts: Vec<String>,
        compiled: &Compiled,
        places: &mut HashSet<(DoorName, String)>,
        part: &mut Part,
    ) {
        let at = &self.listeners[index];
        let Some(door) = at.door else { return };
        for host in hosts {
            // Two listeners of one door with the same host are one place.
            if is_shadowed(at, &host, &self.listeners) || !places.insert((door, host.clone())) {
                continue;
            }
            for rule in &compiled.rules {
                part.placed.push(Placed { door, host: host.clone(), rule: rule.clone() });
            }
        }
    }
}
