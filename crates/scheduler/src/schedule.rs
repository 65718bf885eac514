//! One pod, one decision.

use std::collections::BTreeMap;
use std::fmt;

use crate::profile::Profile;
use crate::snapshot::{Place, Pod, Snapshot};

/// Where a pod goes, and why there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The node's name.
    pub node: String,
    /// What each score gave it, 0..=100 times its weight.
    pub scores: Vec<(&'static str, i64)>,
    /// How many nodes passed the filters.
    pub candidates: usize,
}

/// Why a pod goes nowhere. Displays as Kubernetes words it:
/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unschedulable {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many nodes each filter refused.
    pub by_filter: BTreeMap<&'static str, usize>,
    /// How many nodes gave each reason.
    pub reasons: BTreeMap<String, usize>,
}

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut reasons: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        write!(f, "0/{} nodes are available: {}.", self.nodes, reasons.join(", "))
    }
}

impl std::error::Error for Unschedulable {}

/// Picks a node for `pod`.
///
/// # Guarantees
/// Same snapshot, pod and profile, same answer.
/// # Errors
/// [`Unschedulable`] counts the nodes that each filter refused, and why.
/// # Source
/// KEP-624.
pub fn schedule(
    snapshot: &Snapshot,
    pod: &Pod,
    profile: &Profile,
) -> Result<Placement, Unschedulable> {
    let candidates = candidates(snapshot, pod, profile)?;
    let mut parts: Vec<(&'static str, Vec<i64>)> = Vec::new();
    if candidates.len() > 1 {
        for (score, weight) in &profile.scores {
            let Some(rate) = (score.prepare)(snapshot, pod) else { continue };
            let mut values: Vec<i64> = candidates.iter().map(|place| rate(place)).collect();
            score.scale.apply(&mut values);
            values.iter_mut().for_each(|value| *value *= weight);
            parts.push((score.name, values));
        }
    }
    let total = |at: usize| parts.iter().map(|(_, values)| values[at]).sum::<i64>();
    let best = (0..candidates.len())
        .max_by_key(|at| (total(*at), draw(profile.seed, &pod.uid, &candidates[*at].node.name)))
        .expect("candidates are refused when there are none");
    Ok(Placement {
        node: candidates[best].node.name.clone(),
        scores: parts.iter().map(|(name, values)| (*name, values[best])).collect(),
        candidates: candidates.len(),
    })
}

fn candidates<'a>(
    snapshot: &'a Snapshot,
    pod: &Pod,
    profile: &Profile,
) -> Result<Vec<&'a Place>, Unschedulable> {
    let checks: Vec<_> = profile
        .filters
        .iter()
        .filter_map(|filter| Some((filter.name, (filter.prepare)(snapshot, pod)?)))
        .collect();
    let mut refused = Unschedulable {
        nodes: snapshot.places.len(),
        by_filter: BTreeMap::new(),
        reasons: BTreeMap::new(),
    };
    let mut passed = Vec::new();
    'places: for place in snapshot.places.values() {
        for (filter, check) in &checks {
            if let Err(reasons) = check(place) {
                *refused.by_filter.entry(filter).or_default() += 1;
                for reason in reasons {
                    *refused.reasons.entry(reason).or_default() += 1;
                }
                continue 'places;
            }
        }
        passed.push(place);
    }
    if passed.is_empty() { Err(refused) } else { Ok(passed) }
}

/// A number that is the same for the same three, and spread evenly otherwise (FNV-1a, then mixed).
fn draw(seed: u64, pod: &str, node: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ seed;
    for byte in pod.bytes().chain([0]).chain(node.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests;
