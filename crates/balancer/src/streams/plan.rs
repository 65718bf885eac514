//! From Services to doors: which ports are open, and who is behind them. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;

use crate::l7::Snapshot;
use crate::l7::clusters::{Backends, NoEndpoints, PortWanted};
use crate::l7::pick::{BackendSet, Sets};
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
    /// Open connections of each Service, carried on from plan to plan.
    open: HashMap<String, Arc<AtomicUsize>>,
}

/// An open TCP port.
#[derive(Debug, Default)]
pub(crate) struct TcpDoor {
    /// Whether clients come by a proxy that says who they are.
    pub(crate) proxied: bool,
    /// Who gets everything.
    all: Option<Arc<Target>>,
    /// By the name in the hello; `*.x` under `x`.
    names: HashMap<String, Arc<Target>>,
    wildcards: HashMap<String, Arc<Target>>,
}

/// An open UDP port.
#[derive(Debug)]
pub(crate) struct UdpDoor {
    pub(crate) target: Arc<Target>,
}

/// A Service's port behind a door.
#[derive(Debug)]
pub(crate) struct Target {
    /// `NAMESPACE/NAME`.
    pub(crate) service: String,
    pub(crate) set: Result<Arc<BackendSet>, NoEndpoints>,
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
        !self.names.is_empty() || !self.wildcards.is_empty()
    }

    /// Who is behind `name`: as given, then by its wildcard one label up, then who takes all.
    pub(crate) fn target(&self, name: Option<&str>) -> Option<&Arc<Target>> {
        let wildcard = |name: &str| self.wildcards.get(name.split_once('.')?.1);
        let named = name.and_then(|name| self.names.get(name).or_else(|| wildcard(name)));
        named.or(self.all.as_ref())
    }
}

/// One connection of a Service, until it is dropped.
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Target {
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

/// What is served for `snapshot`; what is known of endpoints is taken over from `before`.
///
/// # Guarantees
/// The order of objects does not matter. Where two Services claim a door, or a name at one, the
/// older has it (then the first by namespace and name). What cannot be read is named in the log,
/// and the rest of the annotation holds.
pub(crate) fn plan(snapshot: &Snapshot, before: &Streams) -> Streams {
    let mut services: Vec<_> = snapshot.services.iter().filter(|s| is_listened(s)).collect();
    services.sort_by_cached_key(|service| {
        let created = service.creation_timestamp().map(|time| time.0);
        (created, service.namespace(), service.name_any())
    });
    let mut streams = Streams::default();
    let mut backends = Backends::new(snapshot, &before.sets);
    for service in services {
        add(&mut streams, service, &mut backends, before);
    }
    streams.sets = backends.finish();
    streams
}

fn add(streams: &mut Streams, service: &Service, backends: &mut Backends<'_>, before: &Streams) {
    let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
    let full = format!("{namespace}/{name}");
    let said = |key: &str| service.annotations().get(key).map(String::as_str).unwrap_or_default();
    let refuse = |why: String| tracing::warn!(service = full, "{why}");
    let proxied = proxied(said(PROXY_PROTOCOL)).unwrap_or_else(|| {
        refuse(format!("{PROXY_PROTOCOL} is not understood: {:?}", said(PROXY_PROTOCOL)));
        Proxied::default()
    });
    let idle = said(IDLE).strip_suffix('s').and_then(|text| text.parse().ok());
    let names = said(SNI).split(',').map(|name| name.trim().to_ascii_lowercase());
    let names: Vec<String> = names.filter(|name| !name.is_empty()).collect();
    let known = before.open.get(&full).cloned().unwrap_or_default();
    let open = streams.open.entry(full.clone()).or_insert(known).clone();
    for word in said(LISTEN).split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let Some((kind, number, port)) = listen(word) else {
            refuse(format!("{LISTEN} is not understood: {word:?}"));
            continue;
        };
        let set = backends.of((&namespace, &name), port, ("", &BTreeMap::new()));
        let target = Arc::new(Target {
            service: full.clone(),
            set,
            tell: proxied.outward,
            idle: idle.map(Duration::from_secs),
            max_connections: said(MAX_CONNECTIONS).parse().unwrap_or(0),
            open: open.clone(),
        });
        let taken = match kind {
            "udp" => {
                let free = !streams.udp.contains_key(&number);
                streams.udp.entry(number).or_insert(UdpDoor { target });
                !free
            }
            kind => {
                let new = TcpDoor { proxied: proxied.inward, ..TcpDoor::default() };
                let door = streams.tcp.entry(number).or_insert(new);
                if door.proxied != proxied.inward {
                    refuse(format!("{word}: another Service decided on PROXY protocol there"));
                    continue;
                }
                door.add(if kind == "tls" { &names } else { &[] }, &target)
            }
        };
        if taken {
            refuse(format!("{word}: an older Service has it"));
        }
    }
}

impl TcpDoor {
    /// True when somebody has all or part of it.
    fn add(&mut self, names: &[String], target: &Arc<Target>) -> bool {
        if names.is_empty() {
            let free = self.all.is_none();
            self.all.get_or_insert_with(|| target.clone());
            return !free;
        }
        let mut taken = false;
        for name in names {
            let (map, key) = match name.strip_prefix("*.") {
                Some(domain) => (&mut self.wildcards, domain),
                None => (&mut self.names, name.as_str()),
            };
            taken |= map.contains_key(key);
            map.entry(key.to_owned()).or_insert_with(|| target.clone());
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
    use serde_json::json;

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
        plan(&Snapshot { services, slices, ..Snapshot::default() }, &Streams::default())
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
        assert_eq!((target.service.as_str(), target.tell), ("n/a", Some(Version::One)));
        assert!(target.set.is_ok());
        let other = streams.tcp[&3306].target(None).unwrap();
        assert_eq!(other.set.as_ref().unwrap_err(), &NoEndpoints::NoneReady);
        assert_eq!(streams.udp[&53].target.set.as_ref().unwrap_err(), &NoEndpoints::NoneReady);
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
        let who = |name| door.target(Some(name)).map(|target| target.service.as_str());
        assert_eq!(who("a.example"), Some("n/a"));
        assert_eq!(who("db.example"), Some("n/b"));
        assert_eq!(who("one.db.example"), Some("n/b"));
        assert_eq!(who("two.one.db.example"), None);
        assert_eq!(who("d.example"), None, "one port speaks PROXY protocol or does not");
        assert_eq!(door.target(None).map(|target| &target.service), None);
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
        let next = plan(&snapshot, &streams);
        assert!(next.tcp[&1].target(None).unwrap().enter().is_none());
        drop(open);
        assert!(next.tcp[&1].target(None).unwrap().enter().is_some());
    }
}
