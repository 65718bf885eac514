//! What whole-system tests and benchmarks share: a cluster of their own, load, patience.
//!
//! Everything here drives the built binary (`target/release/berth`) and real clients, as people do.

pub mod apps;
mod cluster;
mod kubernetes;
mod load;
mod machine;
mod oci;
mod place;
mod ports;
pub mod strategies;
mod wait;
mod watched;

pub use cluster::{Cluster, Ran};
pub use kubernetes::{Kubernetes, Real, TOKEN};
pub use load::{Load, Report, get, get_with};
pub use machine::{can_run_clusters, leftovers, root};
pub use oci::Image;
pub use place::Place;
pub use ports::free_ports;
pub use wait::{until, within};
pub use watched::Watched;
