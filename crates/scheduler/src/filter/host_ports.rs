//! A port of the node serves one pod.

use super::{Check, refuse};
use crate::snapshot::{HostPort, Pod, Snapshot};

pub(super) fn prepare<'a>(_: &'a Snapshot, pod: &'a Pod) -> Option<Check<'a>> {
    if pod.host_ports.is_empty() {
        return None;
    }
    Some(Box::new(move |place| {
        let taken = || place.pods.iter().flat_map(|other| &other.host_ports);
        if pod.host_ports.iter().any(|wanted| taken().any(|other| clash(wanted, other))) {
            refuse("node(s) didn't have free ports for the requested pod ports")
        } else {
            Ok(())
        }
    }))
}

fn clash(one: &HostPort, other: &HostPort) -> bool {
    let everywhere = |port: &HostPort| matches!(port.address.as_str(), "0.0.0.0" | "::");
    one.port == other.port
        && one.protocol == other.protocol
        && (one.address == other.address || everywhere(one) || everywhere(other))
}
