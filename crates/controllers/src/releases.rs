//! Releases: how one version of an App takes the place of another.
//!
//! ```text
//!  App's template changes ──▶ Release ──plan──▶ main workload │ candidate │ who gets requests
//!                               ▲                    Deployment   ReplicaSet    Service's selector
//!                               └── status, what was measured, what people wish
//! ```
//!
//! The main workload keeps its name for ever. Canary and blue-green put a ReplicaSet of the App's
//! own beside it; when its version is to stay, the main workload takes it on while the candidate
//! shrinks, so that afterwards there is one ordinary Deployment again. Blue-green of a StatefulSet
//! without disks is the same with a second StatefulSet; its canary is its own last instances. Every
//! step moves by [`transfer::transfer`], which never has more instances than `replicas` + surge.
//! Going back is the same way in the other direction.
//!
//! Refused: overlapping releases of one App (the earlier is taken back first), and blue-green with
//! disks (each colour would have its own, and one of them goes in the end).
//!
//! Known faults of others that shaped this: autoscalers that fight the controller over `replicas`
//! (here they scale the App), surges that outlive their step, and steps that begin without room.

mod balancer;
pub mod drive;
pub mod freeze;
pub mod judge;
pub mod plan;
mod prometheus;
pub mod scene;
pub mod shares;
pub mod steps;
pub mod swap;
pub mod transfer;

#[cfg(test)]
mod tests;
