//! How well does a pod go to a node that may take it? One file a view.
//!
//! A score gives raw numbers; [`Scale`] says how they become 0..=100 among the nodes compared.

mod balanced;
mod images;
mod least_allocated;
mod node_affinity;
mod pod_affinity;
mod spread;
mod taints;

use crate::snapshot::{Place, Pod, Snapshot};

/// Rates one node in numbers of its own.
pub type Rate<'a> = Box<dyn Fn(&Place) -> i64 + 'a>;

/// How raw numbers become 0..=100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// They are already.
    Percent,
    /// The highest is 100, nothing is 0.
    Highest,
    /// Nothing is 100, the highest is 0.
    Fewest,
    /// The highest is 100, the lowest is 0.
    Spread,
}

/// One view on how well a node suits.
pub struct Score {
    /// Kubernetes' name for it.
    pub name: &'static str,
    /// Looks at the cluster once; `None` when it would rate all nodes alike.
    pub prepare: for<'a> fn(&'a Snapshot, &'a Pod) -> Option<Rate<'a>>,
    /// How its numbers are read.
    pub scale: Scale,
}

/// All scores with the weights that Kubernetes gives them.
pub static ALL: &[(Score, i64)] = &[
    (Score { name: "TaintToleration", prepare: taints::prepare, scale: Scale::Fewest }, 3),
    (Score { name: "NodeAffinity", prepare: node_affinity::prepare, scale: Scale::Highest }, 2),
    (Score { name: "PodTopologySpread", prepare: spread::prepare, scale: Scale::Fewest }, 2),
    (Score { name: "InterPodAffinity", prepare: pod_affinity::prepare, scale: Scale::Spread }, 2),
    (
        Score {
            name: "NodeResourcesFit",
            prepare: least_allocated::prepare,
            scale: Scale::Percent,
        },
        1,
    ),
    (
        Score {
            name: "NodeResourcesBalancedAllocation",
            prepare: balanced::prepare,
            scale: Scale::Percent,
        },
        1,
    ),
    (Score { name: "ImageLocality", prepare: images::prepare, scale: Scale::Percent }, 1),
];

impl Scale {
    /// `raw` as 0..=100 each.
    pub fn apply(self, raw: &mut [i64]) {
        let highest = raw.iter().copied().max().unwrap_or(0);
        let lowest = raw.iter().copied().min().unwrap_or(0);
        for value in raw {
            *value = match self {
                Self::Percent => *value,
                Self::Highest if highest > 0 => *value * 100 / highest,
                Self::Highest => 0,
                Self::Fewest if highest > 0 => 100 - *value * 100 / highest,
                Self::Fewest => 100,
                Self::Spread if highest > lowest => (*value - lowest) * 100 / (highest - lowest),
                Self::Spread => 0,
            };
        }
    }
}

/// How full a node would be of processor and memory with the pod on it, 0.0 and up.
fn fill(place: &Place, pod: &Pod) -> [f64; 2] {
    let share = |used: i64, all: i64| if all > 0 { used as f64 / all as f64 } else { 1.0 };
    let all = &place.node.allocatable;
    [
        share(place.weighed.cpu.0 + pod.weighed.cpu.0, all.cpu.0),
        share(place.weighed.memory.0 + pod.weighed.memory.0, all.memory.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_map_to_percent() {
        fn check(scale: Scale, raw: &[i64], expected: &[i64]) {
            let mut values = raw.to_vec();
            scale.apply(&mut values);
            assert_eq!(values, expected, "{scale:?} {raw:?}");
        }
        check(Scale::Percent, &[3, 90], &[3, 90]);
        check(Scale::Highest, &[0, 5, 10], &[0, 50, 100]);
        check(Scale::Highest, &[0, 0], &[0, 0]);
        check(Scale::Fewest, &[0, 5, 10], &[100, 50, 0]);
        check(Scale::Fewest, &[0, 0], &[100, 100]);
        check(Scale::Spread, &[-10, 0, 10], &[0, 50, 100]);
        check(Scale::Spread, &[7, 7], &[0, 0]);
    }
}
