//! A pod's phase, as the Kubernetes documentation defines it.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus};

use crate::pod::container::{self, Role};
use crate::pod::plan::{Plan, View};
use crate::pod::restart::RestartPolicy;

pub(super) fn phase(
    view: &View<'_>,
    plan: &Plan,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
) -> &'static str {
    let policy = RestartPolicy::of_pod(view.pod);
    let policy = if plan.ending { RestartPolicy::Never } else { policy };
    let state = |status: &ContainerStatus| status.state.clone().unwrap_or_default();
    let ended = |state: &ContainerState| state.terminated.as_ref().map(|end| end.exit_code);
    let sidecars: Vec<String> = container::all(view.pod)
        .into_iter()
        .filter(|(role, _)| *role == Role::Sidecar)
        .map(|(_, container)| container.name)
        .collect();
    let standing = init.iter().filter(|status| sidecars.contains(&status.name));
    let any_sidecar = standing.clone().any(|status| state(status).running.is_some());
    let still = main.iter().any(|status| state(status).running.is_some());
    if plan.cause.is_some() {
        return if still || any_sidecar { "Running" } else { "Failed" };
    }
    let init_failed = init
        .iter()
        .filter(|status| !sidecars.contains(&status.name))
        .any(|status| ended(&state(status)).is_some_and(|code| code != 0));
    if !plan.initialized {
        return if init_failed && policy == RestartPolicy::Never && !any_sidecar {
            "Failed"
        } else {
            "Pending"
        };
    }
    let has_run = |status: &ContainerStatus| {
        state(status).waiting.is_none()
            || status.last_state.as_ref().is_some_and(|last| last.terminated.is_some())
    };
    if !main.iter().all(has_run) {
        return if plan.ending && !still { "Failed" } else { "Pending" };
    }
    if still {
        return "Running";
    }
    let codes: Vec<i32> = main
        .iter()
        .filter_map(|status| {
            let last = status.last_state.clone().unwrap_or_default();
            ended(&state(status)).or(ended(&last))
        })
        .collect();
    // A container that waits to be restarted keeps the pod running.
    let over = plan.terminal || plan.ending;
    if !over || any_sidecar {
        "Running"
    } else if codes.iter().all(|code| *code == 0) {
        "Succeeded"
    } else {
        "Failed"
    }
}
