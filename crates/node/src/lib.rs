//! The machine: pods of the API over CRI.
//!
//! The agent watches the pods that are bound to this node and keeps the runtime as they say:
//! sandboxes, containers, probes, status. It refuses to end anything that the API server has not
//! confirmed to be gone: containers outlive every process of ours.
//!
//! ```text
//!  API ──watch──▶ agent ──▶ one worker a pod ──plan──▶ actions ──▶ cri ──▶ containerd
//!                              ▲        ▲                           │
//!                   probes ────┘        └──── runtime_events ◀──────┘
//! ```

mod admission;
pub mod agent;
pub mod app_logs;
pub mod collector;
mod config;
pub mod cri;
mod events;
mod images;
pub mod pod;
mod probes;
mod runtime_events;

pub use config::Config;
pub use start::{StartError, start};
pub use teardown::{TeardownError, teardown};
pub mod cgroups;
pub mod containerd;
mod descriptor;
mod downward;
pub mod environment;
pub mod logs;
mod machine;
mod meters;
mod mounts;
pub mod network;
mod node_status;
pub mod preflight;
mod quantity;
#[cfg(test)]
mod sample;
pub mod server;
mod start;
#[cfg(test)]
mod system_tests;
mod teardown;
mod tool;
pub mod volumes;
