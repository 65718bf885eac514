//! The words that `nft` reads.
//!
//! ```text
//! address . protocol . port ─▶ services ─goto▶ any-5: dnat to ends[address . protocol . port . random mod 5]
//!                                       └goto▶ svc-NAMESPACE/NAME/…: the same with affinity
//! ```
//!
//! Written for nft 1.0.6 (Debian 12), which wants `meta l4proto` before a port is matched or set.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use super::{Choice, Config, Front, Protocol, Shared, Target};

/// The chain that finds a front's chain.
pub(in crate::l4) const DISPATCH: &str = "dispatch";
/// The chain that says no.
const REFUSE: &str = "refuse";
/// The chain that says nothing.
const IGNORE: &str = "ignore";

/// Our bit in the packet mark, from the lookup until the packet leaves: it tells our traffic from
/// what other tables redirect. Bits 14 and 15 are kube-proxy's, the low byte is people's.
const MARK: u32 = 0x0010_0000;

/// A client with affinity costs an element; 64 Ki clients an endpoint, the rest goes anywhere.
const AFFINITY_CLIENTS: u32 = 65_536;

/// One transaction, in the order that nft wants: what is led to is there before what leads to it,
/// and goes after it.
#[derive(Debug)]
pub(super) struct Script<'a> {
    table: &'a str,
    flushed: BTreeSet<String>,
    forgotten: Vec<String>,
    /// Chains that get rules, and sets.
    made: Vec<String>,
    rules: Vec<String>,
    without: Vec<String>,
    with: Vec<String>,
    unused: BTreeSet<String>,
    used: BTreeSet<String>,
}

impl<'a> Script<'a> {
    pub(super) fn new(table: &'a str) -> Self {
        Self {
            table,
            flushed: BTreeSet::new(),
            forgotten: Vec::new(),
            made: Vec::new(),
            rules: Vec::new(),
            without: Vec::new(),
            with: Vec::new(),
            unused: BTreeSet::new(),
            used: BTreeSet::new(),
        }
    }

    /// Leads `front` from one target to another; only elements that differ are named.
    pub(super) fn front(&mut self, front: &Front, before: Option<&Target>, after: Option<&Target>) {
        let table = self.table;
        let old = before.map(|target| elements(front, target)).unwrap_or_default();
        let new = after.map(|target| elements(front, target)).unwrap_or_default();
        let gone = old.iter().filter(|element| !new.contains(element));
        self.without.extend(gone.map(|Element { set, key, .. }| {
            format!("delete element ip {table} {set} {{ {key} }}")
        }));
        let come = new.iter().filter(|element| !old.contains(element));
        self.with.extend(come.map(|Element { set, key, value }| {
            format!("add element ip {table} {set} {{ {key}{value} }}")
        }));
    }

    pub(super) fn add(&mut self, shared: &Shared) {
        let table = self.table;
        match shared {
            Shared::Sticky { chain, protocol, endpoints } => {
                let sets: Vec<_> = endpoints.iter().map(|to| (clients(chain, to), to)).collect();
                let rules = std::iter::once(mark_as_ours()).chain(sticky(*protocol, &sets));
                self.chain(chain, rules.chain(std::iter::once(any_of(*protocol, endpoints))));
            }
            Shared::Clients { chain, seconds, endpoint } => {
                let set = clients(chain, endpoint);
                self.made.push(format!(
                    "add set ip {table} {set} {{ type ipv4_addr; size {AFFINITY_CLIENTS}; \
                     flags dynamic,timeout; timeout {seconds}s; }}"
                ));
            }
            Shared::Hairpin(pod) => {
                self.with.push(format!("add element ip {table} hairpins {{ {pod} . {pod} }}"));
            }
        }
    }

    pub(super) fn choice(&mut self, choice: Choice) {
        self.chain(&any(choice), [mark_as_ours(), one_of(choice)].into_iter());
    }

    pub(super) fn remove(&mut self, shared: &Shared) {
        let table = self.table;
        match shared {
            Shared::Sticky { chain, .. } => {
                self.flushed.insert(chain.clone());
                self.unused.insert(chain.clone());
            }
            Shared::Clients { chain, endpoint, .. } => {
                // A set whose time changed is another set, under rules that read the same.
                self.forgotten.push(format!("delete set ip {table} {}", clients(chain, endpoint)));
                self.flushed.insert(chain.clone());
            }
            Shared::Hairpin(pod) => {
                self.without
                    .push(format!("delete element ip {table} hairpins {{ {pod} . {pod} }}"));
            }
        }
    }

    fn chain(&mut self, chain: &str, rules: impl Iterator<Item = String>) {
        let table = self.table;
        self.made.push(format!("add chain ip {table} {chain}"));
        self.rules.extend(rules.map(|rule| format!("add rule ip {table} {chain} {rule}")));
        self.used.insert(chain.to_owned());
    }

    pub(super) fn finish(self) -> String {
        let table = self.table;
        let flushed = self.flushed.iter().map(|chain| format!("flush chain ip {table} {chain}"));
        let unused = self.unused.difference(&self.used);
        let unused = unused.map(|chain| format!("delete chain ip {table} {chain}"));
        let lines = flushed.chain(self.forgotten).chain(self.made).chain(self.rules);
        let lines = lines.chain(self.without).chain(self.with).chain(unused);
        lines.fold(String::new(), |mut text, line| {
            text.push_str(&line);
            text.push('\n');
            text
        })
    }
}

/// An element of a set or map.
#[derive(Debug, PartialEq, Eq)]
struct Element {
    set: &'static str,
    key: String,
    /// With its colon, or empty.
    value: String,
}

/// What `front` has in the maps and sets.
fn elements(front: &Front, target: &Target) -> Vec<Element> {
    let (ip, protocol, port) = front;
    let (key, services, ends) = match ip {
        Some(ip) => (format!("{ip} . {protocol} . {port}"), "services", "ends"),
        None => (format!("{protocol} . {port}"), "node-ports", "node-ends"),
    };
    let chain = match &target.sticky {
        _ if target.endpoints.is_empty() => REFUSE.to_owned(),
        Some((chain, _)) => chain.clone(),
        None => any(Choice { node_port: ip.is_none(), count: target.endpoints.len() }),
    };
    let to = Element { set: services, key: key.clone(), value: format!(" : goto {chain}") };
    let mut elements = vec![to];
    if target.sticky.is_none() {
        elements.extend(target.endpoints.iter().enumerate().map(|(index, end)| Element {
            set: ends,
            key: format!("{key} . {index}"),
            value: format!(" : {} . {}", end.ip(), end.port()),
        }));
    }
    if let Some(sources) = &target.sources {
        elements.push(Element { set: "guarded", key: key.clone(), value: String::new() });
        elements.extend(sources.iter().map(|source| Element {
            set: "allowed",
            key: format!("{key} . {source}"),
            value: String::new(),
        }));
    }
    elements
}

/// The chain that picks one of `count`.
fn any(Choice { node_port, count }: Choice) -> String {
    let kind = if node_port { "node-any" } else { "any" };
    format!("{kind}-{count}")
}

/// Its rule.
fn one_of(Choice { node_port, count }: Choice) -> String {
    let (address, map) = if node_port { ("", "node-ends") } else { ("ip daddr . ", "ends") };
    format!(
        "meta l4proto {{ tcp, udp, sctp }} dnat ip to {address}meta l4proto . th dport . \
         numgen random mod {count} map @{map}"
    )
}

/// The set of clients that `chain` sent to an endpoint. Its name carries the endpoint: when that
/// goes, so does the memory of it.
fn clients(chain: &str, endpoint: &SocketAddrV4) -> String {
    format!("of-{chain}/{}/{}", endpoint.ip(), endpoint.port())
}

fn mark_as_ours() -> String {
    format!("meta mark set meta mark or {MARK:#x}")
}

/// Spreads over `endpoints` at random.
fn any_of(protocol: Protocol, endpoints: &[SocketAddrV4]) -> String {
    if let [only] = endpoints {
        return format!("meta l4proto {protocol} dnat to {only}");
    }
    let numbered = endpoints.iter().enumerate();
    let numbered = numbered.map(|(i, at)| format!("{i} : {} . {}", at.ip(), at.port()));
    let (count, map) = (endpoints.len(), numbered.collect::<Vec<_>>().join(", "));
    format!("meta l4proto {protocol} dnat ip to numgen random mod {count} map {{ {map} }}")
}

/// Sends a client where its set says, or picks and writes it down.
///
/// A set that is full ends its rule, so the plain choice has to follow.
fn sticky(protocol: Protocol, sets: &[(String, &SocketAddrV4)]) -> Vec<String> {
    let known = sets.iter().map(|(set, to)| {
        format!("meta l4proto {protocol} ip saddr @{set} update @{set} {{ ip saddr }} dnat to {to}")
    });
    // The first is picked one time in n, else the second one time in n - 1, and so on.
    let picked = sets.iter().enumerate().map(|(i, (set, to))| {
        let left = sets.len() - i;
        let chance =
            if left == 1 { String::new() } else { format!("numgen random mod {left} < 1 ") };
        format!("meta l4proto {protocol} {chance}update @{set} {{ ip saddr }} dnat to {to}")
    });
    known.chain(picked).collect()
}

/// Removes the table of `instance`, whether it is there or not.
pub(in crate::l4) fn without_table(instance: &str) -> String {
    format!("add table ip {instance}\ndelete table ip {instance}\n")
}

/// The whole table but for what depends on Services; replaces one that is there.
pub(in crate::l4) fn frame(config: &Config, masquerade_between_pods: bool) -> String {
    let Config { instance, pod_range, service_range, bridge, .. } = config;
    let between_pods = if masquerade_between_pods {
        format!("    ip saddr {pod_range} ip daddr {pod_range} masquerade\n")
    } else {
        String::new()
    };
    let keep = !MARK;
    format!(
        r#"{gone}table ip {instance} {{
  map services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map node-ports {{ type inet_proto . inet_service : verdict; }}
  map ends {{
    typeof ip daddr . meta l4proto . th dport . numgen random mod 2 : ip daddr . th dport
  }}
  map node-ends {{
    typeof meta l4proto . th dport . numgen random mod 2 : ip daddr . th dport
  }}
  set guarded {{ type ipv4_addr . inet_proto . inet_service; }}
  set allowed {{ type ipv4_addr . inet_proto . inet_service . ipv4_addr; flags interval; }}
  set hairpins {{ type ipv4_addr . ipv4_addr; }}
  chain {REFUSE} {{
    meta l4proto tcp reject with tcp reset
    reject with icmp type port-unreachable
  }}
  chain {IGNORE} {{
    drop
  }}
  chain guard {{
    ip daddr . meta l4proto . th dport . ip saddr != @allowed goto {IGNORE}
  }}
  chain {DISPATCH} {{
    meta l4proto {{ tcp, udp, sctp }} ip daddr . meta l4proto . th dport @guarded jump guard
    meta l4proto {{ tcp, udp, sctp }} ip daddr . meta l4proto . th dport vmap @services
    ip daddr {service_range} goto {REFUSE}
    fib daddr type local meta l4proto {{ tcp, udp, sctp }} meta l4proto . th dport vmap @node-ports
  }}
  chain prerouting {{ type nat hook prerouting priority dstnat; jump {DISPATCH}; }}
  chain output {{ type nat hook output priority -100; jump {DISPATCH}; }}
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    meta mark & {MARK:#x} == 0 return
    meta mark set meta mark & {keep:#x}
    oifname "lo" return
    ip saddr . ip daddr @hairpins masquerade
    ip saddr 127.0.0.0/8 masquerade
    ip daddr != {pod_range} masquerade
{between_pods}  }}
  chain loopback-stays-here {{
    type filter hook prerouting priority raw;
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
  }}
}}
"#,
        gone = without_table(instance),
    )
}
