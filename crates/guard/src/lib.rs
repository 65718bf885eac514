//! Judgement over requests: given what is asked and what the cluster's owner laid down, what is
//! allowed, refused or changed.
//!
//! Everything here is a pure function of a snapshot: the same judgement runs on a live request and
//! over an audit log. Refuses to fetch anything: objects, parameters and permissions are handed in.

mod attributes;
pub mod cel;
mod condition;
pub mod config;
mod fault;
mod matching;
pub mod policy;
pub mod structural;
pub mod webhook;

pub use attributes::{Asked, Attributes, Kind, Place};
pub use condition::{Condition, Met};
pub use fault::Fault;
pub use matching::{Constraints, Equivalent, Rule};
