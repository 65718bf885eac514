//! What of a live pod's spec a scheduler reads; the rest (images, commands, environment, volumes)
//! is nobody's business in a rehearsal and does not get into the file.

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use serde_json::Value;

/// The spec without anything that no filter and no score reads.
///
/// # Errors
/// Never for what came as JSON; the serialiser's word for it otherwise.
pub(super) fn kept(spec: &PodSpec) -> Result<Value, serde_json::Error> {
    let kept = PodSpec {
        affinity: spec.affinity.clone(),
        containers: spec.containers.iter().map(container).collect(),
        init_containers: spec
            .init_containers
            .as_ref()
            .map(|all| all.iter().map(container).collect()),
        host_network: spec.host_network,
        node_selector: spec.node_selector.clone(),
        overhead: spec.overhead.clone(),
        preemption_policy: spec.preemption_policy.clone(),
        priority: spec.priority,
        resources: spec.resources.as_ref().map(asked),
        scheduler_name: spec.scheduler_name.clone(),
        tolerations: spec.tolerations.clone(),
        topology_spread_constraints: spec.topology_spread_constraints.clone(),
        ..PodSpec::default()
    };
    serde_json::to_value(kept)
}

fn container(container: &Container) -> Container {
    let ports = container.ports.iter().flatten().cloned().map(|mut port| {
        port.name = None;
        port
    });
    let ports: Vec<_> = ports.collect();
    Container {
        ports: (!ports.is_empty()).then_some(ports),
        resources: container.resources.as_ref().map(asked),
        restart_policy: container.restart_policy.clone(),
        ..Container::default()
    }
}

fn asked(resources: &ResourceRequirements) -> ResourceRequirements {
    ResourceRequirements { requests: resources.requests.clone(), ..ResourceRequirements::default() }
}
