//! Which share of the requests each instance gets while two versions run, where a balancer of ours
//! carries them.
//!
//! Instances are whole, weights are not: one new instance of four is to get 10 % of the requests
//! when 10 % is asked for, not 25 %.

use std::collections::BTreeMap;

use super::swap::Instance;

/// Weights of the ready instances by name, such that those of `release` get `percent` of all
/// requests together; empty where it takes only one version to answer all.
pub fn weights(instances: &[Instance], release: &str, percent: i32) -> BTreeMap<String, u32> {
    let is_new = |one: &&Instance| one.release.as_deref() == Some(release);
    let ready = || instances.iter().filter(|one| one.ready);
    let new = ready().filter(is_new).count();
    let old = ready().count() - new;
    let share = u32::try_from(percent.clamp(0, 100)).unwrap_or(0);
    if new == 0 || old == 0 || share == 0 || share == 100 {
        return BTreeMap::new();
    }
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let of_new = share.saturating_mul(count(old));
    let of_old = (100 - share).saturating_mul(count(new));
    let weight = |one: &Instance| if is_new(&one) { of_new } else { of_old };
    ready().map(|one| (one.name.clone(), weight(one))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(name: &str, release: &str, ready: bool) -> Instance {
        Instance {
            name: name.to_owned(),
            release: Some(release.to_owned()),
            ready,
            ..Instance::default()
        }
    }

    #[test]
    fn the_new_get_what_is_asked_for_however_many_they_are() {
        for (old, new, percent) in [(3, 1, 10), (1, 3, 10), (9, 1, 1), (2, 2, 50), (1, 1, 99)] {
            let mut all: Vec<Instance> =
                (0..old).map(|n| instance(&format!("o{n}"), "1", true)).collect();
            all.extend((0..new).map(|n| instance(&format!("n{n}"), "2", true)));
            // What is not ready gets nothing and counts for nothing.
            all.push(instance("starts", "2", false));
            let weights = weights(&all, "2", percent);
            assert_eq!(weights.len(), old + new);
            let sum = |first: char| -> u32 {
                weights.iter().filter(|(name, _)| name.starts_with(first)).map(|(_, w)| w).sum()
            };
            let share = f64::from(sum('n')) * 100.0 / f64::from(sum('n') + sum('o'));
            assert!((share - f64::from(percent)).abs() < 1e-9, "{old} {new} {percent}: {share}");
        }
    }

    #[test]
    fn one_version_alone_needs_no_weights() {
        let all = [instance("a", "1", true), instance("b", "1", true)];
        assert!(weights(&all, "2", 10).is_empty());
        assert!(weights(&all, "1", 10).is_empty());
        let both = [instance("a", "1", true), instance("b", "2", true)];
        assert!(weights(&both, "2", 100).is_empty());
        assert_eq!(weights(&both, "2", 10).len(), 2);
    }
}
