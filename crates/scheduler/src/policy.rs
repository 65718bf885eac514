//! Policies of the packer: which node, and which of its devices.
//!
//! Each is a pure [`Score`](crate::gpu::Score), or chooses one as the cluster fills
//! ([`Archimedes`]). Production and simulation run the same.

mod archimedes;
mod best_fit;
mod fgd;
mod spread_out;

pub use archimedes::{Archimedes, Prices};
pub use best_fit::{BestFit, TIE, tightness};
pub use fgd::Fgd;
pub use spread_out::SpreadOut;

use crate::gpu::{Demand, Devices, Node, WHOLE};

/// Calls `found` with every choice of devices that leads to another state: each different fill for a
/// share of one device, else the tightest.
fn choices(node: &Node, demand: &Demand, mut found: impl FnMut(Devices)) {
    if demand.gpus != 1 || demand.gpu_milli >= WHOLE {
        return found(node.tightest(demand));
    }
    for (index, free) in node.free().iter().enumerate() {
        if *free >= demand.gpu_milli && !node.free()[..index].contains(free) {
            found(1 << index);
        }
    }
}

/// The first half of a key without loss.
const MIDDLE: f64 = (1_u64 << 31) as f64;

/// A key for a loss (smaller is better) and a tie-break (greater is better).
fn key(loss: f64, tie: u32) -> u64 {
    let first = (MIDDLE - loss.round()).clamp(1.0, MIDDLE * 2.0 - 1.0) as u64;
    (first << 32) | u64::from(tie)
}

/// The loss that a key was made of, rounded.
pub(crate) fn loss(key: u64) -> f64 {
    MIDDLE - (key >> 32) as f64
}
