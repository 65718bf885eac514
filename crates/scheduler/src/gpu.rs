//! Packing pods onto nodes with GPUs: dense arrays of numbers, no Kubernetes object in sight.
//!
//! Production and simulation place through the same [`Packer`]. What a pod asks for is a [`Demand`];
//! equal demands are one class. A class remembers each node's score and rescores only nodes that
//! changed since it was last asked, so that a decision costs what changed and not what there is.
//!
//! Refuses: more than [`MOST_DEVICES`] devices on a node; a share of more than one whole device.
//!
//! Source: equivalence classes and score caches of Borg (EuroSys '15, §3.4); shares of devices in
//! thousandths as in "Beware of Fragmentation" (USENIX ATC '23).

mod cluster;
mod packer;
mod tournament;
mod workload;

pub use cluster::{Cluster, Demand, Devices, MOST_DEVICES, Node, Shape, WHOLE, bits};
pub use packer::{Packer, Placed, Score};
pub use tournament::Tournament;
pub use workload::{Learner, Workload};
