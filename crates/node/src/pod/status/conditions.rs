//! A pod's conditions: each with the time of its last change.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};

use super::whole_seconds;
use crate::pod::plan::{End, Plan, Resize, View};

/// Conditions that are only there while they hold.
pub(super) const PASSING: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// The kubelet's words for it.
const DISPLACED: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";

struct Truth {
    kind: &'static str,
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

/// Ours, with times kept where nothing changed, and after them what others put there.
pub(super) fn conditions(
    view: &View<'_>,
    plan: &Plan,
    status: &PodStatus,
    old: &PodStatus,
    now: Timestamp,
) -> Vec<PodCondition> {
    let ours = truths(view, plan, status, old);
    let before = old.conditions.clone().unwrap_or_default();
    let mut conditions: Vec<PodCondition> = before
        .iter()
        .filter(|had| ours.iter().all(|truth| truth.kind != had.type_))
        .filter(|had| !PASSING.contains(&had.type_.as_str()))
        .cloned()
        .collect();
    for truth in ours {
        let had = before.iter().find(|had| had.type_ == truth.kind);
        let word = if truth.holds { "True" } else { "False" };
        let unchanged = had.filter(|had| had.status == word);
        conditions.push(PodCondition {
            type_: truth.kind.to_owned(),
            status: word.to_owned(),
            reason: truth.reason.map(str::to_owned),
            message: truth.message,
            last_transition_time: unchanged
                .and_then(|had| had.last_transition_time.clone())
                .or_else(|| Some(whole_seconds(now))),
            observed_generation: view.pod.metadata.generation,
            last_probe_time: None,
        });
    }
    conditions
}

fn truths(view: &View<'_>, plan: &Plan, status: &PodStatus, old: &PodStatus) -> Vec<Truth> {
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let completed = status.phase.as_deref() == Some("Succeeded");
    let ended = if completed { "PodCompleted" } else { "PodFailed" };
    let has_network = !over && view.runtime.sandbox().is_some();
    let main = status.container_statuses.as_deref().unwrap_or_default();
    let unready = names(main.iter().filter(|container| !container.ready));
    let sidecars = status.init_container_statuses.iter().flatten();
    let sidecars_ready = sidecars.filter(|c| c.started == Some(true)).all(|c| c.ready);
    let all_ready = !over && plan.initialized && unready.is_empty() && sidecars_ready;
    let not_ready = || {
        if over { ended } else { "ContainersNotReady" }
    };
    let unready_text =
        || (!over).then(|| format!("containers with unready status: [{}]", unready.join(" ")));
    let missing = missing_gates(view, old);
    let init = status.init_container_statuses.as_deref().unwrap_or_default();
    let waiting = names(init.iter().filter(|container| !container.ready));
    let (ready, reason, message) = if !all_ready {
        (false, Some(not_ready()), unready_text())
    } else if let Some(gate) = missing {
        let message = format!("condition {gate} is missing or false: the pod's readiness gate");
        (false, Some("ReadinessGatesNotReady"), Some(message))
    } else {
        (true, None, None)
    };
    let mut truths = vec![
        Truth {
            kind: "PodReadyToStartContainers",
            holds: has_network,
            reason: None,
            message: None,
        },
        Truth {
            kind: "Initialized",
            holds: plan.initialized || completed,
            reason: if completed {
                Some("PodCompleted")
            } else if plan.initialized {
                None
            } else {
                Some("ContainersNotInitialized")
            },
            message: (!plan.initialized && !completed)
                .then(|| format!("containers with incomplete status: [{}]", waiting.join(" "))),
        },
        Truth { kind: "Ready", holds: ready, reason, message },
        Truth {
            kind: "ContainersReady",
            holds: all_ready,
            reason: (!all_ready).then(not_ready),
            message: if all_ready { None } else { unready_text() },
        },
    ];
    truths.extend(plan.resize.clone().filter(|_| !over).map(resize));
    if let Some(End::Displaced(_)) = &view.facts.end {
        truths.push(Truth {
            kind: "DisruptionTarget",
            holds: true,
            reason: Some("TerminationByKubelet"),
            message: Some(DISPLACED.to_owned()),
        });
    }
    truths
}

fn resize(resize: Resize) -> Truth {
    match resize {
        Resize::Infeasible(why) => Truth {
            kind: "PodResizePending",
            holds: true,
            reason: Some("Infeasible"),
            message: Some(why),
        },
        Resize::InProgress(failure) => Truth {
            kind: "PodResizeInProgress",
            holds: true,
            reason: failure.is_some().then_some("Error"),
            message: failure,
        },
    }
}

fn names<'a>(containers: impl Iterator<Item = &'a ContainerStatus>) -> Vec<String> {
    containers.map(|container| container.name.clone()).collect()
}

/// The first readiness gate whose condition nobody has set to true.
fn missing_gates(view: &View<'_>, old: &PodStatus) -> Option<String> {
    let gates = view.pod.spec.as_ref()?.readiness_gates.as_ref()?;
    let holds = |kind: &str| {
        old.conditions.iter().flatten().any(|had| had.type_ == kind && had.status == "True")
    };
    gates.iter().map(|gate| gate.condition_type.clone()).find(|kind| !holds(kind))
}
