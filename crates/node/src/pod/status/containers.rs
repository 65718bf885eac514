//! One container's status.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ResourceRequirements,
};

use super::whole_seconds;
use crate::pod::container::Role;
use crate::pod::plan::{Plan, View, Waiting};
use crate::pod::runtime::{ContainerRecord, Life};

pub(super) fn status(
    view: &View<'_>,
    plan: &Plan,
    role: Role,
    container: &Container,
) -> ContainerStatus {
    let name = &container.name;
    let record = view.runtime.latest(name).filter(|record| record.life != Life::Created);
    let Some(record) = record else { return without_record(view, plan, container) };
    let running = matches!(record.life, Life::Running | Life::Unknown);
    let hooked = view.facts.hooks.contains(&record.id);
    let started = running && !hooked && view.probes.started(container, &record.id);
    let ready = match role {
        // An init container is "ready" once it has done its part.
        Role::Init => record.life == Life::Exited && record.exit_code == 0,
        Role::Ephemeral => false,
        _ => started && view.probes.ready(container, &record.id),
    };
    let waiting = plan.waiting.get(name).filter(|_| record.life == Life::Exited && !plan.ending);
    let (state, last) = match waiting {
        Some(waiting) => (waiting_state(waiting), Some(state_of(record))),
        None => {
            let before = view.runtime.previous(name).map(state_of);
            (state_of(record), before)
        }
    };
    let resources = view.facts.resources.get(&record.id).or(record.resources.as_ref());
    let resources: Option<ResourceRequirements> =
        resources.and_then(|text| serde_json::from_str(text).ok()).flatten();
    ContainerStatus {
        name: name.clone(),
        image: record.wanted_image.clone().unwrap_or_else(|| record.image.clone()),
        image_id: record.image_ref.clone(),
        container_id: Some(format!("containerd://{}", record.id)),
        restart_count: i32::try_from(record.attempt).unwrap_or(i32::MAX),
        started: Some(started),
        ready,
        state: Some(state),
        last_state: Some(last.unwrap_or_default()),
        allocated_resources: resources
            .as_ref()
            .and_then(|r| r.requests.clone())
            .filter(|_| running),
        resources: resources.filter(|_| running),
        ..ContainerStatus::default()
    }
}

/// Nothing of it in the runtime: not begun yet, or forgotten.
fn without_record(view: &View<'_>, plan: &Plan, container: &Container) -> ContainerStatus {
    let old = view.pod.status.as_ref();
    let lists = old.into_iter().flat_map(|status| {
        let init = status.init_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten())
            .chain(status.ephemeral_container_statuses.iter().flatten())
    });
    let known = lists.clone().find(|status| status.name == container.name);
    if let Some(known) = known
        && known.state.as_ref().is_some_and(|state| state.terminated.is_some())
        && plan.ending
    {
        return known.clone();
    }
    let reason = if plan.initialized { "ContainerCreating" } else { "PodInitializing" };
    let waiting = plan
        .waiting
        .get(&container.name)
        .cloned()
        .unwrap_or(Waiting { reason: reason.to_owned(), message: None });
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        restart_count: known.map_or(0, |known| known.restart_count),
        started: Some(false),
        state: Some(waiting_state(&waiting)),
        last_state: Some(known.and_then(|known| known.last_state.clone()).unwrap_or_default()),
        ..ContainerStatus::default()
    }
}

fn waiting_state(waiting: &Waiting) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(waiting.reason.clone()),
            message: waiting.message.clone(),
        }),
        ..ContainerState::default()
    }
}

fn state_of(record: &ContainerRecord) -> ContainerState {
    if record.life != Life::Exited {
        let started_at = record.started_at.map(whole_seconds);
        let running = ContainerStateRunning { started_at };
        return ContainerState { running: Some(running), ..ContainerState::default() };
    }
    let reason = match (record.reason.as_str(), record.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    let terminated = ContainerStateTerminated {
        exit_code: record.exit_code,
        reason: Some(reason.to_owned()),
        message: record.left.clone(),
        started_at: record.started_at.map(whole_seconds),
        finished_at: record.finished_at.map(whole_seconds),
        container_id: Some(format!("containerd://{}", record.id)),
        signal: None,
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}
