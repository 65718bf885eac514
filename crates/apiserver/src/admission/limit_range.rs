//! LimitRanges: what containers ask for when they do not say, and what nobody may go below or over.
//!
//! Deciding is pure: [`fill`] and [`judge`] see one range and one object. A range whose defaults are
//! not written out defaults as Kubernetes does: limits from `max`, requests from limits, else `min`.
//!
//! # Source
//! Kubernetes' `LimitRanger` plugin.

use berth_api::Quantity;
use serde_json::{Map, Value, json};

use super::Asked;
use crate::status::Failure;

const LISTS: [&str; 2] = ["initContainers", "containers"];

/// Gives containers what the namespace's ranges give those that do not say.
pub(super) async fn default(asked: &Asked<'_>, new: &mut Value) -> Result<(), Failure> {
    if !asked.is_new("", "pods") {
        return Ok(());
    }
    for range in asked.namespaced("", "v1", "limitranges").await? {
        fill(&range, new);
    }
    Ok(())
}

/// Refuses a pod or claim that a range does not allow.
pub(super) async fn check(asked: &Asked<'_>, new: &Value) -> Result<(), Failure> {
    let plural = asked.resource.storage_plural.as_str();
    let concerned = match (asked.resource.storage_group.as_str(), plural, asked.subresource) {
        ("", "pods", None) => asked.is_new("", "pods"),
        ("", "pods", Some("resize")) | ("", "persistentvolumeclaims", None) => true,
        _ => false,
    };
    if !concerned {
        return Ok(());
    }
    for range in asked.namespaced("", "v1", "limitranges").await? {
        let complaints = judge(&range, plural, new);
        if !complaints.is_empty() {
            return Err(asked.forbid(listed(&complaints)));
        }
    }
    Ok(())
}

/// One complaint as it is, several in brackets.
fn listed(complaints: &[String]) -> String {
    match complaints {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

fn items<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    let all = range["spec"]["limits"].as_array().into_iter().flatten();
    all.filter(move |item| item["type"] == kind)
}

fn amount(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// The default limits and requests of an item, completed.
fn defaults(item: &Value) -> (Map<String, Value>, Map<String, Value>) {
    let mut limits = item["default"].as_object().cloned().unwrap_or_default();
    for (name, value) in fields(&item["max"]) {
        limits.entry(name.clone()).or_insert_with(|| value.clone());
    }
    let mut requests = item["defaultRequest"].as_object().cloned().unwrap_or_default();
    for (name, value) in &limits {
        requests.entry(name.clone()).or_insert_with(|| value.clone());
    }
    for (name, value) in fields(&item["min"]) {
        requests.entry(name.clone()).or_insert_with(|| value.clone());
    }
    (limits, requests)
}

fn fill(range: &Value, pod: &mut Value) {
    let mut set = Vec::new();
    for item in items(range, "Container") {
        let (limits, requests) = defaults(item);
        for list in LISTS {
            let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten().filter(|one| one.is_object()) {
                let name = container["name"].as_str().unwrap_or_default().to_owned();
                let mut given = |kind: &str, defaults: &Map<String, Value>| {
                    let mut names = Vec::new();
                    if defaults.is_empty() {
                        return names;
                    }
                    if !container["resources"].is_object() {
                        container["resources"] = json!({});
                    }
                    if !container["resources"][kind].is_object() {
                        container["resources"][kind] = json!({});
                    }
                    for (resource, value) in defaults {
                        if container["resources"][kind].get(resource).is_none() {
                            container["resources"][kind][resource] = value.clone();
                            names.push(resource.clone());
                        }
                    }
                    names
                };
                // A limit of its own is the request of a container that names none.
                let (requested, limited) = (given("requests", &requests), given("limits", &limits));
                let whose = if list == "containers" { "container" } else { "init container" };
                for (kind, names) in [("request", requested), ("limit", limited)] {
                    if !names.is_empty() {
                        set.push(format!("{} {kind} for {whose} {name}", names.join(", ")));
                    }
                }
            }
        }
    }
    if !set.is_empty() {
        let said = format!("LimitRanger plugin set: {}", set.join("; "));
        let meta = crate::object::meta_mut(pod);
        let annotations = meta.entry("annotations").or_insert_with(|| json!({}));
        if annotations.is_object() {
            annotations["kubernetes.io/limit-ranger"] = json!(said);
        }
    }
}

fn judge(range: &Value, plural: &str, object: &Value) -> Vec<String> {
    let mut complaints = Vec::new();
    if plural == "persistentvolumeclaims" {
        let requests = &object["spec"]["resources"]["requests"];
        for item in items(range, "PersistentVolumeClaim") {
            bound(item, "PersistentVolumeClaim", requests, None, &mut complaints);
        }
        return complaints;
    }
    for list in LISTS {
        for container in object["spec"][list].as_array().into_iter().flatten() {
            let resources = &container["resources"];
            let limits = Some(&resources["limits"]);
            for item in items(range, "Container") {
                bound(item, "Container", &resources["requests"], limits, &mut complaints);
            }
        }
    }
    for item in items(range, "Pod") {
        let (requests, limits) = (total(object, "requests"), total(object, "limits"));
        bound(item, "Pod", &requests, Some(&limits), &mut complaints);
    }
    complaints
}

/// What a pod needs of everything: its containers together, or its greatest init container.
///
/// A resource that a container does not name counts as nothing of it.
fn total(pod: &Value, kind: &str) -> Value {
    let mut sums: std::collections::BTreeMap<String, Quantity> = Default::default();
    let list = |name: &str| pod["spec"][name].as_array().into_iter().flatten();
    let restarts = |one: &&Value| one["restartPolicy"] == "Always";
    for container in list("containers").chain(list("initContainers").filter(restarts)) {
        for (name, value) in fields(&container["resources"][kind]) {
            let Some(value) = amount(value) else { continue };
            let sum = sums.get(name).copied();
            sums.insert(name.clone(), sum.map_or(value, |sum| sum + value));
        }
    }
    for container in list("initContainers").filter(|one| !restarts(one)) {
        for (name, value) in fields(&container["resources"][kind]) {
            let Some(value) = amount(value) else { continue };
            let most = sums.get(name).map_or(value, |sum| (*sum).max(value));
            sums.insert(name.clone(), most);
        }
    }
    for (name, value) in fields(&pod["spec"]["resources"][kind]) {
        if let Some(value) = amount(value) {
            sums.insert(name.clone(), value);
        }
    }
    sums.into_iter().map(|(name, sum)| (name, json!(sum.to_string()))).collect::<Map<_, _>>().into()
}

/// Holds requests and limits against an item; claims have no limits.
fn bound(item: &Value, of: &str, requests: &Value, limits: Option<&Value>, out: &mut Vec<String>) {
    let limit_of = |name: &str| limits.and_then(|limits| amount(&limits[name]));
    for (name, least) in fields(&item["min"]) {
        let Some(least) = amount(least) else { continue };
        let said = format!("minimum {name} usage per {of} is {least}");
        match (amount(&requests[name]), limit_of(name)) {
            (None, _) => out.push(format!("{said}.  No request is specified")),
            (Some(_), Some(limit)) if limit < least => {
                out.push(format!("{said}, but limit is {limit}"));
            }
            (Some(request), _) if request < least => {
                out.push(format!("{said}, but request is {request}"));
            }
            _ => {}
        }
    }
    for (name, most) in fields(&item["max"]) {
        let Some(most) = amount(most) else { continue };
        let said = format!("maximum {name} usage per {of} is {most}");
        let request = amount(&requests[name]);
        let over = request.filter(|request| *request > most);
        match (limits.is_some(), limit_of(name), request) {
            (true, None, _) => out.push(format!("{said}.  No limit is specified")),
            (false, _, None) => out.push(format!("{said}.  No request is specified")),
            (true, Some(limit), _) if limit > most => {
                out.push(format!("{said}, but limit is {limit}"));
            }
            _ => out.extend(over.map(|request| format!("{said}, but request is {request}"))),
        }
    }
    for (name, most) in fields(&item["maxLimitRequestRatio"]) {
        let Some(most) = amount(most) else { continue };
        let said = format!("{name} max limit to request ratio per {of} is {most}");
        let given = |one: Option<Quantity>| one.filter(|one| !one.is_zero());
        match (given(amount(&requests[name])), given(limit_of(name))) {
            (None, _) => out.push(format!("{said}, but no request is specified or request is 0")),
            (_, None) => out.push(format!("{said}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let ratio = limit.nanos() as f64 / request.nanos() as f64;
                if ratio > most.nanos() as f64 / 1e9 {
                    out.push(format!("{said}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(item: Value) -> Value {
        json!({"spec": {"limits": [item]}})
    }

    fn pod(resources: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn containers_get_what_they_do_not_name() {
        let check = |item: Value, own: Value, expected: Value| {
            let mut pod = pod(own);
            fill(&range(item), &mut pod);
            assert_eq!(pod["spec"]["containers"][0]["resources"], expected);
        };
        let item = json!({"type": "Container", "default": {"cpu": "1"},
            "defaultRequest": {"cpu": "100m"}});
        let both = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}});
        check(item.clone(), json!({}), both);
        let own = json!({"requests": {"cpu": "2"}, "limits": {"cpu": "3"}});
        check(item, own.clone(), own);
        let of_max = json!({"type": "Container", "max": {"memory": "1Gi"}});
        let both = json!({"requests": {"memory": "1Gi"}, "limits": {"memory": "1Gi"}});
        check(of_max, json!({}), both);
        check(json!({"type": "Pod", "max": {"cpu": "1"}}), json!({}), json!({}));
    }

    #[test]
    fn bounds_are_told_in_kubernetes_words() {
        let check = |item: Value, own: Value, expected: &[&str]| {
            assert_eq!(judge(&range(item), "pods", &pod(own)), expected);
        };
        let both = |request: &str, limit: &str| json!({"requests": {"cpu": request}, "limits": {"cpu": limit}});
        let item = json!({"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "1"}});
        check(item.clone(), both("100m", "1"), &[]);
        check(
            item.clone(),
            both("50m", "2"),
            &[
                "minimum cpu usage per Container is 100m, but request is 50m",
                "maximum cpu usage per Container is 1, but limit is 2",
            ],
        );
        check(
            item,
            json!({}),
            &[
                "minimum cpu usage per Container is 100m.  No request is specified",
                "maximum cpu usage per Container is 1.  No limit is specified",
            ],
        );
        let ratio = json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "2"}});
        check(ratio.clone(), both("500m", "1"), &[]);
        check(
            ratio,
            both("400m", "1"),
            &["cpu max limit to request ratio per Pod is 2, but provided ratio is 2.500000"],
        );
    }

    #[test]
    fn pods_are_summed_and_claims_have_requests_only() {
        let range = range(json!({"type": "Pod", "max": {"cpu": "1"}}));
        let resources = json!({"limits": {"cpu": "600m"}, "requests": {"cpu": "600m"}});
        let two = json!({"spec": {"containers": [
            {"name": "a", "resources": resources}, {"name": "b", "resources": resources}]}});
        let said = judge(&range, "pods", &two);
        assert_eq!(said, ["maximum cpu usage per Pod is 1, but limit is 1200m"]);
        let range = super::tests::range(
            json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}),
        );
        let claim = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
        let said = judge(&range, "persistentvolumeclaims", &claim);
        let expected = "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi";
        assert_eq!(said, [expected]);
    }
}
