//! Topology spread with `ScheduleAnyway`: the emptier the domain, the better.

use super::Rate;
use crate::filter::spread_counts;
use crate::snapshot::{Pod, Snapshot, Spread};

pub(super) fn prepare<'a>(snapshot: &'a Snapshot, pod: &'a Pod) -> Option<Rate<'a>> {
    let wished: Vec<&Spread> = pod.spread.iter().filter(|spread| !spread.required).collect();
    if wished.is_empty() {
        return None;
    }
    let counts: Vec<_> =
        wished.iter().map(|spread| (*spread, spread_counts(snapshot, pod, spread, &[]))).collect();
    Some(Box::new(move |place| {
        counts
            .iter()
            .map(|(spread, counts)| match place.node.labels.get(&spread.topology_key) {
                Some(domain) => counts.get(domain.as_str()).copied().unwrap_or(0),
                // Outside every domain is as bad as the fullest.
                None => counts.values().copied().max().unwrap_or(0) + 1,
            })
            .sum()
    }))
}
