//! The cells of workloads and their autoscalers.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, joined, list, number, pairs, selector, text_or};

pub fn cell(heading: &str, object: &Value) -> Option<Value> {
    let wanted = number(object, "/spec/replicas");
    let status = &object["status"];
    let daemons = status.get("desiredNumberScheduled").is_some()
        || object["kind"] == "DaemonSet"
        || object["spec"].get("updateStrategy").is_some()
            && object["spec"].get("replicas").is_none();
    Some(match heading {
        "Ready" if daemons => json!(number(status, "/numberReady")),
        "Ready" if has(object, &["ReplicaSet", "ReplicationController"]) => {
            json!(number(status, "/readyReplicas"))
        }
        "Ready" => json!(format!("{}/{wanted}", number(status, "/readyReplicas"))),
        "Desired" if daemons => json!(number(status, "/desiredNumberScheduled")),
        "Desired" => json!(wanted),
        "Current" if daemons => json!(number(status, "/currentNumberScheduled")),
        "Current" => json!(number(status, "/replicas")),
        "Up-to-date" if daemons => json!(number(status, "/updatedNumberScheduled")),
        "Up-to-date" => json!(number(status, "/updatedReplicas")),
        "Available" if daemons => json!(number(status, "/numberAvailable")),
        "Available" => json!(number(status, "/availableReplicas")),
        "Node Selector" => json!(pairs(&object["spec"]["template"]["spec"]["nodeSelector"])),
        "Containers" => json!(joined(containers(object), "name")),
        "Images" => json!(joined(containers(object), "image")),
        "Pod Labels" => json!(pairs(&object["template"]["metadata"]["labels"])),
        "Selector" if object["kind"] == "ReplicationController" => {
            json!(pairs(&object["spec"]["selector"]))
        }
        "Selector" => json!(selector(&object["spec"]["selector"])),
        _ => return None,
    })
}

fn has(object: &Value, kinds: &[&str]) -> bool {
    object["kind"].as_str().is_some_and(|kind| kinds.contains(&kind))
}

fn containers(object: &Value) -> &[Value] {
    let places = [
        "/spec/template/spec/containers",
        "/spec/jobTemplate/spec/template/spec/containers",
        "/template/spec/containers",
    ];
    places.iter().map(|place| list(object, place)).find(|found| !found.is_empty()).unwrap_or(&[])
}

pub fn job_cell(heading: &str, job: &Value, now: Timestamp) -> Option<Value> {
    let succeeded = number(job, "/status/succeeded");
    Some(match heading {
        "Status" => json!(job_status(job)),
        "Completions" => {
            let parallel = number(job, "/spec/parallelism");
            match job["spec"]["completions"].as_i64() {
                Some(wanted) => json!(format!("{succeeded}/{wanted}")),
                None if parallel > 1 => json!(format!("{succeeded}/1 of {parallel}")),
                None => json!(format!("{succeeded}/1")),
            }
        }
        "Duration" => {
            let started = age::moment(&job["status"]["startTime"]);
            let ended = age::moment(&job["status"]["completionTime"]).unwrap_or(now);
            json!(started.map(|started| age::between(started, ended)).unwrap_or_default())
        }
        _ => return cell(heading, job),
    })
}

fn job_status(job: &Value) -> &'static str {
    let is = |kind: &str| {
        let found = list(job, "/status/conditions").iter().find(|one| one["type"] == kind);
        found.is_some_and(|one| one["status"] == "True")
    };
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if !job["metadata"]["deletionTimestamp"].is_null() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

pub fn cron_cell(heading: &str, object: &Value, now: Timestamp) -> Option<Value> {
    Some(match heading {
        "Schedule" => json!(text_or(object, "/spec/schedule", "")),
        "Timezone" => json!(text_or(object, "/spec/timeZone", "<none>")),
        "Suspend" => match object["spec"]["suspend"].as_bool() {
            Some(true) => json!("True"),
            Some(false) => json!("False"),
            None => json!("<unset>"),
        },
        "Active" => json!(list(object, "/status/active").len()),
        "Last Schedule" => match age::moment(&object["status"]["lastScheduleTime"]) {
            Some(last) => json!(age::between(last, now)),
            None => json!("<none>"),
        },
        "Selector" => json!(selector(&object["spec"]["jobTemplate"]["spec"]["selector"])),
        _ => return cell(heading, object),
    })
}

pub fn autoscaler_cell(heading: &str, object: &Value) -> Option<Value> {
    let spec = &object["spec"];
    Some(match heading {
        "Reference" => {
            let target = &spec["scaleTargetRef"];
            json!(format!("{}/{}", text_or(target, "/kind", ""), text_or(target, "/name", "")))
        }
        "Targets" => json!(targets(object)),
        "MinPods" => match spec["minReplicas"].as_i64() {
            Some(least) => json!(least.to_string()),
            None => json!("<unset>"),
        },
        "MaxPods" => json!(number(spec, "/maxReplicas")),
        "Replicas" => json!(number(object, "/status/currentReplicas")),
        _ => return None,
    })
}

fn targets(object: &Value) -> String {
    if let Some(wanted) = object["spec"]["targetCPUUtilizationPercentage"].as_i64() {
        let found = object["status"]["currentCPUUtilizationPercentage"].as_i64();
        let found = found.map_or_else(|| "<unknown>".to_owned(), |found| format!("{found}%"));
        return format!("cpu: {found}/{wanted}%");
    }
    let current = list(object, "/status/currentMetrics");
    let metrics = list(object, "/spec/metrics");
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    /// As many metrics are shown in a cell.
    const SHOWN: usize = 2;
    let shown: Vec<String> = metrics
        .iter()
        .enumerate()
        .take(SHOWN)
        .map(|(at, metric)| target(metric, current.get(at)))
        .collect();
    let more = metrics.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" + {more} more...") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

fn target(metric: &Value, current: Option<&Value>) -> String {
    let source = match metric["type"].as_str().unwrap_or_default() {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        other => return format!("<unknown type {other:?}>"),
    };
    let target = &metric[source]["target"];
    let nothing = Value::Null;
    let found = current.map_or(&nothing, |current| &current[source]["current"]);
    let value = |key: &str| match &found[key] {
        Value::Null => "<unknown>".to_owned(),
        Value::String(text) => text.clone(),
        other => format!("{other}%"),
    };
    let pair = if let Some(wanted) = target["averageUtilization"].as_i64() {
        format!("{}/{wanted}%", value("averageUtilization"))
    } else if let Some(wanted) = target["averageValue"].as_str() {
        let average = if source == "object" || source == "external" { " (avg)" } else { "" };
        format!("{}/{wanted}{average}", value("averageValue"))
    } else {
        format!("{}/{}", value("value"), text_or(target, "/value", "<auto>"))
    };
    match metric[source]["name"].as_str() {
        Some(name) => format!("{name}: {pair}"),
        None => pair,
    }
}
