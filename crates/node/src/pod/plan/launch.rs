//! Keeping a pod running: sandbox, init containers in order, then the ordinary ones.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;

use super::{Action, Plan, Resize, View, Waiting, grace, kill, push, retry};
use crate::pod::container::{self, Role};
use crate::pod::facts::{ImageFact, Step};
use crate::pod::resources;
use crate::pod::restart::{self, RestartPolicy};
use crate::pod::runtime::{ContainerRecord, Life};

/// For this long a failed pull is shown as what it is, then as waiting for the next.
const FRESH_FAILURE: Duration = Duration::from_secs(5);

pub(super) fn plan(view: &View<'_>, now: Timestamp, plan: &mut Plan) {
    let current = view.runtime.sandbox().map(|sandbox| sandbox.id.clone());
    leave_old_sandboxes(view, now, current.as_deref(), plan);
    correct_running(view, now, plan);
    let wanted = wanted(view, now, plan);
    if wanted.is_empty() {
        return;
    }
    if view.facts.volumes != Step::Done {
        retry(view, plan, &view.facts.volumes, now, Action::PrepareVolumes);
    }
    if current.is_none() && may_have_sandbox(view) {
        let attempt = view.runtime.sandboxes.first().map_or(0, |sandbox| sandbox.attempt + 1);
        retry(view, plan, &view.facts.sandbox, now, Action::CreateSandbox { attempt });
    }
    for next in wanted {
        launch(view, now, current.is_some(), next, plan);
    }
}

/// A container that should start as soon as everything for it is there.
struct Next {
    container: Container,
    attempt: u32,
    restart_delay: Duration,
}

/// A dead sandbox takes its containers with it; the next one is made when they are gone.
fn leave_old_sandboxes(view: &View<'_>, now: Timestamp, current: Option<&str>, plan: &mut Plan) {
    let until = now.saturating_add(grace(view.pod)).unwrap_or(Timestamp::MAX);
    for record in view.runtime.running() {
        if Some(record.sandbox_id.as_str()) != current {
            kill(
                view,
                plan,
                record,
                until,
                "Pod sandbox changed, it will be killed and re-created".to_owned(),
            );
        }
    }
    for sandbox in &view.runtime.sandboxes {
        let old = Some(sandbox.id.as_str()) != current;
        let in_use = view.runtime.running().any(|record| record.sandbox_id == sandbox.id);
        if old && !in_use && !view.facts.stopped.contains(&sandbox.id) {
            push(view, plan, Action::StopSandbox { id: sandbox.id.clone() });
        }
    }
}

/// Whether every older sandbox is out of the way.
fn may_have_sandbox(view: &View<'_>) -> bool {
    view.runtime.running().next().is_none()
        && view.runtime.sandboxes.iter().all(|sandbox| view.facts.stopped.contains(&sandbox.id))
}

/// Running containers that are not as the pod wants them: changed, failing, of another size.
fn correct_running(view: &View<'_>, now: Timestamp, plan: &mut Plan) {
    for (role, container) in container::all(view.pod) {
        let latest = view.runtime.latest(&container.name);
        let Some(record) = latest.filter(|record| record.life == Life::Running) else { continue };
        let until = now.saturating_add(grace(view.pod)).unwrap_or(Timestamp::MAX);
        let name = &container.name;
        if record.wanted_image.is_some() && record.wanted_image != container.image {
            // What comes is fetched while what is there still works.
            if !view.facts.images.contains_key(name) {
                push(view, plan, Action::PullImage { container: name.clone() });
                continue;
            }
            let message = format!("Container {name} definition changed, will be restarted");
            kill(view, plan, record, until, message);
        } else if let Some(kind) = view.probes.fatal(&record.id) {
            let own = kind.of(&container).and_then(|probe| probe.termination_grace_period_seconds);
            let until = own
                .and_then(|seconds| u64::try_from(seconds).ok())
                .and_then(|seconds| now.saturating_add(Duration::from_secs(seconds)).ok())
                .unwrap_or(until);
            let probe = kind.word().to_lowercase();
            let message = format!("Container {name} failed {probe} probe, will be restarted");
            kill(view, plan, record, until, message);
        } else if view.facts.hooks.contains(&record.id) {
            let (container, id) = (name.clone(), record.id.clone());
            push(view, plan, Action::PostStart { container, id });
        } else if role != Role::Ephemeral {
            resize(view, until, &container, record, plan);
        }
    }
}

fn resize(
    view: &View<'_>,
    until: Timestamp,
    container: &Container,
    record: &ContainerRecord,
    plan: &mut Plan,
) {
    let wanted = serde_json::to_string(&container.resources).unwrap_or_default();
    let has = view.facts.resources.get(&record.id).or(record.resources.as_ref());
    let Some(has) = has.filter(|has| **has != wanted) else { return };
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap_or_default();
    let (has, wanted) = (parse(has), parse(&wanted));
    let changed = |resource: &str| {
        ["requests", "limits"].iter().any(|list| has[*list][resource] != wanted[*list][resource])
    };
    if let Some(why) = infeasible(view) {
        plan.resize = Some(Resize::Infeasible(why));
        return;
    }
    let failure = view.facts.resize_failures.get(&record.id).cloned();
    plan.resize = Some(Resize::InProgress(failure));
    let restarts = container.resize_policy.iter().flatten().any(|policy| {
        policy.restart_policy == "RestartContainer" && changed(&policy.resource_name)
    });
    if restarts {
        let message = format!("Container {} resize requires restart", container.name);
        kill(view, plan, record, until, message);
    } else {
        let (container, id) = (container.name.clone(), record.id.clone());
        push(view, plan, Action::Resize { container, id });
    }
}

/// Why the node can never give what the pod asks for by now, if that is so.
fn infeasible(view: &View<'_>) -> Option<String> {
    let (cpu, memory) = view.facts.room?;
    let asked = |of: &dyn Fn(&Container) -> i64| -> i64 {
        let all = container::all(view.pod);
        let at_once = all.iter().filter(|(role, _)| matches!(role, Role::Main | Role::Sidecar));
        at_once.map(|(_, container)| of(container)).fold(0, i64::saturating_add)
    };
    let (wants_cpu, wants_memory) = (asked(&resources::cpu), asked(&resources::memory));
    let short = |what: &str, wants: i64, has: i64| {
        (wants > has).then(|| {
            format!("Node didn't have enough capacity: {what}, requested: {wants}, capacity: {has}")
        })
    };
    short("cpu", wants_cpu, cpu).or_else(|| short("memory", wants_memory, memory))
}

/// Whether the init containers have done their part in the current sandbox.
pub(super) fn is_initialized(view: &View<'_>) -> bool {
    let all = container::all(view.pod);
    let init = || all.iter().filter(|(role, _)| matches!(role, Role::Init | Role::Sidecar));
    if init().next().is_none() {
        return true;
    }
    let Some(sandbox) = view.runtime.sandboxes.first() else { return false };
    has_main_begun(view, &all, &sandbox.id)
        || init().all(|(role, container)| {
            let latest = view.runtime.latest_in(&container.name, &sandbox.id);
            latest.is_some_and(|record| is_past(view, *role, container, record))
        })
}

fn has_main_begun(view: &View<'_>, all: &[(Role, Container)], sandbox: &str) -> bool {
    all.iter().any(|(role, container)| {
        *role == Role::Main && view.runtime.latest_in(&container.name, sandbox).is_some()
    })
}

/// Whether the next init container may begin after this one.
fn is_past(view: &View<'_>, role: Role, container: &Container, record: &ContainerRecord) -> bool {
    match role {
        Role::Init => record.life == Life::Exited && record.exit_code == 0,
        _ => record.life == Life::Running && is_started(view, container, record),
    }
}

fn is_started(view: &View<'_>, container: &Container, record: &ContainerRecord) -> bool {
    !view.facts.hooks.contains(&record.id) && view.probes.started(container, &record.id)
}

/// The containers that should run and do not; the others' reasons for waiting go into the plan.
fn wanted(view: &View<'_>, now: Timestamp, plan: &mut Plan) -> Vec<Next> {
    let all = container::all(view.pod);
    let policy = RestartPolicy::of_pod(view.pod);
    let sandbox = view.runtime.sandbox().map(|sandbox| sandbox.id.clone());
    let begun = sandbox.as_deref().is_some_and(|id| has_main_begun(view, &all, id));
    let mut wanted = Vec::new();
    if !begun {
        for (role, container) in &all {
            if !matches!(role, Role::Init | Role::Sidecar) {
                continue;
            }
            let here =
                sandbox.as_deref().and_then(|id| view.runtime.latest_in(&container.name, id));
            if here.is_some_and(|record| is_past(view, *role, container, record)) {
                continue;
            }
            if here.is_none() {
                // The records of an older sandbox count attempts, nothing else.
                wanted.push(first(view, container, Duration::ZERO));
            } else {
                let policy = policy.for_init();
                let policy = if *role == Role::Sidecar { RestartPolicy::Always } else { policy };
                wanted.extend(next(view, now, container, policy, plan));
            }
            for (_, other) in all.iter().filter(|(role, _)| *role == Role::Main) {
                wait(plan, &other.name, "PodInitializing", None);
            }
            return wanted;
        }
    }
    for (_, container) in all.iter().filter(|(role, _)| *role == Role::Sidecar) {
        wanted.extend(next(view, now, container, RestartPolicy::Always, plan));
    }
    for (role, container) in &all {
        match role {
            Role::Main => {
                wanted.extend(next(view, now, container, policy, plan));
                let record = view.runtime.latest(&container.name);
                let hooked = container.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some());
                let waits = record.is_none_or(|record| {
                    record.life != Life::Exited && view.facts.hooks.contains(&record.id)
                });
                if hooked && waits {
                    // The hook holds back the containers after it.
                    break;
                }
            }
            Role::Ephemeral if view.runtime.latest(&container.name).is_none() => {
                wanted.push(first(view, container, Duration::ZERO));
            }
            _ => {}
        }
    }
    wanted
}

fn first(view: &View<'_>, container: &Container, restart_delay: Duration) -> Next {
    let runtime = view.runtime.latest(&container.name).map(|record| record.attempt + 1);
    let attempt = runtime.or(view.facts.restarts.get(&container.name).map(|n| n + 1)).unwrap_or(0);
    Next { container: container.clone(), attempt, restart_delay }
}

/// The next attempt, if there is to be one and its time has come.
fn next(
    view: &View<'_>,
    now: Timestamp,
    container: &Container,
    policy: RestartPolicy,
    plan: &mut Plan,
) -> Option<Next> {
    let Some(record) = view.runtime.latest(&container.name) else {
        return Some(first(view, container, Duration::ZERO));
    };
    match record.life {
        Life::Running => None,
        Life::Unknown => {
            kill(
                view,
                plan,
                record,
                now,
                format!("Container {} is in no known state", record.name),
            );
            None
        }
        Life::Created => {
            // Left by a start that was cut off between making and starting.
            if !view.busy.contains_key(&format!("start/{}", container.name)) {
                push(view, plan, Action::RemoveContainer { id: record.id.clone() });
            }
            None
        }
        Life::Exited => {
            if !restart::restarts(container, policy, record.exit_code) {
                return None;
            }
            if record.wanted_image.is_some() && record.wanted_image != container.image {
                // Another program: how often the one before ended is not held against it.
                return Some(first(view, container, Duration::ZERO));
            }
            let (at, restart_delay) = restart::next_start(record);
            if at <= now {
                return Some(first(view, container, restart_delay));
            }
            plan.wake_at(at);
            let message = format!(
                "back-off {}s restarting failed container={} pod={}_{}({})",
                record.restart_delay.as_secs(),
                container.name,
                view.pod.metadata.name.as_deref().unwrap_or_default(),
                view.pod.metadata.namespace.as_deref().unwrap_or_default(),
                view.pod.metadata.uid.as_deref().unwrap_or_default(),
            );
            wait(plan, &container.name, "CrashLoopBackOff", Some(message));
            None
        }
    }
}

fn wait(plan: &mut Plan, name: &str, reason: &str, message: Option<String>) {
    plan.waiting.insert(name.to_owned(), Waiting { reason: reason.to_owned(), message });
}

/// Starts a container whose image, volumes and sandbox are there; else fetches what is missing.
fn launch(view: &View<'_>, now: Timestamp, has_sandbox: bool, next: Next, plan: &mut Plan) {
    let name = next.container.name.clone();
    let pull = Action::PullImage { container: name.clone() };
    match view.facts.images.get(&name) {
        None => {
            push(view, plan, pull);
            return;
        }
        Some(ImageFact::Failed(failure)) => {
            if failure.retry_at <= now {
                push(view, plan, pull);
            } else {
                plan.wake_at(failure.retry_at);
            }
            let turns = failure.at.saturating_add(FRESH_FAILURE).unwrap_or(Timestamp::MAX);
            let pulled = failure.reason == "ErrImagePull";
            if pulled && turns <= now {
                let image = next.container.image.as_deref().unwrap_or_default();
                let message = format!("Back-off pulling image \"{image}\": {}", failure.message);
                wait(plan, &name, "ImagePullBackOff", Some(message));
            } else {
                if pulled {
                    plan.wake_at(turns);
                }
                wait(plan, &name, failure.reason, Some(failure.message.clone()));
            }
            return;
        }
        Some(ImageFact::Ready { .. }) => {}
    }
    let step = view.facts.starts.get(&name).cloned().unwrap_or_default();
    if let Step::Failed(failure) = &step {
        wait(plan, &name, failure.reason, Some(failure.message.clone()));
    }
    if !has_sandbox || view.facts.volumes != Step::Done {
        return;
    }
    let start =
        Action::Start { container: name, attempt: next.attempt, restart_delay: next.restart_delay };
    retry(view, plan, &step, now, start);
}
