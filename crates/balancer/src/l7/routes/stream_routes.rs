//! Routes of what is no HTTP: TCP, UDP, and TLS passed through by its name.
//!
//! ```text
//! Gateway ◀─ TCPRoute ──┐
//!         ◀─ UDPRoute ──┼─▶ doors: protocol and port, names at those of TLS ─▶ Services, by weight
//!         ◀─ TLSRoute ──┘
//! ```
//!
//! Apart from the table of HTTP, which a change of these does not touch; `crate::streams` opens the
//! ports. A TCP or UDP port belongs to one route, the oldest that attaches; a TLS port is shared by
//! names, each of which is the oldest's. Of two Gateways that claim a port otherwise the older has
//! it. A route that cannot be right is refused and named in its status; a backend that cannot be
//! had gets its share of the connections, which are refused.
//!
//! # What it refuses
//! TLS that ends here, several rules in a route (nothing tells their connections apart).

use std::collections::{BTreeMap, HashMap};

use berth_api::gateway::{
    CONTROLLER, GROUP, Gateway, Listener, ParentRef, RouteKind, StreamRule, WeightedBackend,
};
use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::Scope;
use super::attach::{Attaching, Listening, attach, covers};
use super::build::{Age, age};
use super::conditions::{Found, ListenerReport, Reports, RouteReport};
use super::gateways::{Grants, conflict, from, kinds, of_listeners};
use crate::kept::Key;
use crate::l7::World;
use crate::l7::lenient::Lenient;

/// A port as the system knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    Tcp(u16),
    Udp(u16),
}

/// A port as a listener says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum At {
    Tcp(u16),
    /// The name in the client's first message decides.
    Tls(u16),
    Udp(u16),
}

impl At {
    pub(crate) fn place(self) -> Place {
        match self {
            Self::Tcp(port) | Self::Tls(port) => Place::Tcp(port),
            Self::Udp(port) => Place::Udp(port),
        }
    }
}

/// A route and its doors.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StreamRoute {
    /// `TCPRoute NAMESPACE/NAME`.
    pub(crate) name: String,
    pub(crate) annotations: BTreeMap<String, String>,
    /// With the names there, `*.` at the start included; the empty one stands for all.
    pub(crate) doors: Vec<(At, String)>,
    pub(crate) targets: Vec<StreamTarget>,
}

/// A part of a route's connections.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StreamTarget {
    pub(crate) weight: u32,
    /// A Service and its port's name and number, or why there is none.
    pub(crate) to: Result<(Key, Option<String>, i32), String>,
}

/// What there is to say of listeners and routes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StreamReports {
    /// By namespace, Gateway and listener.
    listeners: HashMap<(String, String, String), ListenerReport>,
    routes: Vec<RouteReport>,
}

impl Reports {
    /// These, with what `streams` say of their listeners and routes.
    pub(in crate::l7) fn with(mut self, mut streams: StreamReports) -> Self {
        for gateway in &mut self.gateways {
            let mut changed = false;
            for listener in &mut gateway.listeners {
                let key = (gateway.namespace.clone(), gateway.name.clone(), listener.name.clone());
                if let Some(said) = streams.listeners.remove(&key) {
                    *listener = said;
                    changed = true;
                }
            }
            if changed {
                gateway.conditions = of_listeners(&gateway.listeners);
            }
        }
        self.routes.append(&mut streams.routes);
        self
    }
}

/// The routes that have a door, and what there is to say; `refused` are ports that the system did
/// not give us, and why.
pub(crate) fn stream_routes(
    world: &World,
    scope: &Scope,
    refused: &BTreeMap<Place, String>,
) -> (Vec<StreamRoute>, StreamReports) {
    let asks = |gateway: &std::sync::Arc<Lenient<Gateway>>| {
        let gateway = gateway.object.as_ref().ok();
        let mut listeners = gateway.iter().flat_map(|gateway| &gateway.spec.listeners);
        listeners.any(|one| matches!(one.protocol.as_str(), "TCP" | "UDP" | "TLS"))
    };
    let no_routes = world.tcp.is_empty() && world.udp.is_empty() && world.tls.is_empty();
    if no_routes && !world.gateways.values().any(asks) {
        return Default::default();
    }
    let mut planning = Planning::new(world, scope, refused);
    planning.all("TCPRoute", world.tcp.values(), |route| Spec {
        parents: &route.spec.parent_refs,
        hosts: &[],
        rules: &route.spec.rules,
    });
    planning.all("UDPRoute", world.udp.values(), |route| Spec {
        parents: &route.spec.parent_refs,
        hosts: &[],
        rules: &route.spec.rules,
    });
    planning.all("TLSRoute", world.tls.values(), |route| Spec {
        parents: &route.spec.parent_refs,
        hosts: &route.spec.hostnames,
        rules: &route.spec.rules,
    });
    planning.finish()
}

/// What the three kinds have in common.
struct Spec<'a> {
    parents: &'a [ParentRef],
    hosts: &'a [String],
    rules: &'a [StreamRule],
}

struct Planning<'a> {
    world: &'a World,
    grants: Grants,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Every listener of every Gateway of ours, those of HTTP too: routes name them.
    listeners: Vec<Listening>,
    /// Where they are open.
    at: Vec<Option<At>>,
    /// What there is to say of those that are no HTTP's, by their index.
    found: BTreeMap<usize, Vec<Found>>,
    /// Who has a door.
    taken: HashMap<(At, String), String>,
    routes: Vec<StreamRoute>,
    reports: Vec<RouteReport>,
}

impl<'a> Planning<'a> {
    fn new(world: &'a World, scope: &Scope, refused: &BTreeMap<Place, String>) -> Self {
        let classes = world.gateway_classes.values().filter(|class| {
            class.object.as_ref().is_ok_and(|class| class.spec.controller_name == CONTROLLER)
        });
        let classes: Vec<String> = classes.map(|class| class.name_any()).collect();
        let gateways = world.gateways.values().filter_map(|one| one.object.as_ref().ok());
        let is_ours = |gateway: &&Gateway| classes.contains(&gateway.spec.gateway_class_name);
        let mut gateways: Vec<&Gateway> = gateways.map(AsRef::as_ref).filter(is_ours).collect();
        gateways.sort_by_cached_key(|gateway| age(*gateway));
        let namespaces = world.namespaces.values();
        let mut planning = Self {
            world,
            grants: Grants::new(world),
            namespaces: namespaces.map(|one| (one.name_any(), one.labels().clone())).collect(),
            listeners: Vec::new(),
            at: Vec::new(),
            found: BTreeMap::new(),
            taken: HashMap::new(),
            routes: Vec::new(),
            reports: Vec::new(),
        };
        for gateway in gateways {
            for listener in &gateway.spec.listeners {
                planning.listener(gateway, listener, scope, refused);
            }
        }
        planning
    }

    fn listener(
        &mut self,
        gateway: &Gateway,
        listener: &Listener,
        scope: &Scope,
        refused: &BTreeMap<Place, String>,
    ) {
        let port = u16::try_from(listener.port).unwrap_or_default();
        let (kinds, mut resolved) = kinds(listener);
        let passes = listener.tls.as_ref().and_then(|tls| tls.mode.as_deref());
        let at = match listener.protocol.as_str() {
            "TCP" => Some(Ok(At::Tcp(port))),
            "UDP" => Some(Ok(At::Udp(port))),
            "TLS" if passes == Some("Passthrough") => Some(Ok(At::Tls(port))),
            "TLS" => {
                let message = "TLS is passed through here (tls.mode: Passthrough), and ended by \
                    listeners of HTTPS";
                Some(Err(Found::not("Accepted", "UnsupportedProtocol", message)))
            }
            _ => None,
        };
        let host = listener.hostname.as_ref().map(|host| host.to_ascii_lowercase());
        let index = self.listeners.len();
        self.listeners.push(Listening {
            namespace: gateway.namespace().unwrap_or_default(),
            gateway: gateway.name_any(),
            name: listener.name.clone(),
            host: host.filter(|_| listener.protocol == "TLS"),
            port: listener.port,
            door: None,
            kinds,
            from: from(listener),
            attached: 0,
        });
        self.at.push(None);
        let Some(at) = at else { return };
        let at = at.and_then(|at| self.free(at, index, scope, refused));
        let conflict = conflict(gateway, listener);
        let works = at.is_ok() && resolved.is_so && conflict.is_none();
        let programmed = if works {
            Found::so("Programmed")
        } else {
            Found::not("Programmed", "Invalid", "see the other conditions")
        };
        let no_conflict = Found { reason: "NoConflicts", ..Found::not("Conflicted", "", "") };
        if resolved.is_so {
            resolved = Found::so("ResolvedRefs");
        }
        self.at[index] = at.as_ref().ok().copied().filter(|_| works);
        let accepted = at.err().unwrap_or(Found::so("Accepted"));
        let found = vec![accepted, conflict.unwrap_or(no_conflict), resolved, programmed];
        self.found.insert(index, found);
    }

    /// `at`, unless somebody else has its port.
    fn free(
        &self,
        at: At,
        index: usize,
        scope: &Scope,
        refused: &BTreeMap<Place, String>,
    ) -> Result<At, Found> {
        let unavailable = |why: String| Err(Found::not("Accepted", "PortUnavailable", why));
        if let Place::Tcp(port) = at.place()
            && (port == scope.http_port || port == scope.https_port)
        {
            return unavailable(format!("this balancer speaks HTTP at port {port}"));
        }
        if let Some(why) = refused.get(&at.place()) {
            return unavailable(format!("the port is not to be had: {why}"));
        }
        // A port of TLS may be several Gateways': names tell them apart.
        let other = self.at.iter().position(|known| {
            known.is_some_and(|known| {
                known.place() == at.place() && !matches!((known, at), (At::Tls(_), At::Tls(_)))
            })
        });
        let name = |index: usize| {
            let of: &Listening = &self.listeners[index];
            format!("{}/{}", of.namespace, of.gateway)
        };
        match other.map(name) {
            Some(other) if other != name(index) => {
                unavailable(format!("Gateway {other}, which is older, has the port"))
            }
            _ => Ok(at),
        }
    }

    /// Adds the routes of a kind, the oldest first.
    fn all<'r, K: 'static>(
        &mut self,
        kind: &'static str,
        routes: impl Iterator<Item = &'r std::sync::Arc<Lenient<K>>>,
        spec: impl for<'k> Fn(&'k K) -> Spec<'k>,
    ) {
        let mut routes: Vec<(Age, &Lenient<K>)> =
            routes.map(|route| (age(route.as_ref()), route.as_ref())).collect();
        routes.sort_by(|(one, _), (two, _)| one.cmp(two));
        for (_, route) in routes {
            match &route.object {
                Ok(object) => self.route(kind, &route.metadata, &spec(object)),
                // Without its spec nobody knows whose it is: there is no parent to report to.
                Err(error) => {
                    let (namespace, name) = key_of(&route.metadata);
                    tracing::warn!(kind, namespace, name, error, "the route cannot be read");
                }
            }
        }
    }

    fn route(&mut self, kind: &'static str, metadata: &ObjectMeta, spec: &Spec<'_>) {
        let (namespace, name) = key_of(metadata);
        let full = format!("{kind} {namespace}/{name}");
        let attaching = Attaching { kind, namespace: &namespace, hosts: spec.hosts };
        let targets = self.targets(kind, &namespace, spec.rules);
        let mut doors = Vec::new();
        let mut parents = Vec::new();
        for parent in spec.parents {
            let attached = attach(attaching, parent, &self.listeners, &self.namespaces);
            let Some(attached) = attached else { continue };
            let refs = targets.as_ref().map_or(Found::so("ResolvedRefs"), |(_, refs)| refs.clone());
            let accepted = match (attached, &targets) {
                (Err(found), _) => found,
                (_, Err(why)) => Found::not("Accepted", "UnsupportedValue", why.as_str()),
                (Ok(attached), Ok(_)) => self.take(&full, attached, &mut doors),
            };
            parents.push((parent.clone(), vec![accepted, refs]));
        }
        if parents.is_empty() {
            return;
        }
        let generation = metadata.generation;
        let said = (namespace, name);
        self.reports.push(RouteReport {
            kind,
            namespace: said.0,
            name: said.1,
            generation,
            parents,
        });
        if let (false, Ok((targets, _))) = (doors.is_empty(), targets) {
            let annotations = metadata.annotations.clone().unwrap_or_default();
            self.routes.push(StreamRoute { name: full, annotations, doors, targets });
        }
    }

    /// Takes the doors that are free; not accepted when none is.
    fn take(
        &mut self,
        route: &str,
        attached: Vec<(usize, Vec<String>)>,
        doors: &mut Vec<(At, String)>,
    ) -> Found {
        let (mut had, mut other) = (false, None);
        for (index, hosts) in attached {
            let mut here = false;
            for host in hosts {
                // A listener that does not work takes routes all the same: it may yet.
                let Some(at) = self.at[index] else {
                    here = true;
                    continue;
                };
                if self.is_shadowed(index, at, &host) {
                    continue;
                }
                let owner = self.taken.entry((at, host.clone())).or_insert_with(|| route.into());
                if owner != route {
                    other = Some(owner.clone());
                    continue;
                }
                here = true;
                if !doors.contains(&(at, host.clone())) {
                    doors.push((at, host));
                }
            }
            had |= here;
            self.listeners[index].attached += usize::from(here);
        }
        match other {
            Some(other) if !had => {
                Found::not("Accepted", "Conflicted", format!("{other}, which is older, has it"))
            }
            _ => Found::so("Accepted"),
        }
    }

    /// Whether another listener of the same port is nearer to `host`: then it alone answers there.
    fn is_shadowed(&self, index: usize, at: At, host: &str) -> bool {
        let narrow = |host: &str| host.len() + if host.starts_with('*') { 0 } else { 1000 };
        let own = self.listeners[index].host.as_deref().map_or(0, narrow);
        self.listeners.iter().zip(&self.at).any(|(other, there)| {
            let theirs = other.host.as_deref().filter(|_| *there == Some(at));
            theirs.is_some_and(|theirs| covers(theirs, host) && narrow(theirs) > own)
        })
    }

    /// Where a route's connections go, and whether all of that is there.
    fn targets(
        &self,
        kind: &'static str,
        namespace: &str,
        rules: &[StreamRule],
    ) -> Result<(Vec<StreamTarget>, Found), String> {
        let [rule] = rules else {
            return Err(format!("a {kind} has one rule, this one {}", rules.len()));
        };
        let mut refs = Found::so("ResolvedRefs");
        let mut targets = Vec::new();
        for backend in &rule.backend_refs {
            let weight = u32::try_from(backend.weight.unwrap_or(1))
                .map_err(|_| "a weight is below 0".to_owned())?;
            let to = self.target(kind, namespace, backend).map_err(|found| {
                let why = found.message.clone();
                if refs.is_so {
                    refs = found;
                }
                why
            });
            targets.push(StreamTarget { weight, to });
        }
        Ok((targets, refs))
    }

    fn target(
        &self,
        kind: &'static str,
        from: &str,
        WeightedBackend { target, .. }: &WeightedBackend,
    ) -> Result<(Key, Option<String>, i32), Found> {
        let wrong = |reason, message: String| Err(Found::not("ResolvedRefs", reason, message));
        let namespace = target.namespace.as_deref().unwrap_or(from);
        let key = (namespace.to_owned(), target.name.clone());
        let full = format!("{namespace}/{}", target.name);
        let is_service = target.group.as_deref().unwrap_or_default().is_empty()
            && target.kind.as_deref().unwrap_or("Service") == "Service";
        if !is_service {
            return wrong("InvalidKind", format!("{full} is no Service"));
        }
        let to = ("", "Service", namespace, target.name.as_str());
        if !self.grants.allow(kind, from, to) {
            return wrong("RefNotPermitted", format!("no ReferenceGrant for Service {full}"));
        }
        let Some(port) = target.port else {
            return wrong("InvalidKind", format!("no port of Service {full} is named"));
        };
        let Some(service) = self.world.services.get(&key) else {
            return wrong("BackendNotFound", format!("there is no Service {full}"));
        };
        let protocol = if kind == "UDPRoute" { "UDP" } else { "TCP" };
        let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref());
        let is_it = |one: &&ServicePort| {
            one.port == port && one.protocol.as_deref().unwrap_or("TCP") == protocol
        };
        match ports.unwrap_or_default().iter().find(is_it) {
            Some(found) => Ok((key, found.name.clone(), port)),
            None => {
                wrong("BackendNotFound", format!("Service {full} has no {protocol} port {port}"))
            }
        }
    }

    fn finish(self) -> (Vec<StreamRoute>, StreamReports) {
        let Self { listeners, found, routes, reports, .. } = self;
        let reported = found.into_iter().map(|(index, conditions)| {
            let at = &listeners[index];
            let kind =
                |kind: &String| RouteKind { group: Some(GROUP.to_owned()), kind: kind.clone() };
            let key = (at.namespace.clone(), at.gateway.clone(), at.name.clone());
            let kinds = at.kinds.iter().map(kind).collect();
            let (name, attached) = (at.name.clone(), at.attached);
            (key, ListenerReport { name, kinds, attached, conditions })
        });
        let listeners = reported.collect();
        (routes, StreamReports { listeners, routes: reports })
    }
}

fn key_of(metadata: &ObjectMeta) -> Key {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests;
