//! A pod's status as the API shows it, from the same snapshot that the plan was made from. Pure.

mod conditions;
mod containers;
mod phase;

use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::container::{self, Role};
use super::plan::{Cause, End, Plan, View};
use super::resources::Qos;

/// The status of the pod now. Conditions of others (`PodScheduled`, readiness gates) are kept.
pub(crate) fn status(view: &View<'_>, plan: &Plan, node: Ipv4Addr, now: Timestamp) -> PodStatus {
    let old = view.pod.status.clone().unwrap_or_default();
    if let Some(End::Refused(cause)) = &view.facts.end {
        return refused(view, cause);
    }
    let roles = container::all(view.pod);
    let of = |wanted: &[Role]| -> Option<Vec<ContainerStatus>> {
        let listed: Vec<ContainerStatus> = roles
            .iter()
            .filter(|(role, _)| wanted.contains(role))
            .map(|(role, container)| containers::status(view, plan, *role, container))
            .collect();
        (!listed.is_empty()).then_some(listed)
    };
    let init = of(&[Role::Init, Role::Sidecar]);
    let main = of(&[Role::Main]).unwrap_or_default();
    let over = old.phase.as_deref().filter(|phase| matches!(*phase, "Succeeded" | "Failed"));
    let phase = match over {
        Some(phase) => phase.to_owned(),
        None => phase::phase(view, plan, init.as_deref().unwrap_or_default(), &main).to_owned(),
    };
    let host_network = view.pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let sandbox = view.runtime.sandbox();
    let ips = match sandbox {
        Some(_) if host_network => vec![node.to_string()],
        Some(sandbox) => sandbox.ips.clone(),
        // The address of an ended pod stays on record.
        None if plan.ending => old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
        None => Vec::new(),
    };
    let cause = plan.cause.as_ref();
    let mut status = PodStatus {
        phase: Some(phase),
        reason: cause.map(|cause| cause.reason.clone()).or(old.reason.clone()),
        message: cause.map(|cause| cause.message.clone()).or(old.message.clone()),
        start_time: view.facts.start_time.map(whole_seconds),
        qos_class: Some(Qos::of_pod(view.pod).name().to_owned()),
        host_ip: Some(node.to_string()),
        host_ips: Some(vec![HostIP { ip: node.to_string() }]),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        init_container_statuses: init,
        container_statuses: Some(main),
        ephemeral_container_statuses: of(&[Role::Ephemeral]),
        observed_generation: view.pod.metadata.generation,
        ..PodStatus::default()
    };
    status.conditions = Some(conditions::conditions(view, plan, &status, &old, now));
    status
}

/// Of a pod that was not taken there is nothing but that to say.
fn refused(view: &View<'_>, cause: &Cause) -> PodStatus {
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(cause.reason.clone()),
        message: Some(cause.message.clone()),
        start_time: view.facts.start_time.map(whole_seconds),
        qos_class: Some(Qos::of_pod(view.pod).name().to_owned()),
        observed_generation: view.pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// Times in the API have no fractions of a second.
fn whole_seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// What has to be sent so that `old` becomes `new`, as a strategic merge patch; `None` when nothing.
///
/// Conditions are merged by type, so those of others stay; addresses are replaced as a whole.
pub(crate) fn patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let before = serde_json::to_value(old).ok()?;
    let mut after = serde_json::to_value(new).ok()?;
    let fields = after.as_object_mut()?;
    for gone in ["podIP", "podIPs", "message", "reason"] {
        if before.get(gone).is_some() && !fields.contains_key(gone) {
            fields.insert(gone.to_owned(), Value::Null);
        }
    }
    fields.retain(|key, value| before.get(key) != Some(value));
    if fields.is_empty() {
        return None;
    }
    // Conditions are merged field by field: what one no longer says has to be taken back.
    let conditions = fields.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        for said in ["message", "reason"] {
            condition.entry(said).or_insert(Value::Null);
        }
    }
    let had = before.get("conditions").and_then(Value::as_array).into_iter().flatten();
    let over: Vec<Value> = had
        .filter(|had| conditions::PASSING.iter().any(|passing| had["type"] == *passing))
        .filter(|had| {
            let kept = new.conditions.iter().flatten();
            kept.map(|kept| kept.type_.as_str()).all(|kept| had["type"] != kept)
        })
        .map(|had| json!({"type": had["type"], "$patch": "delete"}))
        .collect();
    if let Some(conditions) = fields.get_mut("conditions").and_then(Value::as_array_mut) {
        conditions.extend(over);
    }
    for merged in ["podIPs", "hostIPs"] {
        let had = before.get(merged).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        if let Some(list) = fields.get_mut(merged).and_then(Value::as_array_mut)
            && had
        {
            list.insert(0, json!({"$patch": "replace"}));
        }
    }
    Some(json!({"metadata": {"uid": uid}, "status": after}))
}
