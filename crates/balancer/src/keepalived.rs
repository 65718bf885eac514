//! Virtual addresses that several hosts hold for each other, by Debian's keepalived.
//!
//! Each address is an instance of VRRP of its own, so that hosts share the work: which host holds
//! which address first is decided by a hash over the address and the host's name, the same on every
//! host without asking anybody (rendezvous hashing). A host whose own health check fails gives its
//! addresses up; one that dies is missed after three advertisements, half a second each.
//!
//! An address that comes back to its first host would cut what the other holds, so it does not:
//! all start as backups and nobody preempts.
//!
//! # What it refuses
//! IPv6, authentication (VRRP version 3 has none: the network must be trusted, or the peers named,
//! which sends to them alone), and more than 255 addresses on one network: ids are one byte.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::runtime::watcher::{self, watcher};
use tokio::sync::{Notify, watch};

use berth_daemon::Tasks;

use crate::rendered::Rendered;

/// The address that a Service wants to be reached at, with its network: `192.0.2.10/24`.
pub const ADDRESS: &str = "berth.dev/virtual-address";

/// Between two advertisements, in hundredths of a second: three are missed in 1.5 s and a skew of
/// at most half a second, well within three seconds.
const ADVERTISE: &str = "0.5";
/// Between two health checks, and how many count, s.
const CHECK: (u32, u32) = (1, 2);
/// Priorities from the first host's down; the others have the last. The wait of a host that starts
/// is half a second longer times what it lacks to 256: far enough apart that hosts that start
/// together share. 255 would mean that a host owns an address for good.
const PRIORITIES: [u8; 8] = [250, 170, 110, 70, 40, 20, 10, 5];

/// How a host takes part.
#[derive(Clone, Debug)]
pub struct Options {
    /// This host's name among `hosts`.
    pub host: String,
    /// Every host that may hold an address, with the address it has itself.
    pub hosts: BTreeMap<String, Ipv4Addr>,
    /// The interface that addresses are put on.
    pub interface: String,
    /// Addresses beside those of Services.
    pub addresses: Vec<Ipv4Net>,
    /// A command that succeeds while this host serves.
    pub check: Option<String>,
}

/// Why nothing can be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// This host is none of them.
    #[error("the host {0:?} is not among the hosts")]
    Unknown(String),
    /// A word that would say something else.
    #[error("{what} cannot be written: {value:?}")]
    Unwritable {
        /// Of what kind.
        what: &'static str,
        /// The word.
        value: String,
    },
    /// Nobody would take over.
    #[error("a virtual address wants two hosts at least")]
    Alone,
}

/// The addresses that `services` ask for, and what could not be read.
pub fn addresses(services: &[Arc<Service>]) -> (Vec<Ipv4Net>, Vec<String>) {
    let (mut found, mut refused) = (Vec::new(), Vec::new());
    for service in services {
        let Some(text) = service.annotations().get(ADDRESS) else { continue };
        match text.trim().parse::<Ipv4Net>() {
            Ok(address) => found.push(address),
            Err(_) => {
                let namespace = service.namespace().unwrap_or_default();
                let name = service.name_any();
                refused.push(format!("Service {namespace}/{name}: {ADDRESS} is none: {text:?}"));
            }
        }
    }
    (found, refused)
}

/// Follows the Services that ask for an address; `None` until all are known.
pub fn follow(client: &kube::Client, tasks: &Tasks) -> watch::Receiver<Option<Vec<Arc<Service>>>> {
    let (sender, receiver) = watch::channel(None);
    let changed = Arc::new(Notify::new());
    let all = watcher(kube::Api::<Service>::all(client.clone()), watcher::Config::default());
    let services = crate::follow::follow("services", all, changed.clone(), tasks);
    tasks.spawn_until_stop("virtual-addresses", async move {
        loop {
            changed.notified().await;
            let Some(mut services) = services.objects() else { continue };
            services.retain(|service| service.annotations().contains_key(ADDRESS));
            sender.send_replace(Some(services));
        }
    });
    receiver
}

/// Writes down how this host holds `wanted` and the addresses of `options`.
///
/// # Guarantees
/// Every host with the same hosts and addresses gives the same id to an address and the same order
/// to the hosts, whatever order they are named in.
///
/// # Errors
/// When `options` make no sense.
pub fn render(wanted: &[Ipv4Net], options: &Options) -> Result<Rendered, OptionsError> {
    let Options { host, hosts, interface, check, .. } = options;
    let own = *hosts.get(host).ok_or_else(|| OptionsError::Unknown(host.clone()))?;
    if hosts.len() < 2 {
        return Err(OptionsError::Alone);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._@:".contains(c);
    for (what, value) in [("host", host), ("interface", interface)] {
        if value.is_empty() || !value.chars().all(plain) {
            return Err(OptionsError::Unwritable { what, value: value.clone() });
        }
    }
    if let Some(value) = check.as_ref().filter(|check| check.contains(['"', '\n', '\\'])) {
        return Err(OptionsError::Unwritable { what: "check", value: value.clone() });
    }
    let mut addresses: Vec<Ipv4Net> = wanted.iter().chain(&options.addresses).copied().collect();
    addresses.sort();
    addresses.dedup_by_key(|address| address.addr());
    let mut rendered = Rendered::default();
    let mut text = format!(
        "# Written by berth; changes are lost.\nglobal_defs {{\n  router_id {host}\n  \
         vrrp_version 3\n  vrrp_garp_master_delay 1\n  vrrp_garp_master_repeat 2\n  \
         script_user root\n  enable_script_security\n}}\n"
    );
    if let Some(check) = check {
        let (every, count) = CHECK;
        write!(
            text,
            "vrrp_script serves {{\n  script \"{check}\"\n  interval {every}\n  timeout {every}\n  \
             fall {count}\n  rise {count}\n}}\n"
        )
        .expect(NEVER);
    }
    let mut ids = [false; 256];
    for address in addresses {
        let Some(id) = id(address.addr(), &mut ids) else {
            rendered.refused.push(format!("{address}: all 255 ids are taken"));
            continue;
        };
        instance(&mut text, address, id, own, options);
    }
    rendered.text = text;
    Ok(rendered)
}

const NEVER: &str = "writing to a String cannot fail";

fn instance(text: &mut String, address: Ipv4Net, id: u8, own: Ipv4Addr, options: &Options) {
    let Options { host, hosts, interface, check, .. } = options;
    let place = order(address.addr(), hosts).iter().position(|name| *name == host);
    let priority = PRIORITIES.get(place.unwrap_or_default()).copied().unwrap_or(1);
    let peers = hosts.values().filter(|peer| **peer != own);
    let peers = peers.fold(String::new(), |text, peer| format!("{text} {peer}"));
    let check = if check.is_some() { "  track_script { serves }\n" } else { "" };
    let name = address.addr().to_string().replace('.', "-");
    write!(
        text,
        "vrrp_instance berth-{name} {{\n  state BACKUP\n  nopreempt\n  interface {interface}\n  \
         virtual_router_id {id}\n  priority {priority}\n  advert_int {ADVERTISE}\n  \
         unicast_src_ip {own}\n  unicast_peer {{{peers} }}\n  \
         virtual_ipaddress {{ {address} dev {interface} }}\n{check}}}\n"
    )
    .expect(NEVER);
}

/// The address's last byte, as people choose it too, or the next that is free.
fn id(address: Ipv4Addr, taken: &mut [bool; 256]) -> Option<u8> {
    let first = address.octets()[3].max(1);
    let free = (first..=255).chain(1..first).find(|id| !taken[usize::from(*id)])?;
    taken[usize::from(free)] = true;
    Some(free)
}

/// Who holds the address first, then, and so on.
fn order(address: Ipv4Addr, hosts: &BTreeMap<String, Ipv4Addr>) -> Vec<&String> {
    let mut names: Vec<_> = hosts.keys().collect();
    names.sort_by_key(|name| std::cmp::Reverse(score(address, name)));
    names
}

/// FNV-1a and SplitMix64's finish: the same on every machine.
fn score(address: Ipv4Addr, host: &str) -> u64 {
    let bytes = address.octets().into_iter().chain(host.bytes());
    let mut z = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(host: &str) -> Options {
        Options {
            host: host.into(),
            hosts: [("a", [10, 0, 0, 1]), ("b", [10, 0, 0, 2]), ("c", [10, 0, 0, 3])]
                .map(|(name, ip)| (name.to_owned(), Ipv4Addr::from(ip)))
                .into(),
            interface: "eth0".into(),
            addresses: vec!["10.0.0.100/24".parse().unwrap()],
            check: Some("/bin/true".into()),
        }
    }

    /// Address, id and priority of each instance.
    fn instances(text: &str) -> Vec<(String, u8, u8)> {
        let word = |part: &str, key: &str| {
            part.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap().trim().to_owned()
        };
        let parts = text.split("vrrp_instance ").skip(1);
        let number = |part: &str, key: &str| word(part, key).parse().unwrap();
        parts
            .map(|part| {
                let id = number(part, "virtual_router_id");
                (word(part, "virtual_ipaddress"), id, number(part, "priority"))
            })
            .collect()
    }

    #[test]
    fn hosts_agree_on_ids_and_share_the_addresses() {
        let wanted: Vec<Ipv4Net> =
            (10..60).map(|last| format!("10.0.0.{last}/24").parse().unwrap()).collect();
        let reversed: Vec<_> = wanted.iter().rev().copied().collect();
        let of = |host, wanted: &[_]| instances(&render(wanted, &options(host)).unwrap().text);
        let (a, b, c) = (of("a", &wanted), of("b", &reversed), of("c", &wanted));
        assert_eq!(a.len(), 51);
        let mut first = [0; 3];
        for ((a, b), c) in a.iter().zip(&b).zip(&c) {
            assert_eq!((&a.0, a.1), (&b.0, b.1));
            let mut priorities = [a.2, b.2, c.2];
            first[priorities.iter().position(|p| *p == PRIORITIES[0]).unwrap()] += 1;
            priorities.sort_unstable();
            assert_eq!(priorities, [110, 170, 250]);
        }
        assert!(first.iter().all(|count| *count > 5), "{first:?}");
    }

    #[test]
    fn ids_are_unique_and_the_256th_address_is_refused_and_named() {
        let wanted: Vec<Ipv4Net> =
            (0..256).map(|n| format!("10.1.{}.{}/16", n / 128, n % 128).parse().unwrap()).collect();
        let none = Options { addresses: Vec::new(), ..options("a") };
        let rendered = render(&wanted, &none).unwrap();
        let mut ids: Vec<_> = instances(&rendered.text).iter().map(|found| found.1).collect();
        ids.sort_unstable();
        assert_eq!(ids, (1..=255).collect::<Vec<u8>>());
        assert_eq!(rendered.refused.len(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let change = |change: fn(&mut Options)| {
            let mut changed = options("a");
            change(&mut changed);
            render(&[], &changed).unwrap_err()
        };
        assert_eq!(change(|o| o.host = "z".into()), OptionsError::Unknown("z".into()));
        assert_eq!(change(|o| o.hosts.retain(|name, _| name == "a")), OptionsError::Alone);
        let interface = "eth0 }".to_owned();
        assert_eq!(
            change(|o| o.interface = "eth0 }".into()),
            OptionsError::Unwritable { what: "interface", value: interface }
        );
        assert!(matches!(
            change(|o| o.check = Some("x\"".into())),
            OptionsError::Unwritable { what: "check", .. }
        ));
    }
}
