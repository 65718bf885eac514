//! The emptier the better.

use super::{Rate, fill};
use crate::snapshot::{Pod, Snapshot};

pub(super) fn prepare<'a>(_: &'a Snapshot, pod: &'a Pod) -> Option<Rate<'a>> {
    Some(Box::new(move |place| {
        let free: f64 = fill(place, pod).iter().map(|share| (1.0 - share).max(0.0)).sum();
        (free / 2.0 * 100.0) as i64
    }))
}
