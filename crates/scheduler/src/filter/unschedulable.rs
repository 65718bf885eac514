//! A cordoned node takes no pods but those that tolerate it.

use super::{Check, refuse};
use crate::snapshot::{Effect, Pod, Snapshot, Taint};

/// The taint that Kubernetes puts on a cordoned node.
const TAINT: &str = "node.kubernetes.io/unschedulable";

pub(super) fn prepare<'a>(_: &'a Snapshot, pod: &'a Pod) -> Option<Check<'a>> {
    let taint = Taint { key: TAINT.to_owned(), value: String::new(), effect: Effect::NoSchedule };
    if pod.tolerations.iter().any(|toleration| toleration.covers(&taint)) {
        return None;
    }
    Some(Box::new(|place| {
        if place.node.unschedulable { refuse("node(s) were unschedulable") } else { Ok(()) }
    }))
}
