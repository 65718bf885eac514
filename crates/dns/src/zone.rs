//! The names of a cluster with their answers, prepared: Kubernetes DNS specification 1.1.0.
//!
//! A zone is made whole from [`Records`] and never changed; a new one takes its place.

mod records;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

#[cfg(test)]
pub use records::Endpoint;
pub use records::{Kind, Port, Records, Service};

use crate::answer::Prepared;
use crate::wire::{Name, code};

/// How long clients may keep an answer, in seconds: about as long as a change takes to matter.
const TTL: u32 = 5;
/// What `dns-version` says.
const VERSION: &str = "1.1.0";

/// All answers of one name.
#[derive(Clone, Debug, Default)]
pub struct Node {
    a: Prepared,
    srv: Prepared,
    /// Addresses of the SRV records' targets.
    srv_additional: Prepared,
    ptr: Prepared,
    txt: Prepared,
    cname: Option<(Prepared, Name)>,
}

impl Node {
    /// The records of type `kind`, which may be none.
    pub fn records(&self, kind: u16) -> Option<&Prepared> {
        let records = match kind {
            code::A => &self.a,
            code::SRV => &self.srv,
            code::PTR => &self.ptr,
            code::TXT => &self.txt,
            _ => return None,
        };
        (!records.is_empty()).then_some(records)
    }

    /// What goes along with the records of type `kind`.
    pub fn additional(&self, kind: u16) -> Option<&Prepared> {
        (kind == code::SRV).then_some(&self.srv_additional)
    }

    /// The name that this one stands for, with the record that says so.
    pub fn alias(&self) -> Option<(&Prepared, &Name)> {
        self.cname.as_ref().map(|(record, target)| (record, target))
    }
}

/// All names of a cluster.
#[derive(Clone, Debug)]
pub struct Zone {
    domain: Name,
    pods: Option<Name>,
    nodes: HashMap<Name, Node>,
    soa: Prepared,
}

impl Zone {
    /// Prepares the answers for `records` under `domain`.
    pub fn build(records: &Records, domain: &Name) -> Self {
        let mut zone = Self {
            domain: domain.clone(),
            pods: domain.under("pod"),
            nodes: HashMap::new(),
            soa: soa(domain),
        };
        zone.node(Some(domain.clone()));
        if let Some(node) = zone.node(domain.under("dns-version")) {
            let mut text = vec![VERSION.len() as u8];
            text.extend(VERSION.bytes());
            node.txt.push(code::TXT, TTL, &text);
        }
        zone.node(zone.pods.clone());
        let services = domain.under("svc");
        for service in &records.services {
            let namespace = services.as_ref().and_then(|name| name.under(&service.namespace));
            if let Some(name) = namespace.and_then(|name| name.under(&service.name)) {
                zone.add(service, &name);
            }
        }
        zone
    }

    /// The node of a name on the wire in lower case.
    pub fn get(&self, name: &[u8]) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// Whether the name is the zone's own or below it.
    pub fn covers(&self, name: &[u8]) -> bool {
        self.below(name, self.domain.wire())
    }

    /// Says that there is no such name or record, and for how long that holds.
    pub fn soa(&self) -> &Prepared {
        &self.soa
    }

    /// The address that a pod's name spells: `10-42-0-7.NAMESPACE.pod.DOMAIN`.
    pub fn pod_address(&self, name: &[u8]) -> Option<Prepared> {
        let (label, rest) = crate::wire::split_label(name)?;
        let (_namespace, rest) = crate::wire::split_label(rest)?;
        if self.pods.as_ref()?.wire() != rest {
            return None;
        }
        let dotted = std::str::from_utf8(label).ok()?.replace('-', ".");
        let address: Ipv4Addr = dotted.parse().ok()?;
        let mut records = Prepared::default();
        records.push(code::A, TTL, &address.octets());
        Some(records)
    }

    fn below(&self, name: &[u8], above: &[u8]) -> bool {
        let mut rest = Some(name);
        while let Some(name) = rest.filter(|name| name.len() >= above.len()) {
            if name == above {
                return true;
            }
            rest = crate::wire::parent(name);
        }
        false
    }

    /// The node of `name`, made with its parents where missing: a name with names below exists.
    fn node(&mut self, name: Option<Name>) -> Option<&mut Node> {
        let name = name?;
        if name != self.domain {
            let above = name.parent().filter(|above| !self.nodes.contains_key(above));
            if let Some(above) = above.filter(|above| self.covers(above.wire())) {
                self.node(Some(above));
            }
        }
        Some(self.nodes.entry(name).or_default())
    }

    fn add(&mut self, service: &Service, name: &Name) {
        match &service.kind {
            Kind::External(target) => {
                let Some(target) = Name::parse(target) else { return };
                let Some(node) = self.node(Some(name.clone())) else { return };
                let mut record = Prepared::default();
                record.push(code::CNAME, TTL, target.wire());
                node.cname = Some((record, target));
            }
            Kind::Addresses(addresses) => {
                self.node(Some(name.clone()));
                for address in addresses {
                    self.add_address(name, *address);
                    self.add_reverse(*address, name);
                    for port in &service.ports {
                        self.add_port(name, port, name, *address);
                    }
                }
            }
            Kind::Headless => {
                self.node(Some(name.clone()));
                for endpoint in &service.endpoints {
                    let Some(own) = name.under(&endpoint.label()) else { continue };
                    self.add_address(name, endpoint.address);
                    self.add_address(&own, endpoint.address);
                    self.add_reverse(endpoint.address, &own);
                    for port in &endpoint.ports {
                        self.add_port(name, port, &own, endpoint.address);
                    }
                }
            }
        }
    }

    fn add_address(&mut self, name: &Name, address: IpAddr) {
        let IpAddr::V4(address) = address else { return };
        let Some(node) = self.node(Some(name.clone())) else { return };
        node.a.push(code::A, TTL, &address.octets());
    }

    /// `_http._tcp.NAME` → priority 0, weight 100, port, target (RFC 2782).
    fn add_port(&mut self, service: &Name, port: &Port, target: &Name, address: IpAddr) {
        if port.name.is_empty() {
            return; // the specification gives SRV records to named ports alone
        }
        let protocol = service.under(&format!("_{}", port.protocol.to_lowercase()));
        let name = protocol.and_then(|name| name.under(&format!("_{}", port.name)));
        let Some(node) = self.node(name) else { return };
        let mut data = vec![0, 0, 0, 100];
        data.extend(port.number.to_be_bytes());
        data.extend(target.wire());
        node.srv.push(code::SRV, TTL, &data);
        if let IpAddr::V4(address) = address {
            node.srv_additional.push_owned(target.wire(), code::A, TTL, &address.octets());
        }
    }

    /// `7.0.42.10.in-addr.arpa` → the first name that has the address.
    fn add_reverse(&mut self, address: IpAddr, name: &Name) {
        let IpAddr::V4(address) = address else { return };
        let [a, b, c, d] = address.octets();
        let Some(reverse) = Name::parse(&format!("{d}.{c}.{b}.{a}.in-addr.arpa")) else { return };
        let node = self.nodes.entry(reverse).or_default();
        if node.ptr.is_empty() {
            node.ptr.push(code::PTR, TTL, name.wire());
        }
    }
}

fn soa(domain: &Name) -> Prepared {
    let mut data = Vec::new();
    for label in ["ns.dns", "hostmaster"] {
        for part in label.split('.') {
            data.push(part.len() as u8);
            data.extend(part.bytes());
        }
        data.extend(domain.wire());
    }
    // Serial, refresh, retry, expire, minimum: nobody transfers the zone, so only the last matters.
    for number in [1u32, 7200, 1800, 86400, TTL] {
        data.extend(number.to_be_bytes());
    }
    let mut soa = Prepared::default();
    soa.push_owned(domain.wire(), code::SOA, TTL, &data);
    soa
}
