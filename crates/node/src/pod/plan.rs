//! What to do about a pod, from what is wanted and what is there. Pure: no clock, no I/O.
//!
//! Every pass looks at the whole pod and names each step that can be taken now. What is under way
//! already (`busy`) is not named again; what must wait says until when ([`Plan::wake`]). The order
//! of starting, restarting and ending follows the kubelet's documented behaviour, except that
//! independent steps (sandbox, volumes, images, containers without a postStart hook) run side by
//! side.

mod ending;
mod launch;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::container::{self, Role};
use super::facts::{Facts, Step};
use super::restart::{self, RestartPolicy};
use super::runtime::{ContainerRecord, Life, RuntimeState};
use crate::probes::ProbeResults;

/// What a pod gets when it does not say.
const GRACE_DEFAULT_S: i64 = 30;

/// Everything that a decision is made from.
pub(crate) struct View<'a> {
    pub pod: &'a Pod,
    /// The API server confirmed that the pod does not exist any more.
    pub gone: bool,
    pub runtime: &'a RuntimeState,
    pub probes: &'a ProbeResults,
    pub facts: &'a Facts,
    /// Steps under way, by [`Action::key`], with the deadline they were given.
    pub busy: &'a BTreeMap<String, Timestamp>,
}

/// A step that can be taken now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    PrepareVolumes,
    CreateSandbox {
        attempt: u32,
    },
    StopSandbox {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    PullImage {
        container: String,
    },
    Start {
        container: String,
        attempt: u32,
        restart_delay: Duration,
    },
    PostStart {
        container: String,
        id: String,
    },
    Kill {
        container: String,
        id: String,
        /// The process is ended by force from then on.
        until: Timestamp,
        pre_stop: bool,
        message: String,
    },
    Resize {
        container: String,
        id: String,
    },
    RemoveContainer {
        id: String,
    },
    /// The pod ended and stays in the API: its volumes and cgroup go.
    Settle,
    /// The pod is to be deleted and nothing of it runs: remove all, then tell the API.
    Finish,
}

impl Action {
    /// Two actions with one key must not run at the same time.
    pub fn key(&self) -> String {
        match self {
            Self::PrepareVolumes => "volumes".to_owned(),
            Self::CreateSandbox { .. } => "sandbox".to_owned(),
            Self::StopSandbox { id } => format!("stop/{id}"),
            Self::RemoveSandbox { id } | Self::RemoveContainer { id } => format!("remove/{id}"),
            Self::PullImage { container } => format!("image/{container}"),
            Self::Start { container, .. } => format!("start/{container}"),
            Self::PostStart { id, .. } => format!("hook/{id}"),
            Self::Kill { id, .. } => format!("kill/{id}"),
            Self::Resize { id, .. } => format!("resize/{id}"),
            Self::Settle | Self::Finish => "end".to_owned(),
        }
    }
}

/// Why a container does not run: the API's word and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub reason: String,
    pub message: Option<String>,
}

/// Why a pod ended, where its containers alone do not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    pub reason: String,
    pub message: String,
}

/// An end that the agent decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The node did not take it: it never started.
    Refused(Cause),
    /// It makes room for a critical pod.
    Displaced(Cause),
}

impl End {
    pub fn cause(&self) -> &Cause {
        match self {
            Self::Refused(cause) | Self::Displaced(cause) => cause,
        }
    }
}

/// What a pass came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub actions: Vec<Action>,
    /// Look again at the latest then, even if nothing happens.
    pub wake: Option<Timestamp>,
    /// By container name.
    pub waiting: BTreeMap<String, Waiting>,
    /// The init containers have done their part.
    pub initialized: bool,
    /// The pod is on its way out: nothing starts any more.
    pub ending: bool,
    /// The pod ended for good by itself: its phase will not change any more.
    pub terminal: bool,
    pub cause: Option<Cause>,
    /// Containers run with other resources than the pod asks for.
    pub resize: Option<Resize>,
}

/// Where a change of resources stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resize {
    /// It is being made; with what went wrong last.
    InProgress(Option<String>),
    /// This node is too small for it.
    Infeasible(String),
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// Decides the next steps for a pod.
pub(crate) fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    collect_garbage(view, &mut plan);
    let phase = view.pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let deleted = view.gone || view.pod.metadata.deletion_timestamp.is_some();
    let over = matches!(phase, Some("Succeeded" | "Failed"));
    let decided = view.facts.end.as_ref().map(|end| end.cause().clone());
    let expired = decided.or_else(|| deadline(view, now, &mut plan));
    let done = over || expired.is_some() || has_run_its_course(view.pod, view.runtime);
    plan.initialized = launch::is_initialized(view);
    plan.terminal = done;
    plan.cause = expired;
    if deleted || done {
        plan.ending = true;
        ending::plan(view, now, deleted, &mut plan);
    } else {
        launch::plan(view, now, &mut plan);
    }
    plan
}

/// How long containers of the pod have between being asked and being forced to end.
pub(crate) fn grace(pod: &Pod) -> Duration {
    let given = pod.metadata.deletion_grace_period_seconds;
    let spec = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let seconds = given.or(spec).unwrap_or(GRACE_DEFAULT_S).max(0);
    Duration::from_secs(seconds.unsigned_abs())
}

/// `activeDeadlineSeconds` passed; else it is looked at again when it does.
fn deadline(view: &View<'_>, now: Timestamp, plan: &mut Plan) -> Option<Cause> {
    let seconds = view.pod.spec.as_ref()?.active_deadline_seconds?;
    let limit = Duration::from_secs(u64::try_from(seconds).ok()?);
    let at = view.facts.start_time?.saturating_add(limit).ok()?;
    if at > now {
        plan.wake_at(at);
        return None;
    }
    let message = "Pod was active on the node longer than the specified deadline".to_owned();
    Some(Cause { reason: "DeadlineExceeded".to_owned(), message })
}

/// Whether no container of the pod will ever start again.
fn has_run_its_course(pod: &Pod, runtime: &RuntimeState) -> bool {
    let policy = RestartPolicy::of_pod(pod);
    let over = |container: &Container, policy: RestartPolicy| {
        runtime.latest(&container.name).is_some_and(|record| {
            record.life == Life::Exited && !restart::restarts(container, policy, record.exit_code)
        })
    };
    let all = container::all(pod);
    let init_failed = all.iter().any(|(role, container)| {
        *role == Role::Init
            && over(container, policy.for_init())
            && runtime.latest(&container.name).is_some_and(|record| record.exit_code != 0)
    });
    let mut main = all.iter().filter(|(role, _)| *role == Role::Main).peekable();
    init_failed || (main.peek().is_some() && main.all(|(_, container)| over(container, policy)))
}

/// Old attempts beyond the newest and the one before it, and dead sandboxes that hold nothing.
fn collect_garbage(view: &View<'_>, plan: &mut Plan) {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for record in &view.runtime.containers {
        let attempts = seen.entry(record.name.as_str()).or_default();
        *attempts += 1;
        if *attempts > 2 && record.life == Life::Exited {
            push(view, plan, Action::RemoveContainer { id: record.id.clone() });
        }
    }
    for sandbox in view.runtime.sandboxes.iter().skip(1) {
        let empty = view.runtime.containers.iter().all(|c| c.sandbox_id != sandbox.id);
        if empty && view.facts.stopped.contains(&sandbox.id) {
            push(view, plan, Action::RemoveSandbox { id: sandbox.id.clone() });
        }
    }
}

/// Names a step unless it is under way; a kill is named again when its deadline came closer.
fn push(view: &View<'_>, plan: &mut Plan, action: Action) {
    let under_way = view.busy.get(&action.key());
    let sooner = match (&action, under_way) {
        (_, None) => true,
        (Action::Kill { until, .. }, Some(given)) => {
            until.saturating_add(Duration::from_secs(1)).is_ok_and(|until| until < *given)
        }
        _ => false,
    };
    if sooner {
        plan.actions.push(action);
    }
}

fn kill(
    view: &View<'_>,
    plan: &mut Plan,
    record: &ContainerRecord,
    until: Timestamp,
    message: String,
) {
    let again = view.busy.contains_key(&format!("kill/{}", record.id));
    let action = Action::Kill {
        container: record.name.clone(),
        id: record.id.clone(),
        until,
        pre_stop: !again,
        message,
    };
    push(view, plan, action);
}

/// Waits for a step that failed, or takes it again.
fn retry(view: &View<'_>, plan: &mut Plan, step: &Step, now: Timestamp, action: Action) {
    match step.due(now) {
        Ok(()) => push(view, plan, action),
        Err(at) => plan.wake_at(at),
    }
}
