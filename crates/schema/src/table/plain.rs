//! Cells that only show a field or count a list.

use serde_json::{Value, json};

/// What a cell does with the field.
enum Show {
    /// Shows it, or this text.
    Or(&'static str),
    /// Counts its items.
    Count,
}
use Show::{Count, Or};

/// Type, heading, where the value stands, how it is shown.
const CELLS: &[(&str, &str, &str, Show)] = &[
    ("core.v1.Namespace", "Status", "/status/phase", Or("")),
    ("core.v1.Secret", "Type", "/type", Or("")),
    ("core.v1.Secret", "Data", "/data", Count),
    ("coordination.v1.Lease", "Holder", "/spec/holderIdentity", Or("")),
    ("policy.v1.PodDisruptionBudget", "Min Available", "/spec/minAvailable", Or("N/A")),
    ("policy.v1.PodDisruptionBudget", "Max Unavailable", "/spec/maxUnavailable", Or("N/A")),
    ("policy.v1.PodDisruptionBudget", "Allowed Disruptions", "/status/disruptionsAllowed", Or("0")),
    ("apps.v1.ControllerRevision", "Revision", "/revision", Or("")),
    ("storage.v1.StorageClass", "Provisioner", "/provisioner", Or("")),
    ("storage.v1.StorageClass", "ReclaimPolicy", "/reclaimPolicy", Or("Delete")),
    ("storage.v1.StorageClass", "VolumeBindingMode", "/volumeBindingMode", Or("Immediate")),
    ("storage.v1.StorageClass", "AllowVolumeExpansion", "/allowVolumeExpansion", Or("false")),
    ("storage.v1.VolumeAttributesClass", "DriverName", "/driverName", Or("")),
    ("storage.v1.CSINode", "Drivers", "/spec/drivers", Count),
    ("storage.v1.VolumeAttachment", "Attacher", "/spec/attacher", Or("")),
    ("storage.v1.VolumeAttachment", "PV", "/spec/source/persistentVolumeName", Or("")),
    ("storage.v1.VolumeAttachment", "Node", "/spec/nodeName", Or("")),
    ("storage.v1.VolumeAttachment", "Attached", "/status/attached", Or("false")),
    ("storage.v1.CSIDriver", "AttachRequired", "/spec/attachRequired", Or("true")),
    ("storage.v1.CSIDriver", "PodInfoOnMount", "/spec/podInfoOnMount", Or("false")),
    ("storage.v1.CSIDriver", "StorageCapacity", "/spec/storageCapacity", Or("false")),
    ("storage.v1.CSIDriver", "RequiresRepublish", "/spec/requiresRepublish", Or("false")),
    ("storage.v1.CSIDriver", "Modes", "/spec/volumeLifecycleModes", Or("Persistent")),
    ("storage.v1.CSIDriver", "TokenRequests", "/spec/tokenRequests", Or("<unset>")),
    ("node.v1.RuntimeClass", "Handler", "/handler", Or("")),
    ("scheduling.v1.PriorityClass", "Value", "/value", Or("0")),
    ("scheduling.v1.PriorityClass", "Global-Default", "/globalDefault", Or("false")),
    ("scheduling.v1.PriorityClass", "PreemptionPolicy", "/preemptionPolicy", Or("")),
    ("flowcontrol.v1.FlowSchema", "PriorityLevel", "/spec/priorityLevelConfiguration/name", Or("")),
    ("flowcontrol.v1.FlowSchema", "MatchingPrecedence", "/spec/matchingPrecedence", Or("")),
    (
        "flowcontrol.v1.FlowSchema",
        "DistinguisherMethod",
        "/spec/distinguisherMethod/type",
        Or("<none>"),
    ),
    ("flowcontrol.v1.FlowSchema", "MissingPL", "/status/missing", Or("False")),
    ("flowcontrol.v1.PriorityLevelConfiguration", "Type", "/spec/type", Or("")),
    (
        "flowcontrol.v1.PriorityLevelConfiguration",
        "NominalConcurrencyShares",
        "/spec/limited/nominalConcurrencyShares",
        Or("<none>"),
    ),
    (
        "flowcontrol.v1.PriorityLevelConfiguration",
        "Queues",
        "/spec/limited/limitResponse/queuing/queues",
        Or("<none>"),
    ),
    (
        "flowcontrol.v1.PriorityLevelConfiguration",
        "HandSize",
        "/spec/limited/limitResponse/queuing/handSize",
        Or("<none>"),
    ),
    (
        "flowcontrol.v1.PriorityLevelConfiguration",
        "QueueLengthLimit",
        "/spec/limited/limitResponse/queuing/queueLengthLimit",
        Or("<none>"),
    ),
    ("admissionregistration.v1.MutatingWebhookConfiguration", "Webhooks", "/webhooks", Count),
    ("admissionregistration.v1.ValidatingWebhookConfiguration", "Webhooks", "/webhooks", Count),
    (
        "admissionregistration.v1.ValidatingAdmissionPolicy",
        "Validations",
        "/spec/validations",
        Count,
    ),
    ("admissionregistration.v1.MutatingAdmissionPolicy", "Mutations", "/spec/mutations", Count),
    (
        "admissionregistration.v1.ValidatingAdmissionPolicy",
        "ParamKind",
        "/spec/paramKind/kind",
        Or("<unset>"),
    ),
    (
        "admissionregistration.v1.MutatingAdmissionPolicy",
        "ParamKind",
        "/spec/paramKind/kind",
        Or("<unset>"),
    ),
    (
        "admissionregistration.v1.ValidatingAdmissionPolicyBinding",
        "PolicyName",
        "/spec/policyName",
        Or(""),
    ),
    (
        "admissionregistration.v1.MutatingAdmissionPolicyBinding",
        "PolicyName",
        "/spec/policyName",
        Or(""),
    ),
    (
        "admissionregistration.v1.ValidatingAdmissionPolicyBinding",
        "ParamRef",
        "/spec/paramRef/name",
        Or("<unset>"),
    ),
    (
        "admissionregistration.v1.MutatingAdmissionPolicyBinding",
        "ParamRef",
        "/spec/paramRef/name",
        Or("<unset>"),
    ),
    ("resource.v1.ResourceSlice", "Node", "/spec/nodeName", Or("")),
    ("resource.v1.ResourceSlice", "Driver", "/spec/driver", Or("")),
    ("resource.v1.ResourceSlice", "Pool", "/spec/pool/name", Or("")),
];

pub fn cell(kind: &str, heading: &str, object: &Value) -> Value {
    match (kind, heading) {
        ("core.v1.ConfigMap", "Data") => {
            return json!(count(&object["data"]) + count(&object["binaryData"]));
        }
        ("apiregistration.v1.APIService", "Service") => return json!(service(object)),
        ("apiregistration.v1.APIService", "Available") => {
            let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
            let found = conditions.into_iter().find(|one| one["type"] == "Available");
            return found.map_or_else(|| json!("Unknown"), |one| one["status"].clone());
        }
        ("apps.v1.ControllerRevision", "Controller") => return json!(controller(object)),
        ("resource.v1.ResourceClaim", "State") => return json!(claim_state(object)),
        _ => {}
    }
    let fact = CELLS.iter().find(|fact| fact.0 == kind && fact.1 == heading);
    let Some((_, _, pointer, show)) = fact else { return Value::Null };
    let found = object.pointer(pointer).unwrap_or(&Value::Null);
    match show {
        Count => json!(count(found)),
        Or(nothing) => match found {
            Value::Null => serde_json::from_str(nothing)
                .ok()
                .filter(|value: &Value| value.is_number() || value.is_boolean())
                .unwrap_or_else(|| json!(nothing)),
            Value::Array(list) => {
                let words: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
                json!(words.join(","))
            }
            Value::Object(_) => json!(found.to_string()),
            other => other.clone(),
        },
    }
}

fn count(value: &Value) -> usize {
    match value {
        Value::Array(list) => list.len(),
        Value::Object(map) => map.len(),
        _ => 0,
    }
}

fn service(object: &Value) -> String {
    let service = &object["spec"]["service"];
    match (service["namespace"].as_str(), service["name"].as_str()) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => "Local".to_owned(),
    }
}

fn controller(object: &Value) -> String {
    let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let owner = owners.into_iter().find(|one| one["controller"] == true);
    let Some(owner) = owner else { return "<none>".to_owned() };
    let word = |key: &str| owner[key].as_str().unwrap_or_default();
    let group = word("apiVersion").split_once('/').map(|(group, _)| format!(".{group}"));
    format!("{}{}/{}", word("kind").to_lowercase(), group.unwrap_or_default(), word("name"))
}

fn claim_state(object: &Value) -> String {
    let mut states = Vec::new();
    if !object["metadata"]["deletionTimestamp"].is_null() {
        states.push("deleted");
    }
    if object["status"]["allocation"].is_null() {
        states.push("pending");
    } else {
        states.push("allocated");
        if count(&object["status"]["reservedFor"]) > 0 {
            states.push("reserved");
        }
    }
    states.join(",")
}
