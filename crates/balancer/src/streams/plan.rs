//! From Services, or routes of Gateways, to doors: which ports are open, and who is behind them.
//! Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use kube::ResourceExt;

use crate::l7::clusters::{Backends, PortWanted};
use crate::l7::pick::{BackendSet, Sets};
use crate::l7::{At, Place, StreamRoute, World};
use crate::proxy_protocol::Version;

const LISTEN: &str = "berth.dev/listen";
const SNI: &str = "berth.dev/sni";
const PROXY_PROTOCOL: &str = "berth.dev/proxy-protocol";
const IDLE: &str = "berth.dev/idle-timeout";
const MAX_CONNECTIONS: &str = "berth.dev/max-connections";

/// Everything that is served.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) tcp: BTreeMap<u16, TcpDoor>,
    pub(crate) udp: BTreeMap<u16, UdpDoor>,
    sets: Sets,
    /// Open connections of each Service or route, carried on from plan to plan.
    open: HashMap<String, Arc<AtomicUsize>>,
}

/// An open TCP port.
#[derive(Debug, Default)]
pub(crate) struct TcpDoor {
    /// Whether clients come by a proxy that says who they are.
    pub(crate) proxied: bool,
    /// Whether only TLS is spoken, whoever is behind it.
    tls: bool,
    /// Who gets everything.
    all: Option<Arc<Target>>,
    /// By the name in the hello; `*.x` under `x`.
    names: HashMap<String, Arc<Target>>,
    wildcards: HashMap<String, Wildcard>,
}

#[derive(Debug)]
struct Wildcard {
    target: Arc<Target>,
    /// Whether it stands for several labels too, as those of Gateways do.
    deep: bool,
}

/// An open UDP port.
#[derive(Debug)]
pub(crate) struct UdpDoor {
    pub(crate) target: Arc<Target>,
}

/// Who is behind a door.
#[derive(Debug)]
pub(crate) struct Target {
    /// `NAMESPACE/NAME` of a Service, or `TCPRoute NAMESPACE/NAME`.
    pub(crate) name: String,
    /// The Services' ports that share the connections, each with its weight.
    behind: Vec<(u32, Result<Arc<BackendSet>, String>)>,
    /// What endpoints are told of the client.
    pub(crate) tell: Option<Version>,
    pub(crate) idle: Option<Duration>,
    /// 0 for no limit of its own.
    max_connections: usize,
    open: Arc<AtomicUsize>,
}

/// Whether and how clients are announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Proxied {
    /// Clients come with a header.
    pub(crate) inward: bool,
    /// Endpoints are sent one.
    pub(crate) outward: Option<Version>,
}

impl TcpDoor {
    /// Whether the hello has to be read to know who is meant.
    pub(crate) fn asks_for_name(&self) -> bool {
        self.tls || !self.names.is_empty() || !self.wildcards.is_empty()
    }

    /// Who is behind `name`: as given, then by the longest wildcard, then who takes all.
    pub(crate) fn target(&self, name: Option<&str>) -> Option<&Arc<Target>> {
        let named = name.and_then(|name| self.names.get(name).or_else(|| self.wildcard(name)));
        named.or(self.all.as_ref())
    }

    fn wildcard(&self, name: &str) -> Option<&Arc<Target>> {
        let (mut rest, mut labels) = (name, 0);
        while let Some((_, domain)) = rest.split_once('.') {
            labels += 1;
            if let Some(found) = self.wildcards.get(domain)
                && (found.deep || labels == 1)
            {
                return Some(&found.target);
            }
            rest = domain;
        }
        None
    }
}

/// One connection of a Service, until it is dropped.
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Target {
    /// The Service's port that a connection goes to, by weight.
    pub(crate) fn choose(&self, random: u64) -> Result<&Arc<BackendSet>, String> {
        let all: u64 = self.behind.iter().map(|(weight, _)| u64::from(*weight)).sum();
        let mut at = random.checked_rem(all).ok_or("no backend has any weight")?;
        for (weight, set) in &self.behind {
            match at.checked_sub(u64::from(*weight)) {
                Some(rest) => at = rest,
                None => return set.as_ref().map_err(String::clone),
            }
        }
        Err("no backend has any weight".to_owned())
    }

    /// Every set of endpoints behind it, without any weight too.
    pub(crate) fn sets(&self) -> impl Iterator<Item = &Arc<BackendSet>> {
        self.behind.iter().filter_map(|(_, set)| set.as_ref().ok())
    }

    /// Counts a connection, unless the Service has as many as it may.
    pub(crate) fn enter(&self) -> Option<Counted> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(self.open.clone());
        (self.max_connections == 0 || before < self.max_connections).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Streams {
    /// Every set of endpoints: what is checked and swept.
    pub(crate) fn sets(&self) -> Vec<Arc<BackendSet>> {
        self.sets.iter().cloned().collect()
    }
}

/// Whether a Service wants to be listened for.
pub(super) fn is_listened(service: &Arc<Service>) -> bool {
    service.annotations().contains_key(LISTEN)
}

/// What Services in `world` ask for by annotation; what is known of endpoints is taken over from
/// `before`.
///
/// # Guarantees
/// The order of objects does not matter. Where two Services claim a door, or a name at one, the
/// older has it (then the first by namespace and name). What cannot be read is named in the log,
/// and the rest of the annotation holds.
pub(crate) fn of_services(world: &World, before: &Streams) -> Streams {
    let mut services: Vec<_> = world.services.values().filter(|s| is_listened(s)).collect();
    services.sort_by_cached_key(|service| {
        let created = service.creation_timestamp().map(|time| time.0);
        (created, service.namespace(), service.name_any())
    });
    let mut streams = Streams::default();
    let mut backends = Backends::within(world, &before.sets);
    for service in services {
        add_service(&mut streams, service, &mut backends, before);
    }
    streams.sets = backends.finish();
    streams
}

/// What routes of Gateways ask for, which say themselves that no two claim the same.
pub(crate) fn of_routes(world: &World, routes: &[StreamRoute], before: &Streams) -> Streams {
    let mut streams = Streams::default();
    let mut backends = Backends::within(world, &before.sets);
    for route in routes {
        let said = Said::read(&route.name, &route.annotations);
        let behind = route.targets.iter().map(|target| {
            let set = target.to.clone().and_then(|((namespace, service), name, number)| {
                // Names of ports are unique, numbers with their protocol only.
                let port = name.as_deref().map_or(PortWanted::Number(number), PortWanted::Name);
                let route = (route.name.as_str(), &route.annotations);
                backends.of((&namespace, &service), port, route).map_err(|why| why.to_string())
            });
            (target.weight, set)
        });
        let behind: Vec<_> = behind.collect();
        let open = streams.count(&route.name, before);
        let target = Arc::new(said.target(behind, open));
        for (at, name) in &route.doors {
            let names: &[String] = if name.is_empty() { &[] } else { std::slice::from_ref(name) };
            let taken = match at.place() {
                Place::Udp(port) => streams.add_udp(port, &target),
                Place::Tcp(port) => {
                    let tls = matches!(at, At::Tls(_));
                    let new =
                        || TcpDoor { proxied: said.proxied.inward, tls, ..TcpDoor::default() };
                    let door = streams.tcp.entry(port).or_insert_with(new);
                    if door.proxied != said.proxied.inward {
                        said.refuse(&format!("{port}: another route decided on PROXY protocol"));
                        continue;
                    }
                    door.add(names, true, &target)
                }
            };
            if taken {
                said.refuse(&format!("{port:?} {name}: another route has it", port = at.place()));
            }
        }
    }
    streams.sets = backends.finish();
    streams
}

/// What an object's annotations say of how its connections are carried.
struct Said<'a> {
    name: &'a str,
    proxied: Proxied,
    idle: Option<Duration>,
    max_connections: usize,
}

impl<'a> Said<'a> {
    fn read(name: &'a str, annotations: &BTreeMap<String, String>) -> Self {
        let said = |key: &str| annotations.get(key).map(String::as_str).unwrap_or_default();
        let idle = said(IDLE).strip_suffix('s').and_then(|text| text.parse().ok());
        let max_connections = said(MAX_CONNECTIONS).parse().unwrap_or(0);
        let idle = idle.map(Duration::from_secs);
        let mut read = Self { name, proxied: Proxied::default(), idle, max_connections };
        match proxied(said(PROXY_PROTOCOL)) {
            Some(proxied) => read.proxied = proxied,
            None => {
                let said = said(PROXY_PROTOCOL);
                read.refuse(&format!("{PROXY_PROTOCOL} is not understood: {said:?}"));
            }
        }
        read
    }

    fn refuse(&self, why: &str) {
        tracing::warn!(of = self.name, "{why}");
    }

    fn target(
        &self,
        behind: Vec<(u32, Result<Arc<BackendSet>, String>)>,
        open: Arc<AtomicUsize>,
    ) -> Target {
        Target {
            name: self.name.to_owned(),
            behind,
            tell: self.proxied.outward,
            idle: self.idle,
            max_connections: self.max_connections,
            open,
        }
    }
}

impl Streams {
    /// The connections open of who is called `name`.
    fn count(&mut self, name: &str, before: &Self) -> Arc<AtomicUsize> {
        let known = before.open.get(name).cloned().unwrap_or_default();
        self.open.entry(name.to_owned()).or_insert(known).clone()
    }

    /// True when somebody has it.
    fn add_udp(&mut self, port: u16, target: &Arc<Target>) -> bool {
        let free = !self.udp.contains_key(&port);
        self.udp.entry(port).or_insert_with(|| UdpDoor { target: target.clone() });
        !free
    }
}

fn add_service(
    streams: &mut Streams,
    service: &Service,
    backends: &mut Backends<'_>,
    before: &Streams,
) {
    let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
    let full = format!("{namespace}/{name}");
    let text = |key: &str| service.annotations().get(key).map(String::as_str).unwrap_or_default();
    let said = Said::read(&full, service.annotations());
    let names = text(SNI).split(',').map(|name| name.trim().to_ascii_lowercase());
    let names: Vec<String> = names.filter(|name| !name.is_empty()).collect();
    let open = streams.count(&full, before);
    for word in text(LISTEN).split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let Some((kind, number, port)) = listen(word) else {
            said.refuse(&format!("{LISTEN} is not understood: {word:?}"));
            continue;
        };
        let port = with_protocol(service, port, if kind == "udp" { "UDP" } else { "TCP" });
        let set = backends.of((&namespace, &name), port, ("", &BTreeMap::new()));
        let behind = vec![(1, set.map_err(|why| why.to_string()))];
        let target = Arc::new(said.target(behind, open.clone()));
        let taken = match kind {
            "udp" => streams.add_udp(number, &target),
            kind => {
                let new = TcpDoor { proxied: said.proxied.inward, ..TcpDoor::default() };
                let door = streams.tcp.entry(number).or_insert(new);
                if door.proxied != said.proxied.inward {
                    let why = "another Service decided on PROXY protocol there";
                    said.refuse(&format!("{word}: {why}"));
                    continue;
                }
                door.add(if kind == "tls" { &names } else { &[] }, false, &target)
            }
        };
        if taken {
            said.refuse(&format!("{word}: an older Service has it"));
        }
    }
}

/// A port that is named by number, by its name: TCP and UDP may have the same number.
fn with_protocol<'a>(service: &'a Service, port: PortWanted<'a>, protocol: &str) -> PortWanted<'a> {
    let PortWanted::Number(number) = port else { return port };
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let is_it = |one: &&ServicePort| {
        one.port == number && one.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    let name = ports.clone().find(is_it).and_then(|one| one.name.as_deref());
    name.map_or(port, PortWanted::Name)
}

impl TcpDoor {
    /// True when somebody has all or part of it.
    fn add(&mut self, names: &[String], deep: bool, target: &Arc<Target>) -> bool {
        if names.is_empty() {
            let free = self.all.is_none();
            self.all.get_or_insert_with(|| target.clone());
            return !free;
        }
        let mut taken = false;
        for name in names {
            if let Some(domain) = name.strip_prefix("*.") {
                taken |= self.wildcards.contains_key(domain);
                let new = || Wildcard { target: target.clone(), deep };
                self.wildcards.entry(domain.to_owned()).or_insert_with(new);
            } else {
                taken |= self.names.contains_key(name);
                self.names.entry(name.clone()).or_insert_with(|| target.clone());
            }
        }
        taken
    }
}

/// `tcp/3306=mysql`, `udp/53` (the port of the same number), `tls/8443=443`.
fn listen(word: &str) -> Option<(&str, u16, PortWanted<'_>)> {
    let (kind, rest) = word.split_once('/')?;
    let (number, port) = rest.split_once('=').unwrap_or((rest, rest));
    let number: u16 = number.parse().ok().filter(|number| *number > 0)?;
    let port = match port.parse() {
        Ok(number) => PortWanted::Number(number),
        Err(_) if port.is_empty() => return None,
        Err(_) => PortWanted::Name(port),
    };
    ["tcp", "tls", "udp"].contains(&kind).then_some((kind, number, port))
}

/// `in`, `out-v1`, `out-v2`, or `in` and one of the others.
fn proxied(text: &str) -> Option<Proxied> {
    let mut proxied = Proxied::default();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match word {
            "in" => proxied.inward = true,
            "out-v1" => proxied.outward = Some(Version::One),
            "out-v2" | "out" => proxied.outward = Some(Version::Two),
            _ => return None,
        }
    }
    Some(proxied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::Snapshot;
    use serde_json::json;

    fn set(target: &Target) -> Result<&Arc<BackendSet>, String> {
        target.choose(0)
    }

    fn service(name: &str, annotations: &[(&str, &str)]) -> Arc<Service> {
        let annotations: BTreeMap<_, _> =
            annotations.iter().map(|(key, value)| (format!("berth.dev/{key}"), value)).collect();
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"namespace": "n", "name": name, "annotations": annotations},
                "spec": {"ports": [{"name": "main", "port": 3306},
                    {"name": "dns", "port": 53, "protocol": "UDP"}]},
            }))
            .unwrap(),
        )
    }

    fn planned(services: Vec<Arc<Service>>) -> Streams {
        let slice = json!({"metadata": {"namespace": "n", "name": "a-1",
                "labels": {"kubernetes.io/service-name": "a"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.42.0.2"]}],
            "ports": [{"name": "main", "port": 3306}]});
        let slices = vec![Arc::new(serde_json::from_value(slice).unwrap())];
        let snapshot = Snapshot { services, slices, ..Snapshot::default() };
        of_services(&World::from(&snapshot), &Streams::default())
    }

    #[test]
    fn services_open_their_doors() {
        let streams = planned(vec![
            service(
                "a",
                &[
                    ("listen", "tcp/13306=main, udp/53=dns, ftp/21, tcp/0"),
                    ("proxy-protocol", "in,out-v1"),
                ],
            ),
            service("b", &[("listen", "tcp/3306")]),
            service("c", &[]),
        ]);
        assert_eq!(streams.tcp.keys().copied().collect::<Vec<_>>(), [3306, 13306]);
        assert_eq!(streams.udp.keys().copied().collect::<Vec<_>>(), [53]);
        let door = &streams.tcp[&13306];
        assert!(door.proxied && !door.asks_for_name());
        let target = door.target(None).unwrap();
        assert_eq!((target.name.as_str(), target.tell), ("n/a", Some(Version::One)));
        assert!(set(target).is_ok());
        let other = streams.tcp[&3306].target(None).unwrap();
        let nobody = "none of its endpoints is ready";
        assert_eq!(set(other).unwrap_err(), nobody);
        assert_eq!(set(&streams.udp[&53].target).unwrap_err(), nobody);
        assert_eq!(streams.sets().len(), 1);
    }

    #[test]
    fn names_share_a_door_and_the_first_claim_holds() {
        let streams = planned(vec![
            service("b", &[("listen", "tls/443=main"), ("sni", "db.example, *.db.example")]),
            service("a", &[("listen", "tls/443=main"), ("sni", "A.example")]),
            service("c", &[("listen", "tls/443=main"), ("sni", "a.example")]),
            service(
                "d",
                &[("listen", "tls/443=main"), ("sni", "d.example"), ("proxy-protocol", "in")],
            ),
        ]);
        let door = &streams.tcp[&443];
        assert!(door.asks_for_name());
        let who = |name| door.target(Some(name)).map(|target| target.name.as_str());
        assert_eq!(who("a.example"), Some("n/a"));
        assert_eq!(who("db.example"), Some("n/b"));
        assert_eq!(who("one.db.example"), Some("n/b"));
        assert_eq!(who("two.one.db.example"), None);
        assert_eq!(who("d.example"), None, "one port speaks PROXY protocol or does not");
        assert_eq!(door.target(None).map(|target| &target.name), None);
    }

    #[test]
    fn a_service_has_as_many_connections_as_it_may() {
        let limited = || vec![service("a", &[("listen", "tcp/1=main"), ("max-connections", "2")])];
        let streams = planned(limited());
        let target = streams.tcp[&1].target(None).unwrap();
        let open = [target.enter().unwrap(), target.enter().unwrap()];
        assert!(target.enter().is_none());
        // The count outlives the plan.
        let snapshot = Snapshot { services: limited(), ..Snapshot::default() };
        let next = of_services(&World::from(&snapshot), &streams);
        assert!(next.tcp[&1].target(None).unwrap().enter().is_none());
        drop(open);
        assert!(next.tcp[&1].target(None).unwrap().enter().is_some());
    }
}
