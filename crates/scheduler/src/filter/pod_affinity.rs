//! Near some pods and away from others, in domains that a node label tells.
//!
//! Three questions: the pod's own anti-affinity, that of the pods already there against it, and its
//! affinity. The first pod of a group that wants to be near itself may go anywhere.

use std::collections::BTreeSet;

use super::{Check, refuse};
use crate::snapshot::{Near, Place, Pod, Snapshot};

/// A node label and one of its values.
type Domain<'a> = (&'a str, &'a str);

pub(super) fn prepare<'a>(snapshot: &'a Snapshot, pod: &'a Pod) -> Option<Check<'a>> {
    let forbidden = forbidden_by_others(snapshot, pod);
    if forbidden.is_empty() && pod.affinity.is_empty() && pod.anti_affinity.is_empty() {
        return None;
    }
    let of = |term: &'a Near| {
        (term, domains(snapshot, |other| term.means(other, &snapshot.namespaces), term))
    };
    let away: Vec<_> = pod.anti_affinity.iter().map(of).collect();
    // A pod counts for affinity only where it meets every term.
    let meets_all =
        |other: &Pod| pod.affinity.iter().all(|term| term.means(other, &snapshot.namespaces));
    let near: Vec<_> =
        pod.affinity.iter().map(|term| (term, domains(snapshot, meets_all, term))).collect();
    let first = near.iter().all(|(_, domains)| domains.is_empty()) && meets_all(pod);
    Some(Box::new(move |place| {
        let is_in = |term: &Near, domains: &BTreeSet<&str>| {
            place
                .node
                .labels
                .get(&term.topology_key)
                .is_some_and(|own| domains.contains(own.as_str()))
        };
        let has_key = |term: &Near| place.node.labels.contains_key(&term.topology_key);
        let near_holds =
            near.iter().all(|(term, domains)| is_in(term, domains) || (first && has_key(term)));
        if !near_holds {
            return refuse("node(s) didn't match pod affinity rules");
        }
        if away.iter().any(|(term, domains)| is_in(term, domains)) {
            return refuse("node(s) didn't match pod anti-affinity rules");
        }
        if forbidden.iter().any(|(key, value)| is_of(place, key, value)) {
            return refuse("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        Ok(())
    }))
}

fn is_of(place: &Place, key: &str, value: &str) -> bool {
    place.node.labels.get(key).is_some_and(|own| own == value)
}

/// The values of the term's node label where a pod that `counts` runs.
fn domains<'a>(
    snapshot: &'a Snapshot,
    counts: impl Fn(&Pod) -> bool,
    term: &Near,
) -> BTreeSet<&'a str> {
    snapshot
        .places
        .values()
        .filter(|place| place.pods.iter().any(|other| counts(other)))
        .filter_map(|place| place.node.labels.get(&term.topology_key).map(String::as_str))
        .collect()
}

/// Where pods run whose anti-affinity means this pod.
fn forbidden_by_others<'a>(snapshot: &'a Snapshot, pod: &Pod) -> BTreeSet<Domain<'a>> {
    let mut forbidden = BTreeSet::new();
    for place in snapshot.places.values() {
        for term in place.pods.iter().flat_map(|other| &other.anti_affinity) {
            if term.means(pod, &snapshot.namespaces)
                && let Some(value) = place.node.labels.get(&term.topology_key)
            {
                forbidden.insert((term.topology_key.as_str(), value.as_str()));
            }
        }
    }
    forbidden
}
