//! Which node a pod goes to: a pure function of a snapshot.
//!
//! No clock, no I/O, no randomness but the profile's seed: production and rehearsal run the same
//! code on the same numbers. The driver that watches, assumes and binds is in `berth_controllers`.
//!
//! ```text
//!  Snapshot, Pod ──▶ filters (may it?) ──▶ scores (how well?) ──▶ Placement
//!                        └─ none left ──▶ Unschedulable: how many nodes refused why
//! ```
//!
//! Source: the scheduling framework of Kubernetes (KEP-624), whose filters, scores and weights these
//! follow; one file for each.

pub mod amount;
pub mod filter;
pub mod profile;
pub mod schedule;
pub mod score;
pub mod selector;
pub mod snapshot;

pub use profile::Profile;
pub use schedule::{Placement, Unschedulable, schedule};
pub use snapshot::{Node, Pod, Snapshot};
