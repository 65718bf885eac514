//! The words that `nft` reads.
//!
//! Written for nft 1.0.6 (Debian 12), which wants `meta l4proto` before a port is matched or set.

use std::fmt::Write;
use std::net::SocketAddrV4;

use super::{Config, Front, Protocol, Ruleset};

/// The chain that finds a front's chain.
pub(in crate::l4) const DISPATCH: &str = "dispatch";
/// The chain that says no.
pub(in crate::l4) const REFUSE: &str = "refuse";

/// Our bit in the packet mark, from the lookup until the packet leaves: it tells our traffic from
/// what other tables redirect. Bits 14 and 15 are kube-proxy's, the low byte is people's.
const MARK: u32 = 0x0010_0000;

/// A client with affinity costs an element; 64 Ki clients an endpoint, the rest goes anywhere.
const AFFINITY_CLIENTS: u32 = 65_536;

pub(super) fn mark_as_ours() -> String {
    format!("meta mark set meta mark or {MARK:#x}")
}

/// Spreads over `endpoints` at random.
pub(super) fn any_of(protocol: Protocol, endpoints: &[SocketAddrV4]) -> String {
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
pub(super) fn sticky(protocol: Protocol, sets: &[(String, &SocketAddrV4)]) -> Vec<String> {
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

/// The parts that stay the same whatever Services there are.
fn frame(config: &Config, masquerade_between_pods: bool) -> String {
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
  set hairpins {{ type ipv4_addr . ipv4_addr; }}
  chain {REFUSE} {{
    meta l4proto tcp reject with tcp reset
    reject with icmp type port-unreachable
  }}
  chain {DISPATCH} {{
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

impl Ruleset {
    /// One transaction that replaces the whole table.
    pub(in crate::l4) fn full(&self, config: &Config, masquerade_between_pods: bool) -> String {
        let frame = frame(config, masquerade_between_pods);
        frame + &self.difference(&Self::default(), &config.instance)
    }

    /// One transaction from `before` to this: what is the same is not named. Empty for no change.
    ///
    /// Order matters to nft: a chain is there before a map leads to it, and is removed after.
    pub(in crate::l4) fn difference(&self, before: &Self, instance: &str) -> String {
        let mut text = String::new();
        let mut line = |words: std::fmt::Arguments<'_>| {
            text.write_fmt(words).expect("writing to a String cannot fail");
            text.push('\n');
        };
        for (name, rules) in &self.chains {
            match before.chains.get(name) {
                None => line(format_args!("add chain ip {instance} {name}")),
                Some(old) if old != rules => line(format_args!("flush chain ip {instance} {name}")),
                Some(_) => {}
            }
        }
        for name in before.chains.keys().filter(|name| !self.chains.contains_key(*name)) {
            line(format_args!("flush chain ip {instance} {name}"));
        }
        // A set whose timeout changed is another set; chains that use it are new in any case,
        // because the Service was edited, but their rules read the same: write them again.
        let sets = before.sets.iter();
        let renewed: Vec<_> =
            sets.filter(|(set, time)| self.sets.get(*set) != Some(time)).collect();
        for (name, _) in &renewed {
            if let Some(user) = self.chains.keys().find(|chain| uses(name, chain)) {
                line(format_args!("flush chain ip {instance} {user}"));
            }
        }
        for (name, _) in &renewed {
            line(format_args!("delete set ip {instance} {name}"));
        }
        for (name, timeout) in &self.sets {
            if before.sets.get(name) != Some(timeout) {
                line(format_args!(
                    "add set ip {instance} {name} {{ type ipv4_addr; size {AFFINITY_CLIENTS}; \
                     flags dynamic,timeout; timeout {timeout}s; }}"
                ));
            }
        }
        for (name, rules) in &self.chains {
            let rewritten = renewed.iter().any(|(set, _)| uses(set, name));
            if before.chains.get(name) != Some(rules) || rewritten {
                for rule in rules {
                    line(format_args!("add rule ip {instance} {name} {rule}"));
                }
            }
        }
        let moved = |front: &Front, chain: &String, other: &Self| {
            other.fronts.get(front).is_none_or(|there| there != chain)
        };
        for (front, _) in before.fronts.iter().filter(|(front, chain)| moved(front, chain, self)) {
            let (map, key) = element(front);
            line(format_args!("delete element ip {instance} {map} {{ {key} }}"));
        }
        for (front, chain) in self.fronts.iter().filter(|(f, chain)| moved(f, chain, before)) {
            let (map, key) = element(front);
            line(format_args!("add element ip {instance} {map} {{ {key} : goto {chain} }}"));
        }
        for pod in before.hairpins.difference(&self.hairpins) {
            line(format_args!("delete element ip {instance} hairpins {{ {pod} . {pod} }}"));
        }
        for pod in self.hairpins.difference(&before.hairpins) {
            line(format_args!("add element ip {instance} hairpins {{ {pod} . {pod} }}"));
        }
        for name in before.chains.keys().filter(|name| !self.chains.contains_key(*name)) {
            line(format_args!("delete chain ip {instance} {name}"));
        }
        text
    }
}

/// Whether affinity set `set` belongs to `chain`.
fn uses(set: &str, chain: &str) -> bool {
    let rest = set.strip_prefix("of-").and_then(|rest| rest.strip_prefix(chain));
    rest.is_some_and(|rest| rest.starts_with('/'))
}

fn element(front: &Front) -> (&'static str, String) {
    match front {
        (Some(ip), protocol, port) => ("services", format!("{ip} . {protocol} . {port}")),
        (None, protocol, port) => ("node-ports", format!("{protocol} . {port}")),
    }
}
