//! The way out: containers, then sidecars from the last to the first, then the sandbox, then all.

use std::time::Duration;

use jiff::Timestamp;

use super::{Action, Plan, View, grace, kill, push};
use crate::pod::container::{self, Role};
use crate::pod::runtime::ContainerRecord;

/// What a force-deleted container gets, as with the kubelet.
const GRACE_LEAST: Duration = Duration::from_secs(1);

/// `deleted`: the pod leaves the API too; else it stays there, ended.
pub(super) fn plan(view: &View<'_>, now: Timestamp, deleted: bool, plan: &mut Plan) {
    if view.facts.finished {
        return;
    }
    let since = view.facts.ending_since.unwrap_or(now);
    let until = since.saturating_add(grace(view.pod).max(GRACE_LEAST)).unwrap_or(Timestamp::MAX);
    let sidecars: Vec<String> = container::all(view.pod)
        .into_iter()
        .filter(|(role, _)| *role == Role::Sidecar)
        .map(|(_, container)| container.name)
        .collect();
    let is_sidecar = |record: &&ContainerRecord| sidecars.contains(&record.name);
    let mut ordinary = view.runtime.running().filter(|record| !is_sidecar(record)).peekable();
    let any_ordinary = ordinary.peek().is_some();
    for record in ordinary {
        kill(view, plan, record, until, format!("Stopping container {}", record.name));
    }
    // What is being made will show up in the next snapshot and is ended then.
    let making = |prefix: &str| view.busy.keys().any(|key| key.starts_with(prefix));
    if any_ordinary || making("start/") || making("sandbox") {
        return;
    }
    let last = sidecars
        .iter()
        .rev()
        .find_map(|name| view.runtime.running().find(|record| record.name == *name));
    if let Some(record) = last {
        kill(view, plan, record, until, format!("Stopping container {}", record.name));
        return;
    }
    let mut standing = view
        .runtime
        .sandboxes
        .iter()
        .filter(|sandbox| !view.facts.stopped.contains(&sandbox.id))
        .peekable();
    if standing.peek().is_some() {
        for sandbox in standing {
            push(view, plan, Action::StopSandbox { id: sandbox.id.clone() });
        }
    } else if making("kill/") || making("volumes") {
        // Both end soon: a kill answers once its process is gone, volumes are cancelled.
    } else if deleted {
        push(view, plan, Action::Finish);
    } else if !view.facts.settled {
        push(view, plan, Action::Settle);
    }
}
