//! The names of all clusters together, kept up to date Service by Service.
//!
//! All names below `SERVICE.NAMESPACE.svc.DOMAIN` come of one Service and its slices, in however
//! many clusters; so a change makes those names anew and no others. What several Services have a
//! part in is counted: the names between (`NAMESPACE.svc.DOMAIN`), and the reverse names, since
//! Services may share endpoints.
//!
//! Section numbers are those of Kubernetes DNS-Based Service Discovery 1.1.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use super::roots::Roots;
use super::rrset::{RrSet, octets, soa, srv, txt};
use super::table::Sharded;
use super::{Node, Place, Policies, TTL, Tables, Zone, kind_of, order};
use crate::facts::{Addressing, Facts, ServiceFacts, SliceFacts, ZoneText};
use crate::name::{self, Domain};
use crate::query::kind;

/// The specification that the names follow (§2.2).
const VERSION: &str = "1.1.0";
/// SRV weight of a Service's only target (§2.3.2).
const WEIGHT: u16 = 100;
/// The Service whose addresses `ns.dns.DOMAIN` has.
const OWN: &str = "kube-system/kube-dns";

/// One object that came, changed or went (`None`), by `namespace/name`.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Service(String, Option<ServiceFacts>),
    Slice(String, Option<SliceFacts>),
    /// All that there are: what is not among them went.
    Services(BTreeMap<String, ServiceFacts>),
    /// The same of slices.
    Slices(BTreeMap<String, SliceFacts>),
}

/// What each cluster has, and the names made of it.
#[derive(Debug)]
pub(crate) struct Clusters {
    domains: Vec<Domain>,
    roots: Arc<Roots>,
    policies: Policies,
    clusters: Vec<Cluster>,
    /// By `namespace/name` of their Service.
    made: HashMap<String, Made>,
    namespaces: HashMap<String, usize>,
    /// By reverse name, which Services lead there: their hosts, and the cluster's site.
    reverse: HashMap<Vec<u8>, BTreeMap<String, Hosts>>,
    names: Sharded,
    /// The sum of all Services' hashes: whoever knows the same says the same serial, whichever
    /// process it is and in whichever order it came to know it.
    serial: u32,
}

#[derive(Debug, Default)]
struct Cluster {
    facts: Facts,
    site: u8,
    /// Keys of slices by key of their Service.
    slices: HashMap<String, BTreeSet<String>>,
}

/// Names that an address leads to, with the site of the cluster that says so.
type Hosts = Vec<(Vec<u8>, u8)>;

/// What was made of one Service.
#[derive(Debug, Default)]
struct Made {
    names: Vec<Vec<u8>>,
    reverse: Vec<Vec<u8>>,
    serial: u32,
}

/// Names that changed, in lower-case wire form; no node where one went.
type Changed = BTreeMap<Vec<u8>, Option<Node>>;

impl Clusters {
    /// Of these domains; what each cluster is known to have, and its site.
    pub(crate) fn new(domains: Vec<Domain>, policies: Policies, known: Vec<(Facts, u8)>) -> Self {
        let domains = if known.is_empty() { vec![] } else { domains };
        let mut roots = Roots::default();
        for (domain, number) in domains.iter().zip(0..) {
            roots.add(domain.wire(), number);
        }
        let mut all = Self {
            domains,
            roots: Arc::new(roots),
            policies,
            clusters: known
                .iter()
                .map(|(_, site)| Cluster { site: *site, ..Cluster::default() })
                .collect(),
            made: HashMap::new(),
            namespaces: HashMap::new(),
            reverse: HashMap::new(),
            names: Sharded::default(),
            serial: 0,
        };
        let mut touched = BTreeSet::from([OWN.to_owned()]);
        for ((facts, _), number) in known.into_iter().zip(0..) {
            all.clusters[number].facts.zones = facts.zones;
            let services =
                facts.services.into_iter().map(|(key, one)| Change::Service(key, Some(one)));
            let slices = facts.slices.into_iter().map(|(key, one)| Change::Slice(key, Some(one)));
            services.chain(slices).for_each(|change| all.note(number, change, &mut touched));
        }
        all.make(touched);
        all
    }

    /// Takes changes of the cluster of that number in; whether any name may have changed.
    pub(crate) fn apply(&mut self, number: usize, changes: Vec<Change>) -> bool {
        let mut touched = BTreeSet::new();
        for change in changes {
            self.note(number, change, &mut touched);
        }
        let any = !touched.is_empty();
        if any {
            self.make(touched);
        }
        any
    }

    /// What the cluster of that number is known to have.
    pub(crate) fn facts(&self, number: usize) -> Option<&Facts> {
        self.clusters.get(number).map(|cluster| &cluster.facts)
    }

    /// Makes all names anew, under other policies and with clusters at other sites.
    pub(crate) fn configure(&mut self, policies: Policies, sites: &[u8]) -> bool {
        let before: Vec<u8> = self.clusters.iter().map(|cluster| cluster.site).collect();
        if self.policies == policies && before == sites {
            return false;
        }
        self.policies = policies;
        for (cluster, site) in self.clusters.iter_mut().zip(sites) {
            cluster.site = *site;
        }
        self.make(self.made.keys().cloned().collect());
        true
    }

    /// Keeps the text of a zone that is in force, or forgets it, for the next start.
    pub(crate) fn keep(&mut self, number: usize, key: &str, zone: Option<ZoneText>) {
        let Some(cluster) = self.clusters.get_mut(number) else { return };
        match zone {
            Some(zone) => cluster.facts.zones.insert(key.to_owned(), zone),
            None => cluster.facts.zones.remove(key),
        };
    }

    /// The table of now; `None` where no cluster is followed.
    pub(super) fn zone(&self) -> Option<(Zone, &Arc<Roots>)> {
        if self.domains.is_empty() {
            return None;
        }
        let authorities = self
            .domains
            .iter()
            .map(|domain| RrSet::owned(domain.wire(), kind::SOA, TTL, &self.authority(domain)));
        let names = Tables::Sharded(self.names.clone());
        Some((Zone { names, authorities: authorities.collect() }, &self.roots))
    }

    /// Keeps what is known, and says which Services it touches.
    fn note(&mut self, number: usize, change: Change, touched: &mut BTreeSet<String>) {
        let Some(cluster) = self.clusters.get_mut(number) else { return };
        match change {
            Change::Services(all) => {
                let known = cluster.facts.services.keys();
                let gone: Vec<_> = known.filter(|key| !all.contains_key(*key)).cloned().collect();
                let gone = gone.into_iter().map(|key| Change::Service(key, None));
                let there = all.into_iter().map(|(key, one)| Change::Service(key, Some(one)));
                gone.chain(there).for_each(|change| self.note(number, change, touched));
            }
            Change::Slices(all) => {
                let known = cluster.facts.slices.keys();
                let gone: Vec<_> = known.filter(|key| !all.contains_key(*key)).cloned().collect();
                let gone = gone.into_iter().map(|key| Change::Slice(key, None));
                let there = all.into_iter().map(|(key, one)| Change::Slice(key, Some(one)));
                gone.chain(there).for_each(|change| self.note(number, change, touched));
            }
            Change::Service(key, after) => {
                let services = &mut cluster.facts.services;
                if services.get(&key) != after.as_ref() {
                    match after {
                        Some(service) => services.insert(key.clone(), service),
                        None => services.remove(&key),
                    };
                    touched.insert(key);
                }
            }
            Change::Slice(key, after) => {
                let before = cluster.facts.slices.get(&key);
                if before == after.as_ref() {
                    return;
                }
                if let Some(before) = before {
                    let service = before.service_key();
                    if let Some(keys) = cluster.slices.get_mut(&service) {
                        keys.remove(&key);
                        if keys.is_empty() {
                            cluster.slices.remove(&service);
                        }
                    }
                    touched.insert(service);
                }
                match after {
                    Some(slice) => {
                        let service = slice.service_key();
                        cluster.slices.entry(service.clone()).or_default().insert(key.clone());
                        touched.insert(service);
                        cluster.facts.slices.insert(key, slice);
                    }
                    None => drop(cluster.facts.slices.remove(&key)),
                }
            }
        }
    }

    /// Makes the names of these Services anew.
    fn make(&mut self, touched: BTreeSet<String>) {
        let mut changed = Changed::new();
        let mut reverse = BTreeSet::new();
        for key in touched {
            self.service(key, &mut changed, &mut reverse);
        }
        for name in reverse {
            self.reversed(name, &mut changed);
        }
        // The serial stands there.
        for number in 0..self.domains.len() {
            self.apex(number, &mut changed);
        }
        for (name, node) in &mut changed {
            if let (Some(wanted), Some(node)) = (self.policies.get(name), node) {
                order(node, wanted);
            }
        }
        self.names = self.names.with(changed.into_iter().collect());
    }

    fn service(&mut self, key: String, changed: &mut Changed, reverse: &mut BTreeSet<Vec<u8>>) {
        let mut fragment = Fragment::default();
        let mut hasher = DefaultHasher::new();
        let mut exists = false;
        for cluster in &self.clusters {
            let Some(service) = cluster.facts.services.get(&key) else { continue };
            exists = true;
            let keys = cluster.slices.get(&key);
            let slices: Vec<&SliceFacts> = keys
                .into_iter()
                .flatten()
                .filter_map(|key| cluster.facts.slices.get(key))
                .collect();
            (cluster.site, service, &slices).hash(&mut hasher);
            for (domain, number) in self.domains.iter().zip(0..) {
                let mut builder =
                    Builder { domain, number, site: cluster.site, made: &mut fragment };
                builder.service(service, &slices);
            }
        }
        let before = self.made.remove(&key).unwrap_or_default();
        for name in before.names {
            changed.entry(name).or_insert(None);
        }
        for name in before.reverse {
            if let Some(leads) = self.reverse.get_mut(&name) {
                leads.remove(&key);
            }
            reverse.insert(name);
        }
        self.serial = self.serial.wrapping_sub(before.serial);
        let was = before.serial != 0;
        let serial = if exists { (hasher.finish() as u32).max(1) } else { 0 };
        self.serial = self.serial.wrapping_add(serial);
        if was != exists {
            let namespace = key.split('/').next().unwrap_or_default().to_owned();
            self.namespace(namespace, exists, changed);
        }
        if !exists {
            return;
        }
        let names = fragment.names.keys().cloned().collect();
        for (name, node) in fragment.names {
            changed.insert(name, Some(node));
        }
        let led: Vec<Vec<u8>> = fragment.reverse.keys().cloned().collect();
        for (name, hosts) in fragment.reverse {
            reverse.insert(name.clone());
            self.reverse.entry(name).or_default().insert(key.clone(), hosts);
        }
        self.made.insert(key, Made { names, reverse: led, serial });
    }

    /// A name between exists as long as a Service is below it (RFC 8020).
    fn namespace(&mut self, namespace: String, more: bool, changed: &mut Changed) {
        let count = self.namespaces.entry(namespace.clone()).or_default();
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        let exists = *count > 0;
        if !exists {
            self.namespaces.remove(&namespace);
        }
        for (domain, number) in self.domains.iter().zip(0..) {
            if let Some(name) = domain.under(&[&namespace, "svc"]) {
                changed.insert(name, exists.then(|| inside(number)));
            }
        }
    }

    fn reversed(&mut self, name: Vec<u8>, changed: &mut Changed) {
        let Some(leads) = self.reverse.get(&name) else { return };
        if leads.is_empty() {
            self.reverse.remove(&name);
            changed.insert(name, None);
            return;
        }
        let mut node = Node::default();
        let set = node.set(kind::PTR);
        for (host, site) in leads.values().flatten() {
            set.push_of(TTL, host, *site);
        }
        changed.insert(name, Some(node));
    }

    fn authority(&self, domain: &Domain) -> Vec<u8> {
        let under = |labels: &[&str]| domain.under(labels).expect("the domain leaves room");
        soa(&under(&["ns", "dns"]), &under(&["hostmaster"]), self.serial)
    }

    /// What the domain of that number has of its own.
    fn apex(&self, number: usize, changed: &mut Changed) {
        let Some(domain) = self.domains.get(number) else { return };
        let zone = number as u16; // domains are few
        let under = |labels: &[&str]| domain.under(labels).expect("the domain leaves room");
        let server = under(&["ns", "dns"]);
        let mut apex = inside(zone);
        apex.set(kind::SOA).push(TTL, &self.authority(domain));
        apex.set(kind::NS).push(TTL, &server);
        changed.insert(domain.wire().to_vec(), Some(apex));
        let mut version = inside(zone);
        version.set(kind::TXT).push(TTL, &txt(VERSION));
        changed.insert(under(&["dns-version"]), Some(version));
        changed.insert(under(&["svc"]), Some(inside(zone)));
        changed.insert(under(&["pod"]), Some(Node { place: Place::Pods, ..inside(zone) }));
        let mut own = inside(zone);
        for cluster in &self.clusters {
            let kind = cluster.facts.services.get(OWN).map(|service| &service.kind);
            if let Some(Addressing::Cluster(ips)) = kind {
                for ip in ips {
                    own.set(kind_of(*ip)).push_of(TTL, &octets(*ip), 0);
                }
            }
        }
        let named = !own.sets.is_empty();
        changed.insert(server, named.then_some(own));
        changed.insert(under(&["dns"]), named.then(|| inside(zone)));
    }
}

/// A name of the domain of that number.
fn inside(zone: u16) -> Node {
    Node { zone, rooted: true, ..Node::default() }
}

/// The names of one Service.
#[derive(Debug, Default)]
struct Fragment {
    names: BTreeMap<Vec<u8>, Node>,
    reverse: BTreeMap<Vec<u8>, Hosts>,
}

struct Builder<'a> {
    domain: &'a Domain,
    number: u16,
    site: u8,
    made: &'a mut Fragment,
}

impl Builder<'_> {
    fn service(&mut self, service: &ServiceFacts, slices: &[&SliceFacts]) {
        let labels = [service.name.as_str(), &service.namespace, "svc"];
        let Some(name) = self.domain.under(&labels) else { return };
        match &service.kind {
            Addressing::Cluster(ips) => self.cluster(service, &name, ips),
            Addressing::Headless => self.headless(service, &name, slices),
            Addressing::External(target) => {
                // §2.5; two clusters may disagree, an alias has one target.
                let known = self.node(&name, &name).set(kind::CNAME).len() > 0;
                if let Some(target) = name::encode(target).filter(|_| !known) {
                    self.add(&name, &name, kind::CNAME, &target);
                }
            }
        }
        if let Some(wanted) = &service.policy
            && let Some(node) = self.made.names.get_mut(&name)
        {
            order(node, wanted);
        }
    }

    /// §2.3: a Service with addresses of its own.
    fn cluster(&mut self, service: &ServiceFacts, name: &[u8], ips: &[IpAddr]) {
        for ip in ips {
            self.add(name, name, kind_of(*ip), &octets(*ip));
            self.lead(*ip, name);
        }
        for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
            if let Some(owner) = self.port_name(service, &port.name, &port.protocol) {
                self.add(name, &owner, kind::SRV, &srv(WEIGHT, port.number, name));
                self.assist(name, &owner, name, ips);
            }
        }
    }

    /// §2.4: a Service that is its endpoints.
    fn headless(&mut self, service: &ServiceFacts, name: &[u8], slices: &[&SliceFacts]) {
        for slice in slices {
            for endpoint in &slice.endpoints {
                for ip in &endpoint.addresses {
                    let host = endpoint.hostname.clone().unwrap_or_else(|| dashes(*ip));
                    let labels = [host.as_str(), &service.name, &service.namespace, "svc"];
                    let Some(host) = self.domain.under(&labels) else { continue };
                    self.add(name, name, kind_of(*ip), &octets(*ip));
                    self.add(name, &host, kind_of(*ip), &octets(*ip));
                    self.lead(*ip, &host);
                    for port in slice.ports.iter().filter(|port| !port.name.is_empty()) {
                        if let Some(owner) = self.port_name(service, &port.name, &port.protocol) {
                            self.add(name, &owner, kind::SRV, &srv(WEIGHT, port.number, &host));
                            self.assist(name, &owner, &host, &[*ip]);
                        }
                    }
                }
            }
        }
    }

    fn port_name(&self, service: &ServiceFacts, port: &str, protocol: &str) -> Option<Vec<u8>> {
        let (port, protocol) = (format!("_{port}"), format!("_{protocol}"));
        self.domain.under(&[&port, &protocol, &service.name, &service.namespace, "svc"])
    }

    /// The node of `name`, with all between it and its Service's name.
    fn node(&mut self, service: &[u8], name: &[u8]) -> &mut Node {
        if !self.made.names.contains_key(name) {
            let mut at = 0;
            while name.len() - at >= service.len() {
                let zone = self.number;
                self.made.names.entry(name[at..].to_vec()).or_insert_with(|| inside(zone));
                at += usize::from(name[at]) + 1;
            }
        }
        self.made.names.entry(name.to_vec()).or_default()
    }

    fn add(&mut self, service: &[u8], name: &[u8], kind: u16, data: &[u8]) {
        let site = self.site;
        self.node(service, name).set(kind).push_of(TTL, data, site);
    }

    /// Lets the address's reverse name lead to `host`.
    fn lead(&mut self, ip: IpAddr, host: &[u8]) {
        let hosts = self.made.reverse.entry(name::reverse(ip)).or_default();
        hosts.push((host.to_vec(), self.site));
    }

    /// Adds the addresses of an SRV target to the answer.
    fn assist(&mut self, service: &[u8], owner: &[u8], target: &[u8], ips: &[IpAddr]) {
        let set = self.node(service, owner).set(kind::SRV);
        for ip in ips {
            set.push_additional(target, TTL, *ip);
        }
    }
}

/// The host name of an endpoint that has none.
fn dashes(ip: IpAddr) -> String {
    let dashed = ip.to_string().replace(['.', ':'], "-");
    // A label must not begin or end with a dash.
    let front = if dashed.starts_with('-') { "0" } else { "" };
    let back = if dashed.ends_with('-') { "0" } else { "" };
    format!("{front}{dashed}{back}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asked::Asked;
    use crate::facts::EndpointFacts;
    use crate::zone::{Found, Layers};

    fn service(name: &str, kind: Addressing) -> Change {
        let facts = ServiceFacts {
            namespace: "default".into(),
            name: name.into(),
            kind,
            ports: vec![],
            policy: None,
        };
        Change::Service(format!("default/{name}"), Some(facts))
    }

    fn slice(name: &str, service: &str, ips: &[[u8; 4]]) -> Change {
        let endpoint =
            |ip: &[u8; 4]| EndpointFacts { addresses: vec![(*ip).into()], hostname: None };
        let facts = SliceFacts {
            namespace: "default".into(),
            service: service.into(),
            ports: vec![],
            endpoints: ips.iter().map(endpoint).collect(),
        };
        Change::Slice(format!("default/{name}"), Some(facts))
    }

    fn all() -> Clusters {
        let domains = vec![Domain::parse("cluster.local").expect("a domain")];
        Clusters::new(domains, Policies::new(), vec![(Facts::default(), 0), (Facts::default(), 0)])
    }

    /// All names with their records, as text.
    fn written(clusters: &Clusters) -> BTreeMap<String, Vec<String>> {
        let entries = clusters.names.entries();
        let apex = clusters.domains[0].wire();
        let shown = |(name, sets): (&[u8], Vec<String>)| (name::text(name), sets);
        entries.filter(|(name, _)| *name != apex).map(shown).collect()
    }

    #[test]
    fn changes_in_any_order_come_to_the_same_names_as_all_at_once() {
        let changes = [
            (0, service("web", Addressing::Cluster(vec![[10, 43, 0, 9].into()]))),
            (1, service("web", Addressing::Cluster(vec![[10, 44, 0, 9].into()]))),
            (0, service("db", Addressing::Headless)),
            (0, slice("db-1", "db", &[[10, 42, 0, 5], [10, 42, 0, 6]])),
            (0, service("twin", Addressing::Headless)),
            (0, slice("twin-1", "twin", &[[10, 42, 0, 5]])),
        ];
        let mut forth = all();
        changes
            .iter()
            .for_each(|(number, change)| assert!(forth.apply(*number, vec![change.clone()])));
        let mut back = all();
        for (number, change) in changes.iter().rev() {
            back.apply(*number, vec![change.clone()]);
        }
        assert_eq!(written(&forth), written(&back));
        assert_eq!(forth.serial, back.serial);
        // A way round that ends where it began.
        let (names, serial) = (written(&forth), forth.serial);
        forth.apply(0, vec![slice("db-1", "db", &[[10, 42, 0, 6]])]);
        assert_ne!(forth.serial, serial);
        let gone = name::encode("10-42-0-5.db.default.svc.cluster.local").expect("a name");
        assert!(!written(&forth).contains_key(&name::text(&gone)));
        let twin = &written(&forth)["5.0.42.10.in-addr.arpa."];
        assert_eq!(twin.len(), 1, "one Service still leads there: {twin:?}");
        forth.apply(0, vec![slice("db-1", "db", &[[10, 42, 0, 5], [10, 42, 0, 6]])]);
        assert_eq!((written(&forth), forth.serial), (names, serial));
    }

    #[test]
    fn what_goes_leaves_nothing_behind() {
        let mut clusters = all();
        let (before, serial) = (written(&clusters), clusters.serial);
        clusters.apply(0, vec![service("db", Addressing::Headless)]);
        clusters.apply(0, vec![slice("db-1", "db", &[[10, 42, 0, 5]])]);
        assert!(written(&clusters).contains_key("default.svc.cluster.local."));
        clusters.apply(0, vec![Change::Service("default/db".into(), None)]);
        clusters.apply(0, vec![Change::Slice("default/db-1".into(), None)]);
        assert_eq!((written(&clusters), clusters.serial), (before, serial));
        assert!(!clusters.apply(0, vec![Change::Slice("default/db-1".into(), None)]));
    }

    #[test]
    fn a_reader_of_before_sees_what_was() {
        let mut clusters = all();
        clusters.apply(0, vec![service("web", Addressing::Cluster(vec![[10, 43, 0, 9].into()]))]);
        let before = Layers::default().with_clusters(&clusters);
        clusters.apply(0, vec![Change::Service("default/web".into(), None)]);
        let after = before.clone().with_clusters(&clusters);
        let asked = Asked::of(&name::encode("web.default.svc.cluster.local").expect("a name"));
        assert!(matches!(before.find(&asked, kind::A), Found::Records(_)));
        assert!(matches!(after.find(&asked, kind::A), Found::NoName(_)));
    }
}
