//! From facts and zone files to prepared answers.
//!
//! Section numbers are those of Kubernetes DNS-Based Service Discovery 1.1.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use super::file::{Line, Static};
use super::policy::{Policy, Wanted};
use super::rrset::{RrSet, octets, soa, srv, txt};
use super::{FIXED, Names, Place, Sources, TTL, Zone, kind_of};
use crate::facts::{Addressing, Facts, ServiceFacts, SliceFacts};
use crate::name::{self, Domain};
use crate::query::kind;

/// The specification that the names follow (§2.2).
const VERSION: &str = "1.1.0";
/// SRV weight of a Service's only target (§2.3.2).
const WEIGHT: u16 = 100;

/// Policies by name, in lower-case wire form.
pub(crate) type Policies = BTreeMap<Vec<u8>, Wanted>;

pub(super) fn build(sources: Sources<'_>) -> Zone {
    let records: usize = sources.zones.iter().map(|zone| zone.records.len()).sum();
    let mut names = Names::default();
    names.reserve(records);
    let mut zone = Zone { names, authorities: Vec::new() };
    // Shorter names first: a zone below another one is then found to be its own.
    let mut files: Vec<&Static> = sources.zones.iter().map(AsRef::as_ref).collect();
    files.sort_by_key(|file| file.apex.len());
    let mut hasher = DefaultHasher::new();
    // Whoever answers from the same facts says the same serial, whichever process it is.
    format!("{:?}", sources.clusters).hash(&mut hasher);
    let serial = hasher.finish() as u32;
    let mut parts: Vec<(usize, Part<'_>)> = files
        .iter()
        .map(|file| (file.apex.len(), Part::File(file)))
        .chain(sources.domains.iter().map(|domain| (domain.wire().len(), Part::Cluster(domain))))
        .collect();
    parts.sort_by_key(|(length, _)| *length);
    for (_, part) in &parts {
        match part {
            Part::File(file) => root(&mut zone, &file.apex, &file.soa, file.soa_ttl),
            Part::Cluster(domain) => {
                let under = |labels: &[&str]| domain.under(labels).expect("it leaves room");
                let authority = soa(&under(&["ns", "dns"]), &under(&["hostmaster"]), serial);
                root(&mut zone, domain.wire(), &authority, TTL);
            }
        }
    }
    for (_, part) in &parts {
        match part {
            Part::File(file) => fill(&mut zone, file),
            Part::Cluster(domain) => {
                for (facts, site) in sources.clusters {
                    Builder { domain, zone: &mut zone, site: *site }.facts(facts);
                }
                Builder { domain, zone: &mut zone, site: 0 }.apex(sources.clusters);
            }
        }
    }
    for file in files.iter().filter(|file| file.delegates) {
        cut(&mut zone, file);
    }
    for (name, wanted) in sources.policies.into_iter().flatten() {
        order(&mut zone, name, wanted);
    }
    zone
}

enum Part<'a> {
    File(&'a Static),
    Cluster(&'a Domain),
}

/// Lets a zone begin at `apex`.
fn root(zone: &mut Zone, apex: &[u8], authority: &[u8], ttl: u32) {
    let number = u16::try_from(zone.authorities.len()).unwrap_or(u16::MAX);
    // Its own minimum limits how long "there is none" may be kept (RFC 2308 §3).
    let minimum = authority.last_chunk().map_or(ttl, |bytes| u32::from_be_bytes(*bytes));
    zone.authorities.push(RrSet::owned(apex, kind::SOA, ttl.min(minimum), authority));
    let node = zone.names.entry(apex.into()).or_default();
    (node.zone, node.rooted) = (number, true);
    set(zone, apex, kind::SOA).push(ttl, authority);
}

/// Adds a zone file's records.
fn fill(zone: &mut Zone, file: &Static) {
    for record in &file.records {
        set(zone, &record.name, record.kind).push(record.ttl, &record.data);
    }
}

/// Marks what is delegated, and adds the addresses of its servers to the delegation.
fn cut(zone: &mut Zone, file: &Static) {
    let is_cut = |record: &&Line| record.kind == kind::NS && record.name != file.apex;
    let cuts: BTreeSet<&[u8]> =
        file.records.iter().filter(is_cut).map(|record| record.name.as_slice()).collect();
    for cut in &cuts {
        if let Some(node) = zone.names.get_mut(*cut) {
            node.place = Place::Cut;
        }
    }
    let mut addresses: BTreeMap<&[u8], Vec<&Line>> = BTreeMap::new();
    for record in &file.records {
        let mut above = name::parent(&record.name);
        while let Some(name) = above.filter(|name| name.len() > file.apex.len()) {
            if cuts.contains(name)
                && let Some(node) = zone.names.get_mut(&*record.name)
            {
                node.place = Place::Below;
            }
            above = name::parent(name);
        }
        if record.ip().is_some() {
            addresses.entry(&record.name).or_default().push(record);
        }
    }
    for record in file.records.iter().filter(is_cut) {
        let target = record.data.to_ascii_lowercase();
        for address in addresses.get(target.as_slice()).into_iter().flatten() {
            if let Some(ip) = address.ip() {
                set(zone, &record.name, kind::NS).push_additional(&target, address.ttl, ip);
            }
        }
    }
}

/// Puts a policy in force for the addresses, aliases and services of `name`.
fn order(zone: &mut Zone, name: &[u8], wanted: &Wanted) {
    let Some(node) = zone.names.get_mut(name) else { return };
    for set in node.sets.iter_mut().filter(|set| set.kind() != kind::SOA) {
        let weights = (0..set.len()).map(|at| {
            let text = text_of(set.kind(), &set.record(at)[FIXED..]);
            text.and_then(|text| wanted.weights.get(&text)).copied().unwrap_or(1)
        });
        let weights = weights.collect();
        set.set_policy(Policy::new(wanted, weights));
    }
}

/// An address as text; what else can be weighed is not in one form.
fn text_of(kind: u16, data: &[u8]) -> Option<String> {
    match kind {
        kind::A => <[u8; 4]>::try_from(data).ok().map(|ip| IpAddr::from(ip).to_string()),
        kind::AAAA => <[u8; 16]>::try_from(data).ok().map(|ip| IpAddr::from(ip).to_string()),
        _ => None,
    }
}

fn set<'a>(zone: &'a mut Zone, name: &[u8], kind: u16) -> &'a mut RrSet {
    grow(zone, name);
    let sets = &mut zone.names.get_mut(name).expect("it has just grown").sets;
    let at = sets.iter().position(|set| set.kind() == kind).unwrap_or_else(|| {
        sets.reserve_exact(1);
        sets.push(RrSet::new(kind));
        sets.len() - 1
    });
    &mut sets[at]
}

/// Makes the node of `name`; the names between it and its zone come into being with it (RFC 8020).
fn grow(zone: &mut Zone, name: &[u8]) {
    if zone.names.contains_key(name) {
        return;
    }
    let mut end = 0;
    let mut found = None;
    while let Some(length) = name.get(end).filter(|length| **length > 0) {
        end += usize::from(*length) + 1;
        if let Some(node) = zone.names.get(&name[end..]).filter(|node| node.rooted) {
            found = Some(node.zone);
            break;
        }
    }
    let Some(number) = found else {
        zone.names.entry(name.into()).or_default();
        return;
    };
    let mut at = 0;
    while at < end {
        let node = zone.names.entry(name[at..].into()).or_default();
        (node.zone, node.rooted) = (number, true);
        at += usize::from(name[at]) + 1;
    }
    // Only now are all that stand above a `*` there.
    let mut at = 0;
    while at < end {
        let above = at + usize::from(name[at]) + 1;
        if name[at..above] == *b"\x01*"
            && let Some(node) = zone.names.get_mut(&name[above..])
        {
            node.wild = true;
        }
        at = above;
    }
}

struct Builder<'a> {
    domain: &'a Domain,
    zone: &'a mut Zone,
    site: u8,
}

impl Builder<'_> {
    fn facts(&mut self, facts: &Facts) {
        let mut slices: BTreeMap<(&str, &str), Vec<&SliceFacts>> = BTreeMap::new();
        for slice in facts.slices.values() {
            slices.entry((&slice.namespace, &slice.service)).or_default().push(slice);
        }
        for service in facts.services.values() {
            let own = slices.get(&(service.namespace.as_str(), service.name.as_str()));
            self.service(service, own.map(Vec::as_slice).unwrap_or_default());
        }
    }

    fn service(&mut self, service: &ServiceFacts, slices: &[&SliceFacts]) {
        let labels = [service.name.as_str(), &service.namespace, "svc"];
        let Some(name) = self.domain.under(&labels) else { return };
        match &service.kind {
            Addressing::Cluster(ips) => self.cluster(service, &name, ips),
            Addressing::Headless => self.headless(service, &name, slices),
            Addressing::External(target) => {
                // §2.5; two clusters may disagree, an alias has one target.
                let known = set(self.zone, &name, kind::CNAME).len() > 0;
                if let Some(target) = name::encode(target).filter(|_| !known) {
                    self.add(&name, kind::CNAME, &target);
                }
            }
        }
        if let Some(wanted) = &service.policy {
            order(self.zone, &name, wanted);
        }
    }

    /// §2.3: a Service with addresses of its own.
    fn cluster(&mut self, service: &ServiceFacts, name: &[u8], ips: &[IpAddr]) {
        for ip in ips {
            self.add(name, kind_of(*ip), &octets(*ip));
            self.add(&name::reverse(*ip), kind::PTR, name);
        }
        for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
            if let Some(owner) = self.port_name(service, &port.name, &port.protocol) {
                self.add(&owner, kind::SRV, &srv(WEIGHT, port.number, name));
                self.assist(&owner, name, ips);
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
                    self.add(name, kind_of(*ip), &octets(*ip));
                    self.add(&host, kind_of(*ip), &octets(*ip));
                    self.add(&name::reverse(*ip), kind::PTR, &host);
                    for port in slice.ports.iter().filter(|port| !port.name.is_empty()) {
                        if let Some(owner) = self.port_name(service, &port.name, &port.protocol) {
                            self.add(&owner, kind::SRV, &srv(WEIGHT, port.number, &host));
                            self.assist(&owner, &host, &[*ip]);
                        }
                    }
                }
            }
        }
    }

    fn apex(&mut self, clusters: &[(&Facts, u8)]) {
        let domain = self.domain;
        let under = |labels: &[&str]| domain.under(labels).expect("the domain leaves room");
        let server = under(&["ns", "dns"]);
        let apex = domain.wire().to_vec();
        self.add(&apex, kind::NS, &server);
        self.add(&under(&["dns-version"]), kind::TXT, &txt(VERSION));
        for (facts, _) in clusters {
            let ours = facts.services.get("kube-system/kube-dns").map(|service| &service.kind);
            if let Some(Addressing::Cluster(ips)) = ours {
                for ip in ips {
                    self.add(&server, kind_of(*ip), &octets(*ip));
                }
            }
        }
        grow(self.zone, &under(&["svc"]));
        let pods = under(&["pod"]);
        grow(self.zone, &pods);
        self.zone.names.get_mut(&*pods).expect("it has just grown").place = Place::Pods;
    }

    fn port_name(&self, service: &ServiceFacts, port: &str, protocol: &str) -> Option<Vec<u8>> {
        let (port, protocol) = (format!("_{port}"), format!("_{protocol}"));
        self.domain.under(&[&port, &protocol, &service.name, &service.namespace, "svc"])
    }

    fn add(&mut self, name: &[u8], kind: u16, data: &[u8]) {
        set(self.zone, name, kind).push_of(TTL, data, self.site);
    }

    /// Adds the addresses of an SRV target to the answer.
    fn assist(&mut self, owner: &[u8], target: &[u8], ips: &[IpAddr]) {
        let set = set(self.zone, owner, kind::SRV);
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
