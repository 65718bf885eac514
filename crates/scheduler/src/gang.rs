//! Pods that are worth something only together: enough of them get a place at once, or none does.
//!
//! Source: KEP-4671 and Volcano's PodGroup, with the group named on the pods.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::decision::{Placement, Unschedulable};
use crate::snapshot::Pod;

/// A pod of a gang, and where it goes.
pub type Outcome = (Arc<Pod>, Result<Placement, Unschedulable>);

/// A gang that found no room.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found} of the {least} pods that the gang needs at once found room; the next one: {why}")]
pub struct TooFew {
    /// How many had a place, or would have had one.
    pub found: usize,
    /// How many it takes.
    pub least: usize,
    /// Why the first that fell fell.
    pub why: Unschedulable,
}

/// Places as many of `pods` as fit, if with `there` that are placed already they are `least`.
/// Those with a place are counted in `cluster` when this returns.
///
/// # Guarantees
/// All or none: on an error nothing in `cluster` is other than before.
/// # Errors
/// [`TooFew`].
pub fn place(
    cluster: &mut Cluster,
    pods: &[Arc<Pod>],
    there: usize,
    least: usize,
) -> Result<Vec<Outcome>, TooFew> {
    let mut outcomes = Vec::with_capacity(pods.len());
    let (mut found, mut first) = (there, None);
    for pod in pods {
        let outcome = cluster.decide(pod);
        match &outcome {
            Ok(placement) => {
                let given = cluster.with_devices(pod, &placement.node);
                cluster.place(given, &placement.node);
                found += 1;
            }
            Err(why) => {
                first.get_or_insert_with(|| why.clone());
            }
        }
        outcomes.push((Arc::clone(pod), outcome));
    }
    if found >= least {
        return Ok(outcomes);
    }
    for (pod, outcome) in &outcomes {
        if outcome.is_ok() {
            cluster.remove(&pod.uid);
        }
    }
    let waiting = || Unschedulable::prior(0, format!("{} pods of the gang exist", pods.len()));
    Err(TooFew { found, least, why: first.unwrap_or_else(waiting) })
}
