//! Topology spread with `DoNotSchedule`: no domain may hold too many more pods of a kind than the
//! emptiest one.
//!
//! Source: KEP-895, KEP-3022 (minimum domains), KEP-3094 (which nodes make domains).

use std::collections::BTreeMap;

use super::{Check, refuse, selects, untolerated};
use crate::snapshot::{Place, Pod, Snapshot, Spread};

struct Counted<'a> {
    spread: &'a Spread,
    by_domain: BTreeMap<&'a str, i64>,
    fewest: i64,
    own: i64,
}

pub(super) fn prepare<'a>(snapshot: &'a Snapshot, pod: &'a Pod) -> Option<Check<'a>> {
    let required: Vec<&Spread> = pod.spread.iter().filter(|spread| spread.required).collect();
    if required.is_empty() {
        return None;
    }
    let counted: Vec<Counted<'_>> = required
        .iter()
        .map(|spread| {
            let by_domain = count(snapshot, pod, spread, &required);
            let enough = by_domain.len() as i64 >= spread.min_domains;
            let fewest = if enough { by_domain.values().copied().min().unwrap_or(0) } else { 0 };
            let own = i64::from(spread.selector.matches(&pod.labels));
            Counted { spread, by_domain, fewest, own }
        })
        .collect();
    Some(Box::new(move |place| counted.iter().try_for_each(|each| check(each, place))))
}

fn check(counted: &Counted<'_>, place: &Place) -> Result<(), Vec<String>> {
    let Some(domain) = place.node.labels.get(&counted.spread.topology_key) else {
        return refuse(
            "node(s) didn't match pod topology spread constraints (missing required label)",
        );
    };
    let there = counted.by_domain.get(domain.as_str()).copied().unwrap_or(0);
    if there + counted.own - counted.fewest > counted.spread.max_skew {
        return refuse("node(s) didn't match pod topology spread constraints");
    }
    Ok(())
}

/// How many pods of the kind each domain holds; only nodes that could take the pod make domains.
pub(crate) fn count<'a>(
    snapshot: &'a Snapshot,
    pod: &Pod,
    spread: &Spread,
    together: &[&Spread],
) -> BTreeMap<&'a str, i64> {
    let mut counts = BTreeMap::new();
    for place in snapshot.places.values() {
        let labels = &place.node.labels;
        if together.iter().any(|each| !labels.contains_key(&each.topology_key))
            || (spread.honour_affinity && !selects(pod, &place.node))
            || (spread.honour_taints && untolerated(pod, &place.node).is_some())
        {
            continue;
        }
        let Some(domain) = labels.get(&spread.topology_key) else { continue };
        let alike = place.pods.iter().filter(|other| {
            !other.terminating
                && other.namespace == pod.namespace
                && spread.selector.matches(&other.labels)
        });
        *counts.entry(domain.as_str()).or_default() += alike.count() as i64;
    }
    counts
}
