//! What the API's status tells a worker that takes a pod up.
//!
//! A ready container stays ready until a probe says otherwise: taking up a pod must not take it out
//! of its services.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::pod::facts::Facts;
use crate::probes::{Kind, ProbeResults};

/// Facts and verdicts to begin with.
pub(super) struct Known {
    pub facts: Facts,
    pub results: ProbeResults,
}

pub(super) fn of(pod: &Pod) -> Known {
    let status = pod.status.clone().unwrap_or_default();
    let mut facts = Facts::default();
    let mut results = ProbeResults::default();
    facts.start_time =
        status.start_time.as_ref().map(|time| time.0).or_else(|| Some(Timestamp::now()));
    let init = status.init_container_statuses.into_iter().flatten();
    let all = init
        .chain(status.container_statuses.into_iter().flatten())
        .chain(status.ephemeral_container_statuses.into_iter().flatten());
    for container in all {
        let Some(id) = container.container_id.as_deref() else { continue };
        let id = id.strip_prefix("containerd://").unwrap_or(id);
        let restarts = u32::try_from(container.restart_count).unwrap_or_default();
        facts.restarts.insert(container.name.clone(), restarts);
        if container.started == Some(true) {
            results.set(id, Kind::Startup, true, String::new());
        }
        if container.ready {
            results.set(id, Kind::Readiness, true, String::new());
        }
        if let Some(resources) = &container.resources
            && let Ok(text) = serde_json::to_string(resources)
        {
            facts.resources.insert(id.to_owned(), text);
        }
    }
    Known { facts, results }
}
