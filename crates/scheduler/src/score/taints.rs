//! The fewer taints that ask to stay away, the better.

use super::Rate;
use crate::snapshot::{Effect, Pod, Snapshot};

pub(super) fn prepare<'a>(_: &'a Snapshot, pod: &'a Pod) -> Option<Rate<'a>> {
    Some(Box::new(move |place| {
        let unwanted = place.node.taints.iter().filter(|taint| {
            taint.effect == Effect::PreferNoSchedule
                && !pod.tolerations.iter().any(|toleration| toleration.covers(taint))
        });
        unwanted.count() as i64
    }))
}
