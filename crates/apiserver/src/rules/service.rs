//! Services: cluster addresses and node ports, each given out once.
//!
//! What is given out is in the services themselves; the sets here are only a quick way to look and
//! are filled from them at the start. A place is taken before the write and given back if the write
//! does not happen.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use berth_schema::{Cause, Resource};
use ipnet::Ipv4Net;
use serde_json::{Value, json};

use crate::object;
use crate::server::Core;
use crate::status::Failure;

/// The addresses that services are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceRange(Ipv4Net);

impl ServiceRange {
    /// A range of at least sixteen addresses.
    ///
    /// None when the prefix is no such length.
    pub fn new(range: Ipv4Net) -> Option<Self> {
        (8..=28).contains(&range.prefix_len()).then(|| Self(range.trunc()))
    }

    fn network(self) -> u32 {
        u32::from(self.0.network())
    }

    fn size(self) -> u32 {
        1 << (32 - self.0.prefix_len())
    }

    /// The address at a place in the range.
    pub fn nth(self, place: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.network().wrapping_add(place))
    }

    /// Whether the address may be given out: neither the network's nor the broadcast address.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        let place = u32::from(address).wrapping_sub(self.network());
        place > 0 && place < self.size() - 1
    }

    /// The start of the upper part: what is below is left to those who ask for an address.
    fn upper(self) -> u32 {
        (self.size() / 16).clamp(16, 256).min(self.size() / 2)
    }
}

impl std::fmt::Display for ServiceRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Default)]
struct Taken {
    addresses: HashSet<Ipv4Addr>,
    ports: HashSet<u16>,
}

/// What is given out.
#[derive(Clone, Default)]
pub(crate) struct Allocations(Arc<Mutex<Taken>>);

/// Places taken for a write that has not happened yet; given back when it is not even tried.
#[must_use]
pub(crate) struct Reserved {
    from: Option<Allocations>,
    addresses: Vec<Ipv4Addr>,
    ports: Vec<u16>,
}

impl Reserved {
    pub(crate) fn none() -> Self {
        Self { from: None, addresses: Vec::new(), ports: Vec::new() }
    }

    /// Carries out the write, and gives the places back only when it is known to have failed: a
    /// client that goes away in the middle leaves a write that may well happen.
    pub(crate) async fn spend<T, E>(
        mut self,
        write: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let from = self.from.take();
        let done = write.await;
        if done.is_err() {
            self.from = from;
        }
        done
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(allocations) = self.from.take() {
            allocations.give_back(&self.addresses, &self.ports);
        }
    }
}

impl Allocations {
    /// Takes note of a service that is there already.
    pub(crate) fn note(&self, service: &Value) {
        let mut taken = self.0.lock().expect("nothing panics while holding it");
        taken.addresses.extend(addresses(service));
        taken.ports.extend(ports(service));
    }

    fn give_back(&self, addresses: &[Ipv4Addr], ports: &[u16]) {
        let mut taken = self.0.lock().expect("nothing panics while holding it");
        for address in addresses {
            taken.addresses.remove(address);
        }
        for port in ports {
            taken.ports.remove(port);
        }
    }

    fn take_address(&self, address: Ipv4Addr) -> bool {
        self.0.lock().expect("nothing panics while holding it").addresses.insert(address)
    }

    fn take_any_address(&self, range: ServiceRange) -> Option<Ipv4Addr> {
        let mut taken = self.0.lock().expect("nothing panics while holding it");
        let (upper, last) = (range.upper(), range.size() - 1);
        let start = rand::random_range(upper..last);
        let places = (start..last).chain(upper..start).chain(1..upper);
        let free =
            places.map(|place| range.nth(place)).find(|one| !taken.addresses.contains(one))?;
        taken.addresses.insert(free);
        Some(free)
    }

    fn take_port(&self, port: u16) -> bool {
        self.0.lock().expect("nothing panics while holding it").ports.insert(port)
    }

    fn take_any_port(&self, range: &RangeInclusive<u16>) -> Option<u16> {
        let mut taken = self.0.lock().expect("nothing panics while holding it");
        let start = rand::random_range(range.clone());
        let free = (start..=*range.end())
            .chain(*range.start()..start)
            .find(|port| !taken.ports.contains(port))?;
        taken.ports.insert(free);
        Some(free)
    }
}

fn addresses(service: &Value) -> Vec<Ipv4Addr> {
    let list = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    let mut found: Vec<Ipv4Addr> = list.filter_map(|one| one.as_str()?.parse().ok()).collect();
    if let Some(one) = service["spec"]["clusterIP"].as_str().and_then(|text| text.parse().ok())
        && !found.contains(&one)
    {
        found.push(one);
    }
    found
}

fn ports(service: &Value) -> Vec<u16> {
    let list = service["spec"]["ports"].as_array().into_iter().flatten();
    let mut found: Vec<u16> = list
        .filter_map(|port| u16::try_from(port["nodePort"].as_u64()?).ok())
        .filter(|port| *port > 0)
        .collect();
    let check = service["spec"]["healthCheckNodePort"].as_u64();
    found.extend(check.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0));
    found
}

fn ports_mut(service: &mut Value) -> impl Iterator<Item = &mut Value> {
    let ports = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
    ports.into_iter().flatten()
}

/// Gives a service the addresses and ports it lacks.
pub(super) fn allocate(
    core: &Core,
    resource: &Resource,
    new: &mut Value,
    old: Option<&Value>,
) -> Result<Reserved, Failure> {
    let mut reserved =
        Reserved { from: Some(core.allocations.clone()), addresses: Vec::new(), ports: Vec::new() };
    let name = object::name(new).to_owned();
    let kind = new["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
    if kind == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            object::section_mut(new, "spec").remove(field);
        }
        return Ok(reserved);
    }
    cluster_address(core, resource, &name, new, old, &mut reserved)?;
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        node_ports(core, resource, &name, new, old, &mut reserved)?;
    } else if old.is_some_and(|old| old["spec"]["type"] != new["spec"]["type"]) {
        for port in ports_mut(new) {
            if let Some(port) = port.as_object_mut() {
                port.remove("nodePort");
            }
        }
    }
    Ok(reserved)
}

fn cluster_address(
    core: &Core,
    resource: &Resource,
    name: &str,
    new: &mut Value,
    old: Option<&Value>,
    reserved: &mut Reserved,
) -> Result<(), Failure> {
    let given = |service: &Value| {
        let one = service["spec"]["clusterIP"].as_str().filter(|text| !text.is_empty());
        let first = service["spec"]["clusterIPs"][0].as_str();
        one.or(first).map(str::to_owned)
    };
    let before = old.and_then(given);
    let asked = given(new).or_else(|| before.clone());
    let address = match asked {
        Some(text) if text == "None" => text,
        Some(text) if Some(&text) == before.as_ref() => text,
        Some(text) => {
            let refuse = |message: String| {
                let cause = Cause {
                    reason: "FieldValueInvalid",
                    message: format!("Invalid value: \"{text}\": {message}"),
                    field: "spec.clusterIPs".to_owned(),
                };
                Failure::invalid(resource, name, vec![cause])
            };
            let address: Ipv4Addr =
                text.parse().map_err(|_| refuse("must be an IPv4 address or None".to_owned()))?;
            let range = core.settings.service_range;
            if !range.contains(address) {
                return Err(refuse(format!(
                    "failed to allocate IP {text}: the provided IP is not in the valid range. The \
                     range of valid IPs is {range}"
                )));
            }
            if !core.allocations.take_address(address) {
                return Err(refuse(format!(
                    "failed to allocate IP {text}: provided IP is already allocated"
                )));
            }
            reserved.addresses.push(address);
            text
        }
        None => {
            let free = core.allocations.take_any_address(core.settings.service_range);
            let free = free.ok_or_else(|| Failure::internal("the service range is used up"))?;
            reserved.addresses.push(free);
            free.to_string()
        }
    };
    let headless = address == "None";
    let spec = object::section_mut(new, "spec");
    spec.insert("clusterIP".to_owned(), json!(address));
    spec.insert("clusterIPs".to_owned(), json!([address]));
    spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
    spec.entry("ipFamilyPolicy").or_insert_with(|| json!("SingleStack"));
    if !headless {
        spec.entry("internalTrafficPolicy").or_insert_with(|| json!("Cluster"));
    }
    Ok(())
}

fn node_ports(
    core: &Core,
    resource: &Resource,
    name: &str,
    new: &mut Value,
    old: Option<&Value>,
    reserved: &mut Reserved,
) -> Result<(), Failure> {
    if new["spec"]["allocateLoadBalancerNodePorts"] == false
        && new["spec"]["type"] == "LoadBalancer"
    {
        return Ok(());
    }
    let before = old.map(ports).unwrap_or_default();
    let old_ports =
        old.and_then(|old| old["spec"]["ports"].as_array().cloned()).unwrap_or_default();
    let mut own: Vec<(u16, String)> = Vec::new();
    let range = &core.settings.node_ports;
    for (at, port) in ports_mut(new).enumerate() {
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        let asked = port["nodePort"].as_u64().filter(|port| *port > 0);
        // A port that stays the same keeps its node port even when the client does not name it.
        let asked = asked.or_else(|| {
            let same = old_ports.iter().find(|one| {
                one["port"] == port["port"] && one["protocol"].as_str().unwrap_or("TCP") == protocol
            });
            same.and_then(|one| one["nodePort"].as_u64()).filter(|port| *port > 0)
        });
        let given = match asked {
            Some(asked) => {
                let field = format!("spec.ports[{at}].nodePort");
                let refuse = |message: &str| {
                    Failure::invalid_field(
                        resource,
                        name,
                        &field,
                        format!("Invalid value: {asked}: {message}"),
                    )
                };
                let asked = u16::try_from(asked).ok().filter(|asked| range.contains(asked));
                let asked = asked.ok_or_else(|| {
                    refuse(&format!(
                        "provided port is not in the valid range. The range of valid ports is \
                         {}-{}",
                        range.start(),
                        range.end()
                    ))
                })?;
                let shared = own.iter().any(|(port, used)| *port == asked && *used != protocol);
                if !before.contains(&asked) && !shared {
                    if !core.allocations.take_port(asked) {
                        return Err(refuse("provided port is already allocated"));
                    }
                    reserved.ports.push(asked);
                }
                asked
            }
            None => {
                let free = core.allocations.take_any_port(range);
                let free = free.ok_or_else(|| Failure::internal("the node ports are used up"))?;
                reserved.ports.push(free);
                free
            }
        };
        own.push((given, protocol));
        port["nodePort"] = json!(given);
    }
    if new["spec"]["externalTrafficPolicy"].is_null() {
        new["spec"]["externalTrafficPolicy"] = json!("Cluster");
    }
    Ok(())
}

/// Gives back what the service had and has no more.
pub(super) fn release_difference(core: &Core, old: &Value, new: &Value) {
    let (kept_addresses, kept_ports) = (addresses(new), ports(new));
    let gone: Vec<Ipv4Addr> =
        addresses(old).into_iter().filter(|one| !kept_addresses.contains(one)).collect();
    let gone_ports: Vec<u16> =
        ports(old).into_iter().filter(|one| !kept_ports.contains(one)).collect();
    core.allocations.give_back(&gone, &gone_ports);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_from_the_upper_part_until_it_is_full() {
        let range = ServiceRange::new("10.43.0.0/27".parse().unwrap()).unwrap();
        let allocations = Allocations::default();
        let upper = u32::from(range.nth(range.upper()));
        for _ in range.upper()..range.size() - 1 {
            let address = allocations.take_any_address(range).unwrap();
            assert!(range.contains(address) && u32::from(address) >= upper, "{address}");
        }
        for _ in 1..range.upper() {
            assert!(u32::from(allocations.take_any_address(range).unwrap()) < upper);
        }
        assert_eq!(allocations.take_any_address(range), None);
    }

    #[test]
    fn a_reservation_that_is_not_kept_is_given_back() {
        let allocations = Allocations::default();
        let port = allocations.take_any_port(&(30000..=30000)).unwrap();
        let reserved =
            Reserved { from: Some(allocations.clone()), addresses: Vec::new(), ports: vec![port] };
        assert!(!allocations.take_port(port));
        drop(reserved);
        assert!(allocations.take_port(port));
    }
}
