//! Which pods stand behind a Service: its EndpointSlices, and Endpoints for older clients.
//!
//! ```text
//! Service ─selector─▶ pods ─▶ members ─┬─▶ EndpointSlices, ≤ 100 members each
//!                                      └─▶ Endpoints, ready and not ready
//! ```
//!
//! A pod that is told to end leaves the ready set with that very change. Refuses Services without a
//! selector: their endpoints are somebody else's.
//!
//! Source: Kubernetes' endpoint slices (KEP-752, KEP-1672 for terminating members).

use std::sync::Arc;

use berth_daemon::Tasks;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::driver::{World, run};

mod drive;
mod members;
mod slices;
mod subsets;

/// Runs the controller in `tasks`.
pub fn start(world: &Arc<World>, tasks: &Tasks) {
    run(drive::ServiceEndpoints, world, tasks);
}

/// What a plan is made from.
pub(crate) struct Snapshot<'a> {
    /// The Service.
    pub service: &'a Service,
    /// Pods of its namespace: at least those its selector picks.
    pub pods: &'a [Arc<Pod>],
    /// EndpointSlices of its namespace.
    pub slices: &'a [Arc<EndpointSlice>],
    /// The Endpoints of its name, if any.
    pub endpoints: Option<&'a Endpoints>,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Slices to make.
    pub create: Vec<EndpointSlice>,
    /// Slices to write: metadata of the one there, content as it should be.
    pub update: Vec<EndpointSlice>,
    /// Slices to remove.
    pub delete: Vec<Arc<EndpointSlice>>,
    /// The Endpoints to write, where they differ.
    pub endpoints: Option<Endpoints>,
}

/// Decides for one Service.
pub(crate) fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let mut plan = Plan::default();
    let service = snapshot.service;
    let Some(spec) = &service.spec else { return plan };
    let selects = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    let external = spec.type_.as_deref() == Some("ExternalName");
    if !selects || external || service.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    slices::plan(snapshot, &mut plan);
    plan.endpoints = subsets::plan(snapshot);
    plan
}

/// Whether a Service has no address of its own.
fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

#[cfg(test)]
mod tests;
