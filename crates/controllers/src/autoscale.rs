//! HorizontalPodAutoscaler: how many replicas a workload is to have, from what it uses.
//!
//! ```text
//!  every 15 s ─▶ scale ─▶ readings (metrics.k8s.io, custom, external) ─▶ replicas, by metric
//!                                                                          │ the most
//!       scale ◀─ behaviour (windows, policies) ◀─ bounds ◀─────────────────┘
//! ```
//!
//! [`replicas`] turns one metric's reading into a number, [`behavior`] says how fast it may be gone
//! to, [`plan`] puts them together with the conditions that people read; all pure. What a behaviour
//! has to remember (recommendations and steps of the last minutes) is the driver's, in memory: after
//! a restart a window begins anew.
//!
//! # Source
//! Kubernetes' horizontal controller; KEP-853 (behaviour), KEP-1610 (container metrics), KEP-4951
//! (tolerance).

mod behavior;
mod drive;
mod fetch;
mod plan;
mod replicas;
#[cfg(test)]
mod tests;

pub use drive::Autoscalers;
