//! Which node a pod goes to: a pure function of what the cluster is.
//!
//! No clock, no I/O, no randomness but the profile's seed: production and rehearsal run the same
//! code on the same numbers. The driver that watches, assumes and binds is in `berth_controllers`.
//!
//! ```text
//!  Cluster, Pod ──▶ filters (may it?) ──▶ scores (how well?) ──▶ Placement
//!                       └─ none left ──▶ Unschedulable: how many nodes refused why
//! ```
//!
//! Source: the scheduling framework of Kubernetes (KEP-624), whose filters, scores and weights these
//! follow.

pub mod admission;
pub mod advice;
pub mod amount;
mod class;
pub mod cluster;
pub mod decision;
pub mod defrag;
pub mod device;
pub mod gang;
pub mod gpu;
pub mod policy;
pub mod preempt;
pub mod profile;
mod rating;
pub mod reclaim;
pub mod reservation;
pub mod selector;
pub mod snapshot;
pub mod volumes;
mod world;

pub use cluster::Cluster;
pub use decision::{Explanation, Placement, Unschedulable};
pub use profile::Profile;
pub use snapshot::{Node, Pod};
pub use world::Load;
