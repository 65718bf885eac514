//! From the names in a path to a container of the runtime.

use std::sync::Arc;

use http::StatusCode;

use super::{Node, Refusal};
use crate::pod::{ContainerRef, PodEntry};

/// The pod, when its uid is the one asked for or none is.
pub(super) fn pod(
    node: &Node,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
) -> Result<Arc<PodEntry>, Refusal> {
    let found = match uid {
        Some(uid) => node.pods.by_uid(uid),
        None => node.pods.by_name(namespace, name),
    };
    found.ok_or_else(|| {
        let text = format!("pod {namespace}/{name} is not on node {}", node.config.name);
        Refusal(StatusCode::NOT_FOUND, text)
    })
}

/// The newest attempt of a container, or the one before.
pub(super) fn attempt(
    entry: &PodEntry,
    container: &str,
    previous: bool,
) -> Result<ContainerRef, Refusal> {
    let known = entry.containers.get(container);
    let found = known
        .and_then(|known| if previous { known.previous.clone() } else { known.current.clone() });
    if let Some(found) = found {
        return Ok(found);
    }
    let pod = entry.pod.metadata.name.as_deref().unwrap_or_default();
    Err(match (has_container(entry, container), previous) {
        (false, _) => {
            Refusal(StatusCode::NOT_FOUND, format!("pod {pod:?} has no container {container:?}"))
        }
        (true, true) => Refusal(
            StatusCode::BAD_REQUEST,
            format!("previous terminated container {container:?} in pod {pod:?} not found"),
        ),
        (true, false) => Refusal(
            StatusCode::BAD_REQUEST,
            format!(
                "container {container:?} in pod {pod:?} is waiting to start: {}",
                waiting(entry, container).unwrap_or("ContainerCreating")
            ),
        ),
    })
}

/// The newest attempt, which has to be running.
pub(super) fn running(entry: &PodEntry, container: &str) -> Result<ContainerRef, Refusal> {
    let found = attempt(entry, container, false)?;
    if found.running {
        return Ok(found);
    }
    let text = format!("container {container:?} is not running");
    Err(Refusal(StatusCode::BAD_REQUEST, text))
}

fn has_container(entry: &PodEntry, container: &str) -> bool {
    let Some(spec) = &entry.pod.spec else { return false };
    let mut ordinary = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    ordinary.any(|known| known.name == container)
        || spec.ephemeral_containers.iter().flatten().any(|known| known.name == container)
}

/// Why a container has not started, as its status says.
fn waiting<'a>(entry: &'a PodEntry, container: &str) -> Option<&'a str> {
    let status = entry.pod.status.as_ref()?;
    let all = [&status.container_statuses, &status.init_container_statuses];
    let status = all.into_iter().flatten().flatten().find(|status| status.name == container)?;
    status.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}
