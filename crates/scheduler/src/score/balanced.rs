//! Processor and memory should run out together.

use super::{Rate, fill};
use crate::snapshot::{Pod, Snapshot};

pub(super) fn prepare<'a>(_: &'a Snapshot, pod: &'a Pod) -> Option<Rate<'a>> {
    Some(Box::new(move |place| {
        let [cpu, memory] = fill(place, pod).map(|share| share.min(1.0));
        // Half the difference is the standard deviation of two.
        ((1.0 - (cpu - memory).abs() / 2.0) * 100.0) as i64
    }))
}
