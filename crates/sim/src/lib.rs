//! The model data centre: recordings, replay under another policy, comparison, hollow nodes.
//!
//! ```text
//!  cluster ──record──▶ ┌───────────┐                    ┌─ run: placements, what was left over
//!  openb   ──import──▶ │ Recording │ ──▶ trace, policy ─┼─ compare: two of them, side by side
//!  file    ──read────▶ └───────────┘                    └─ compaction: machines needed
//! ```
//!
//! Deciding is the scheduler's own code: a policy here is the policy there. Time is virtual, chance
//! comes from the seed alone. Hollow nodes are the one part that talks to a live cluster for long:
//! they acknowledge pods and run none, so they measure a control plane and say nothing of containers.
//!
//! Source: Borg's Fauxmaster (EuroSys '15, §3.1 and §5.1); kubemark's hollow nodes.

mod chance;
pub mod chart;
pub mod compaction;
pub mod compare;
pub mod hollow;
pub mod live;
pub mod measure;
pub mod openb;
pub mod policy;
pub mod recording;
pub mod run;
pub mod shadow;
pub mod trace;

pub use chance::Chance;
pub use policy::{Candidate, Contender, Policy, PolicyKind, Rehearsal};
pub use recording::Recording;
pub use run::{Outcome, Run, replay};
