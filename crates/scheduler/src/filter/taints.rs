//! A tainted node takes only pods that tolerate the taint.

use super::{Check, refuse};
use crate::snapshot::{Effect, Node, Pod, Snapshot, Taint};

pub(super) fn prepare<'a>(_: &'a Snapshot, pod: &'a Pod) -> Option<Check<'a>> {
    Some(Box::new(move |place| match untolerated(pod, &place.node) {
        Some(taint) => {
            refuse(format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value))
        }
        None => Ok(()),
    }))
}

/// The first taint that keeps `pod` off `node`.
pub(crate) fn untolerated<'n>(pod: &Pod, node: &'n Node) -> Option<&'n Taint> {
    node.taints.iter().find(|taint| {
        taint.effect != Effect::PreferNoSchedule
            && !pod.tolerations.iter().any(|toleration| toleration.covers(taint))
    })
}
