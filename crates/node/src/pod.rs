//! One pod on this node: what is wanted, what the runtime has, what to do about it.
//!
//! ```text
//!  observe ──▶ runtime (snapshot) ─┐
//!  API object, probes, facts ──────┼─▶ plan ──▶ actions ──▶ worker runs them
//!                                  └─▶ status ──▶ API
//! ```
//!
//! `plan` and `status` are pure; `worker` is the only one that acts.

pub(crate) mod container;
pub(crate) mod dns;
mod facts;
pub mod labels;
pub(crate) mod plan;
pub(crate) mod resources;
mod restart;
pub(crate) mod runtime;
mod sandbox;
mod security;
mod status;
pub(crate) mod steps;
pub mod table;
mod termination;
pub(crate) mod worker;

pub use security::ImageUser;
pub use table::{ContainerEntry, ContainerRef, PodEntry, PodTable};
