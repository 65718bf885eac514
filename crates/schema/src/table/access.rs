//! The cells of nodes, events, bindings, quotas and certificate requests.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, list, number, text_or};

pub fn node_cell(heading: &str, node: &Value) -> Option<Value> {
    let info = &node["status"]["nodeInfo"];
    let address = |kind: &str| {
        let found = list(node, "/status/addresses").iter().find(|one| one["type"] == kind);
        json!(found.and_then(|one| one["address"].as_str()).unwrap_or("<none>"))
    };
    Some(match heading {
        "Status" => {
            let ready = list(node, "/status/conditions").iter().find(|one| one["type"] == "Ready");
            let word = match ready.and_then(|one| one["status"].as_str()) {
                Some("True") => "Ready",
                Some(_) => "NotReady",
                None => "Unknown",
            };
            let closed = node["spec"]["unschedulable"] == true;
            json!(if closed { format!("{word},SchedulingDisabled") } else { word.to_owned() })
        }
        "Roles" => json!(roles(node)),
        "Version" => json!(text_or(info, "/kubeletVersion", "")),
        "Internal-IP" => address("InternalIP"),
        "External-IP" => address("ExternalIP"),
        "OS-Image" => json!(text_or(info, "/osImage", "<unknown>")),
        "Kernel-Version" => json!(text_or(info, "/kernelVersion", "<unknown>")),
        "Container-Runtime" => json!(text_or(info, "/containerRuntimeVersion", "<unknown>")),
        _ => return None,
    })
}

fn roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let mut roles: Vec<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

pub fn event_cell(heading: &str, event: &Value, now: Timestamp) -> Option<Value> {
    let first =
        [&event["firstTimestamp"], &event["eventTime"]].into_iter().find(|one| one.is_string());
    let first = first.map_or_else(|| "<unknown>".to_owned(), |first| age::since(first, now));
    let series = &event["series"];
    Some(match heading {
        "Last Seen" => {
            let last = [&series["lastObservedTime"], &event["lastTimestamp"]];
            let last = last.into_iter().find(|one| one.is_string());
            json!(last.map_or(first, |last| age::since(last, now)))
        }
        "First Seen" => json!(first),
        "Type" => json!(text_or(event, "/type", "")),
        "Reason" => json!(text_or(event, "/reason", "")),
        "Object" => {
            let about = &event["involvedObject"];
            let kind = text_or(about, "/kind", "").to_lowercase();
            match about["name"].as_str() {
                Some(name) => json!(format!("{kind}/{name}")),
                None => json!(kind),
            }
        }
        "Subobject" => json!(text_or(event, "/involvedObject/fieldPath", "")),
        "Source" => {
            let component = text_or(event, "/source/component", "");
            let component = text_or(event, "/reportingComponent", component);
            match event["source"]["host"].as_str() {
                Some(host) if !host.is_empty() => json!(format!("{component}, {host}")),
                _ => json!(component),
            }
        }
        "Message" => json!(text_or(event, "/message", "").trim()),
        "Count" => {
            let count = series["count"].as_i64().unwrap_or_else(|| number(event, "/count"));
            json!(count.max(1))
        }
        _ => return None,
    })
}

pub fn binding_cell(heading: &str, binding: &Value) -> Option<Value> {
    let of_kind = |kind: &str, with_namespace: bool| {
        let found = list(binding, "/subjects").iter().filter(|one| one["kind"] == kind);
        let names: Vec<String> = found
            .map(|one| {
                let name = text_or(one, "/name", "");
                let namespace = text_or(one, "/namespace", "");
                if with_namespace { format!("{namespace}/{name}") } else { name.to_owned() }
            })
            .collect();
        json!(names.join(", "))
    };
    Some(match heading {
        "Role" => {
            let role = &binding["roleRef"];
            json!(format!("{}/{}", text_or(role, "/kind", ""), text_or(role, "/name", "")))
        }
        "Users" => of_kind("User", false),
        "Groups" => of_kind("Group", false),
        "ServiceAccounts" => of_kind("ServiceAccount", true),
        _ => return None,
    })
}

pub fn quota_cell(heading: &str, quota: &Value) -> Option<Value> {
    let limits = match heading {
        "Request" => false,
        "Limit" => true,
        _ => return None,
    };
    let hard = quota["status"]["hard"].as_object();
    let shown: Vec<String> = hard
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.starts_with("limits.") == limits)
        .map(|(name, most)| {
            let used = quota["status"]["used"][name.as_str()].as_str().unwrap_or("0");
            format!("{name}: {used}/{}", most.as_str().unwrap_or_default())
        })
        .collect();
    Some(json!(shown.join(", ")))
}

pub fn request_cell(heading: &str, request: &Value) -> Option<Value> {
    Some(match heading {
        "SignerName" => json!(text_or(request, "/spec/signerName", "<none>")),
        "Requestor" => json!(text_or(request, "/spec/username", "")),
        "RequestedDuration" => match request["spec"]["expirationSeconds"].as_i64() {
            None => json!("<none>"),
            Some(seconds) => {
                let end = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
                json!(age::between(Timestamp::UNIX_EPOCH, end))
            }
        },
        "Condition" => {
            let has = |kind: &str| {
                list(request, "/status/conditions").iter().any(|one| one["type"] == kind)
            };
            let mut words = Vec::new();
            if has("Denied") {
                words.push("Denied");
            } else if has("Approved") {
                words.push("Approved");
            } else {
                words.push("Pending");
            }
            if has("Failed") {
                words.push("Failed");
            }
            if !text_or(request, "/status/certificate", "").is_empty() {
                words.push("Issued");
            }
            json!(words.join(","))
        }
        _ => return None,
    })
}
