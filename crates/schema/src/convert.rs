//! The same objects under two versions: events of both groups, both versions of the autoscaler,
//! the versions of a custom resource.

use serde_json::{Map, Value, json};

use crate::{Resource, catalog};

/// Turns an object of `resource` into the version in which it is stored.
pub fn to_storage(resource: &Resource, object: &mut Value) {
    match (resource.group.as_str(), resource.version.as_str(), resource.kind.as_str()) {
        ("events.k8s.io", _, "Event") => event_to_core(object),
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => autoscaler_to_v2(object),
        _ => {}
    }
    if object.is_object() {
        let version = catalog::join(&resource.storage_group, &resource.storage_version);
        object["apiVersion"] = json!(version);
    }
}

/// Turns a stored object into the version of `resource`.
pub fn from_storage(resource: &Resource, object: &mut Value) {
    match (resource.group.as_str(), resource.version.as_str(), resource.kind.as_str()) {
        ("events.k8s.io", _, "Event") => event_from_core(object),
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => autoscaler_to_v1(object),
        _ => {}
    }
    if object.is_object() {
        object["apiVersion"] = json!(resource.api_version());
        object["kind"] = json!(resource.kind);
    }
}

/// What an event's fields are called in the core group and in `events.k8s.io`.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

pub(crate) fn event_to_core(event: &mut Value) {
    rename(event, |(core, other)| (other, core));
}

fn event_from_core(event: &mut Value) {
    rename(event, |(core, other)| (core, other));
    // The core group writes them always, this one only when they say something.
    if let Some(fields) = event.as_object_mut() {
        for field in ["reportingController", "reportingInstance"] {
            if fields.get(field).is_some_and(|value| value == "") {
                fields.remove(field);
            }
        }
    }
}

fn rename(
    event: &mut Value,
    way: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Some(fields) = event.as_object_mut() else { return };
    for (from, to) in EVENT_FIELDS.into_iter().map(way) {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}

/// The oldest version knows only the average use of the CPU.
fn autoscaler_to_v2(object: &mut Value) {
    if let Some(spec) = fields(object, "spec")
        && let Some(wanted) = spec.remove("targetCPUUtilizationPercentage")
    {
        let target = json!({"type": "Utilization", "averageUtilization": wanted});
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
        spec.insert("metrics".to_owned(), json!([metric]));
    }
    if let Some(status) = fields(object, "status")
        && let Some(found) = status.remove("currentCPUUtilizationPercentage")
    {
        let current = json!({"averageUtilization": found, "averageValue": "0"});
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "current": current}});
        status.insert("currentMetrics".to_owned(), json!([metric]));
    }
}

fn autoscaler_to_v1(object: &mut Value) {
    let value = |list: &Value, place: &str, key: &str| {
        let found = list.as_array()?.iter().find(|one| one["resource"]["name"] == "cpu")?;
        found["resource"][place].get(key).cloned()
    };
    if let Some(spec) = fields(object, "spec") {
        spec.remove("behavior");
        if let Some(metrics) = spec.remove("metrics")
            && let Some(wanted) = value(&metrics, "target", "averageUtilization")
        {
            spec.insert("targetCPUUtilizationPercentage".to_owned(), wanted);
        }
    }
    if let Some(status) = fields(object, "status") {
        status.remove("conditions");
        if let Some(metrics) = status.remove("currentMetrics")
            && let Some(found) = value(&metrics, "current", "averageUtilization")
        {
            status.insert("currentCPUUtilizationPercentage".to_owned(), found);
        }
    }
}

fn fields<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(key)?.as_object_mut()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalog;

    #[test]
    fn events_are_stored_as_core_events() {
        let catalog = Catalog::builtin();
        let resource = catalog.resource("events.k8s.io", "v1", "events").unwrap();
        let given = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n",
            "regarding": {"name": "p"}, "reportingController": "c"});
        let mut event = given.clone();
        to_storage(resource, &mut event);
        assert_eq!(
            event,
            json!({"apiVersion": "v1", "kind": "Event", "message": "n",
            "involvedObject": {"name": "p"}, "reportingComponent": "c"})
        );
        from_storage(resource, &mut event);
        assert_eq!(event, given);
    }

    #[test]
    fn both_versions_of_an_autoscaler_say_the_same() {
        let catalog = Catalog::builtin();
        let old = catalog.resource("autoscaling", "v1", "horizontalpodautoscalers").unwrap();
        let given = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}});
        let mut object = given.clone();
        to_storage(old, &mut object);
        assert_eq!(object["apiVersion"], "autoscaling/v2");
        assert_eq!(object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
        from_storage(old, &mut object);
        assert_eq!(object, given);
    }
}
