//! The cells of pods. What a pod is doing is told by the container that tells most.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, list, number, text_or};

pub fn cell(heading: &str, pod: &Value, now: Timestamp) -> Option<Value> {
    Some(match heading {
        "Ready" => {
            let found = read(pod);
            json!(format!("{}/{}", found.ready, found.total))
        }
        "Status" => json!(read(pod).reason),
        "Restarts" => {
            let found = read(pod);
            match found.last_restart {
                Some(last) if found.restarts > 0 => {
                    json!(format!("{} ({} ago)", found.restarts, age::between(last, now)))
                }
                _ => json!(found.restarts.to_string()),
            }
        }
        "IP" => json!(
            list(pod, "/status/podIPs")
                .first()
                .and_then(|one| one["ip"].as_str())
                .unwrap_or_else(|| text_or(pod, "/status/podIP", "<none>"))
        ),
        "Node" => json!(text_or(pod, "/spec/nodeName", "<none>")),
        "Nominated Node" => json!(text_or(pod, "/status/nominatedNodeName", "<none>")),
        "Readiness Gates" => json!(gates(pod)),
        _ => return None,
    })
}

/// What marks a row of a pod that has ended, so that clients may leave it out.
pub fn row_condition(pod: &Value) -> Option<Value> {
    let (reason, message) = match pod["status"]["phase"].as_str()? {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!({"type": "Completed", "status": "True", "reason": reason, "message": message}))
}

#[derive(Default)]
struct Found {
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
    reason: String,
}

fn read(pod: &Value) -> Found {
    let status = &pod["status"];
    let phase = status["phase"].as_str().unwrap_or_default();
    let mut found = Found {
        total: list(pod, "/spec/containers").len(),
        reason: text_or(status, "/reason", phase).to_owned(),
        ..Found::default()
    };
    if condition(pod, "PodScheduled").is_some_and(|one| one["reason"] == "SchedulingGated") {
        found.reason = "SchedulingGated".to_owned();
    }
    let initializing = init(pod, &mut found);
    if !initializing || is_true(pod, "Initialized") {
        let has_running = main(pod, &mut found);
        if found.reason == "Completed" && has_running {
            let ready = is_true(pod, "Ready");
            found.reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        if status["reason"] == "NodeLost" {
            found.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            found.reason = "Terminating".to_owned();
        }
    }
    found
}

/// Reads the init containers; whether one of them still has to end.
fn init(pod: &Value, found: &mut Found) -> bool {
    let specs = list(pod, "/spec/initContainers");
    let stays = |name: &Value| {
        specs.iter().any(|one| one["name"] == *name && one["restartPolicy"] == "Always")
    };
    found.total += specs.iter().filter(|one| one["restartPolicy"] == "Always").count();
    let mut kept_restarts = 0;
    let mut kept_last = None;
    let mut waits = false;
    for (at, container) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
        found.restarts += number(container, "/restartCount");
        found.last_restart = found.last_restart.max(last_restart(container));
        if stays(&container["name"]) {
            kept_restarts += number(container, "/restartCount");
            kept_last = kept_last.max(last_restart(container));
        }
        let state = &container["state"];
        let ended = &state["terminated"];
        if ended.is_object() && ended["exitCode"] == 0 {
            continue;
        }
        if stays(&container["name"]) && container["started"] == true {
            found.ready += usize::from(container["ready"] == true);
            continue;
        }
        let waiting = text_or(state, "/waiting/reason", "");
        found.reason = if ended.is_object() {
            format!("Init:{}", ended_reason(ended))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{at}/{}", specs.len())
        };
        waits = true;
        break;
    }
    if !waits || is_true(pod, "Initialized") {
        found.restarts = kept_restarts;
        found.last_restart = kept_last;
    }
    waits
}

/// Reads the main containers; whether one of them runs and is ready.
fn main(pod: &Value, found: &mut Found) -> bool {
    let mut has_running = false;
    for container in list(pod, "/status/containerStatuses").iter().rev() {
        found.restarts += number(container, "/restartCount");
        found.last_restart = found.last_restart.max(last_restart(container));
        let state = &container["state"];
        let waiting = text_or(state, "/waiting/reason", "");
        if !waiting.is_empty() {
            found.reason = waiting.to_owned();
        } else if state["terminated"].is_object() {
            found.reason = ended_reason(&state["terminated"]);
        } else if container["ready"] == true && state["running"].is_object() {
            has_running = true;
            found.ready += 1;
        }
    }
    has_running
}

fn ended_reason(ended: &Value) -> String {
    match ended["reason"].as_str().filter(|reason| !reason.is_empty()) {
        Some(reason) => reason.to_owned(),
        None if number(ended, "/signal") != 0 => format!("Signal:{}", ended["signal"]),
        None => format!("ExitCode:{}", number(ended, "/exitCode")),
    }
}

fn last_restart(container: &Value) -> Option<Timestamp> {
    age::moment(&container["lastState"]["terminated"]["finishedAt"])
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    list(pod, "/status/conditions").iter().find(|one| one["type"] == kind)
}

fn is_true(pod: &Value, kind: &str) -> bool {
    condition(pod, kind).is_some_and(|one| one["status"] == "True")
}

fn gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates
        .iter()
        .filter(|gate| gate["conditionType"].as_str().is_some_and(|kind| is_true(pod, kind)));
    format!("{}/{}", open.count(), gates.len())
}
