//! Storage: claims and the volumes they are bound to.
//!
//! ```text
//!  claim ──▶ claims::plan ──▶ take a volume that fits ─────────────┐
//!               │                                                  ├──▶ bound, both sides
//!               └──▶ class of ours, node chosen ──▶ provision ─────┘
//!  volume ─▶ released::plan ──▶ Available, Bound, Released ──▶ delete, when its policy says so
//!  pod ────▶ ephemeral ──▶ claim POD-VOLUME, owned by the pod
//! ```
//!
//! A binding is two references that name each other with UIDs; the volume's is written first and
//! decides, so two claims never get one volume. Every step is one write after which the plan is made
//! anew. A claim of a class that waits for its first consumer is bound when the scheduler has named
//! a node in [`SELECTED_NODE`].
//!
//! Our provisioner makes objects only: a directory below the place that the node names in
//! [`PLACE`] is the node agent's to make and, while the finalizer [`LOCAL_PATH`] stands, to remove.
//!
//! Refuses: growing a bound claim, cloning and snapshots, CSI, recycling.
//!
//! # Source
//! Kubernetes' persistent-volume controller, and its protection and ephemeral-volume controllers.

use std::sync::Arc;

use berth_daemon::Tasks;
use k8s_openapi::api::core::v1::Node;

use crate::driver::{World, run};

mod claims;
mod drive;
mod ephemeral;
mod matching;
mod provision;
mod released;
#[cfg(test)]
mod tests;

/// The provisioner of node-local directories, and the finalizer of its volumes.
pub const LOCAL_PATH: &str = "berth.dev/local-path";
/// The node's annotation that says below which directory it keeps volumes.
pub const PLACE: &str = "berth.dev/volumes-dir";
/// The claim's annotation in which the scheduler names the node it chose.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// Runs the controllers of storage in `tasks`.
pub fn start(world: &Arc<World>, tasks: &Tasks) {
    run(drive::Claims::new(world), world, tasks);
    run(drive::Volumes::new(world), world, tasks);
    run(ephemeral::Ephemeral::new(world), world, tasks);
}

fn hostname(node: &Node) -> &str {
    let label = node.metadata.labels.as_ref().and_then(|all| all.get("kubernetes.io/hostname"));
    label.or(node.metadata.name.as_ref()).map_or("", String::as_str)
}
