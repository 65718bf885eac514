//! From facts to prepared answers.
//!
//! Section numbers are those of Kubernetes DNS-Based Service Discovery 1.1.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use super::rrset::{RrSet, octets, soa, srv, txt};
use super::{Node, Zone, kind_of};
use crate::facts::{Addressing, Facts, ServiceFacts, SliceFacts};
use crate::name::{self, Domain};
use crate::query::kind;

/// The specification that the names follow (§2.2).
const VERSION: &str = "1.1.0";
/// SRV weight of a Service's only target (§2.3.2).
const WEIGHT: u16 = 100;

pub(super) fn build(domain: &Domain, facts: &Facts) -> Zone {
    let mut builder = Builder { domain, names: HashMap::new() };
    let mut slices: BTreeMap<(&str, &str), Vec<&SliceFacts>> = BTreeMap::new();
    for slice in facts.slices.values() {
        slices.entry((&slice.namespace, &slice.service)).or_default().push(slice);
    }
    for service in facts.services.values() {
        let own = slices.get(&(service.namespace.as_str(), service.name.as_str()));
        builder.service(service, own.map(Vec::as_slice).unwrap_or_default());
    }
    builder.apex(facts)
}

struct Builder<'a> {
    domain: &'a Domain,
    names: HashMap<Box<[u8]>, Node>,
}

impl Builder<'_> {
    fn service(&mut self, service: &ServiceFacts, slices: &[&SliceFacts]) {
        let labels = [service.name.as_str(), &service.namespace, "svc"];
        let Some(name) = self.domain.under(&labels) else { return };
        match &service.kind {
            Addressing::Cluster(ips) => self.cluster(service, &name, ips),
            Addressing::Headless => self.headless(service, &name, slices),
            Addressing::External(target) => {
                // §2.5
                if let Some(target) = name::encode(target) {
                    self.add(&name, kind::CNAME, &target);
                    self.node(&name).alias = Some(target.into());
                }
            }
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

    fn apex(mut self, facts: &Facts) -> Zone {
        let domain = self.domain;
        let under = |labels: &[&str]| domain.under(labels).expect("the domain leaves room");
        let server = under(&["ns", "dns"]);
        let mut hasher = DefaultHasher::new();
        // Whoever answers from the same facts says the same serial, whichever process it is.
        format!("{facts:?}").hash(&mut hasher);
        let authority = soa(&server, &under(&["hostmaster"]), hasher.finish() as u32);
        let apex = domain.wire().to_vec();
        self.add(&apex, kind::SOA, &authority);
        self.add(&apex, kind::NS, &server);
        self.add(&under(&["dns-version"]), kind::TXT, &txt(VERSION));
        let ours = facts.services.get("kube-system/kube-dns").map(|service| &service.kind);
        if let Some(Addressing::Cluster(ips)) = ours {
            for ip in ips {
                self.add(&server, kind_of(*ip), &octets(*ip));
            }
        }
        self.node(&under(&["svc"]));
        let pods = under(&["pod"]);
        self.node(&pods);
        let soa = RrSet::owned(&apex, kind::SOA, &authority);
        Zone { domain: apex, pods, names: self.names, soa }
    }

    fn port_name(&self, service: &ServiceFacts, port: &str, protocol: &str) -> Option<Vec<u8>> {
        let (port, protocol) = (format!("_{port}"), format!("_{protocol}"));
        self.domain.under(&[&port, &protocol, &service.name, &service.namespace, "svc"])
    }

    fn add(&mut self, name: &[u8], kind: u16, data: &[u8]) {
        self.set(name, kind).push(data);
    }

    /// Adds the addresses of an SRV target to the answer.
    fn assist(&mut self, owner: &[u8], target: &[u8], ips: &[IpAddr]) {
        let set = self.set(owner, kind::SRV);
        for ip in ips {
            set.push_additional(target, *ip);
        }
    }

    fn set(&mut self, name: &[u8], kind: u16) -> &mut RrSet {
        let sets = &mut self.node(name).sets;
        let at = sets.iter().position(|set| set.kind() == kind).unwrap_or_else(|| {
            sets.push(RrSet::new(kind));
            sets.len() - 1
        });
        &mut sets[at]
    }

    /// The node of `name`; the names between it and the domain come into being with it (RFC 8020).
    fn node(&mut self, name: &[u8]) -> &mut Node {
        if !self.names.contains_key(name) && name::is_under(name, self.domain.wire()) {
            let mut at = 0;
            while name.len() - at > self.domain.wire().len() {
                at += usize::from(name[at]) + 1;
                self.names.entry(name[at..].into()).or_default();
            }
        }
        self.names.entry(name.into()).or_default()
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
