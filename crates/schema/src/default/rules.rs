//! Defaults that depend on other fields, a function a type.

use serde_json::{Map, Value, json};

type Fields = Map<String, Value>;
/// Fills in the fields of one object.
pub type Rule = fn(&mut Fields);

/// The rule of the type of this name.
pub fn of(name: &str) -> Option<Rule> {
    Some(match name {
        "core.v1.Pod" => pod,
        "core.v1.PodSpec" => pod_spec,
        "core.v1.Container" | "core.v1.EphemeralContainer" => container,
        "core.v1.Volume" => volume,
        "core.v1.Namespace" => namespace,
        "core.v1.Service" => service,
        "core.v1.ReplicationController" => replication_controller,
        "core.v1.LimitRangeItem" => limit_range_item,
        "core.v1.Node" => node,
        "apps.v1.Deployment" => deployment,
        "apps.v1.DaemonSet" => daemon_set,
        "apps.v1.StatefulSet" => stateful_set,
        "batch.v1.Job" => job,
        "autoscaling.v2.HorizontalPodAutoscaler" => autoscaler,
        "networking.v1.NetworkPolicy" => network_policy,
        "rbac.v1.Subject" => subject,
        "apiextensions.v1.CustomResourceDefinition" => definition,
        "resource.v1.ExactDeviceRequest" => device_request,
        _ => return None,
    })
}

/// Sets a field where nothing is.
fn or(fields: &mut Fields, name: &str, value: Value) {
    fields.entry(name).or_insert(value);
}

/// The object below `name`, made when it is missing.
fn within<'a>(fields: &'a mut Fields, name: &str) -> Option<&'a mut Fields> {
    fields.entry(name).or_insert_with(|| json!({})).as_object_mut()
}

fn text<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn objects<'a>(fields: &'a mut Fields, name: &str) -> impl Iterator<Item = &'a mut Fields> {
    let list = fields.get_mut(name).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn pod(fields: &mut Fields) {
    let Some(spec) = within(fields, "spec") else { return };
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["containers", "initContainers"] {
        for container in objects(spec, list) {
            requests_from_limits(container);
            if host_network {
                for port in objects(container, "ports") {
                    if let Some(number) = port.get("containerPort").cloned() {
                        or(port, "hostPort", number);
                    }
                }
            }
        }
    }
    if let Some(resources) = spec.get_mut("resources").and_then(Value::as_object_mut) {
        copy_limits(resources);
    }
}

fn requests_from_limits(container: &mut Fields) {
    if let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) {
        copy_limits(resources);
    }
}

/// What is limited and not asked for is asked for at its limit.
fn copy_limits(resources: &mut Fields) {
    let limits = resources.get("limits").and_then(Value::as_object).cloned().unwrap_or_default();
    if limits.is_empty() {
        return;
    }
    if let Some(requests) = within(resources, "requests") {
        for (name, amount) in limits {
            requests.entry(name).or_insert(amount);
        }
    }
}

/// The old name of the service account's field follows the new one, and the other way round.
fn pod_spec(fields: &mut Fields) {
    let new = text(fields, "serviceAccountName").to_owned();
    let old = text(fields, "serviceAccount").to_owned();
    if !new.is_empty() {
        fields.insert("serviceAccount".to_owned(), json!(new));
    } else if !old.is_empty() {
        fields.insert("serviceAccountName".to_owned(), json!(old));
    }
}

fn container(fields: &mut Fields) {
    if !fields.contains_key("imagePullPolicy") {
        let policy = if is_latest(text(fields, "image")) { "Always" } else { "IfNotPresent" };
        fields.insert("imagePullPolicy".to_owned(), json!(policy));
    }
}

/// Whether an image's tag is `latest`, said or not; a digest alone is none.
fn is_latest(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, at)| (name, Some(at)));
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.rsplit_once(':') {
        Some((_, tag)) => tag == "latest",
        None => digest.is_none(),
    }
}

fn volume(fields: &mut Fields) {
    if fields.keys().all(|key| key == "name") {
        fields.insert("emptyDir".to_owned(), json!({}));
    }
}

fn namespace(fields: &mut Fields) {
    let Some(metadata) = within(fields, "metadata") else { return };
    let name = text(metadata, "name").to_owned();
    if name.is_empty() {
        return;
    }
    if let Some(labels) = within(metadata, "labels") {
        or(labels, "kubernetes.io/metadata.name", json!(name));
    }
}

fn service(fields: &mut Fields) {
    let Some(spec) = within(fields, "spec") else { return };
    let kind = text(spec, "type").to_owned();
    let outside = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
    if outside {
        or(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    if outside || kind == "ClusterIP" {
        or(spec, "internalTrafficPolicy", json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        or(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
    match text(spec, "sessionAffinity") {
        "None" => {
            spec.remove("sessionAffinityConfig");
        }
        "ClientIP" => {
            let client =
                within(spec, "sessionAffinityConfig").and_then(|all| within(all, "clientIP"));
            if let Some(client) = client {
                // Three hours, as kube-proxy has it.
                or(client, "timeoutSeconds", json!(10800));
            }
        }
        _ => {}
    }
    for port in objects(spec, "ports") {
        if let Some(number) = port.get("port").cloned() {
            let target = port.entry("targetPort").or_insert(Value::Null);
            if matches!(target, Value::Null) || *target == json!(0) || *target == json!("") {
                *target = number;
            }
        }
    }
}

fn replication_controller(fields: &mut Fields) {
    let labels = fields.get("spec").map(|spec| spec["template"]["metadata"]["labels"].clone());
    let Some(labels) = labels.filter(Value::is_object) else { return };
    if let Some(spec) = within(fields, "spec") {
        or(spec, "selector", labels.clone());
    }
    if let Some(metadata) = within(fields, "metadata") {
        or(metadata, "labels", labels);
    }
}

/// A missing default limit is the most there may be, a missing default request the default limit.
fn limit_range_item(fields: &mut Fields) {
    if text(fields, "type") != "Container" {
        return;
    }
    for (name, from) in
        [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")]
    {
        let source = fields.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
        if source.is_empty() {
            continue;
        }
        if let Some(target) = within(fields, name) {
            for (resource, amount) in source {
                target.entry(resource).or_insert(amount);
            }
        }
    }
}

fn node(fields: &mut Fields) {
    let capacity = fields.get("status").map(|status| status["capacity"].clone());
    if let (Some(capacity @ Value::Object(_)), Some(status)) = (capacity, within(fields, "status"))
    {
        or(status, "allocatable", capacity);
    }
}

/// The object below `spec.NAME.rollingUpdate`, when the strategy is a rolling one.
fn rolling<'a>(fields: &'a mut Fields, name: &str) -> Option<&'a mut Fields> {
    let strategy = within(within(fields, "spec")?, name)?;
    if text(strategy, "type") != "RollingUpdate" {
        return None;
    }
    within(strategy, "rollingUpdate")
}

fn deployment(fields: &mut Fields) {
    if let Some(update) = rolling(fields, "strategy") {
        or(update, "maxUnavailable", json!("25%"));
        or(update, "maxSurge", json!("25%"));
    }
}

fn daemon_set(fields: &mut Fields) {
    if let Some(update) = rolling(fields, "updateStrategy") {
        or(update, "maxUnavailable", json!(1));
        or(update, "maxSurge", json!(0));
    }
}

fn stateful_set(fields: &mut Fields) {
    if let Some(update) = rolling(fields, "updateStrategy") {
        or(update, "partition", json!(0));
    }
    let Some(spec) = within(fields, "spec") else { return };
    for claim in objects(spec, "volumeClaimTemplates") {
        or(claim, "apiVersion", json!("v1"));
        or(claim, "kind", json!("PersistentVolumeClaim"));
    }
}

fn job(fields: &mut Fields) {
    let labels = fields.get("spec").map(|spec| spec["template"]["metadata"]["labels"].clone());
    if let Some(spec) = within(fields, "spec") {
        let parallelism = spec.contains_key("parallelism");
        if !parallelism && !spec.contains_key("completions") {
            or(spec, "completions", json!(1));
        }
        or(spec, "parallelism", json!(1));
        let limit = if spec.contains_key("backoffLimitPerIndex") { i32::MAX } else { 6 };
        or(spec, "backoffLimit", json!(limit));
        let replace =
            if spec.contains_key("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
        or(spec, "podReplacementPolicy", json!(replace));
    }
    if let (Some(labels @ Value::Object(_)), Some(metadata)) = (labels, within(fields, "metadata"))
    {
        or(metadata, "labels", labels);
    }
}

fn autoscaler(fields: &mut Fields) {
    let Some(spec) = within(fields, "spec") else { return };
    let cpu = json!([{
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
    }]);
    or(spec, "metrics", cpu);
    let Some(behavior) = spec.get_mut("behavior").and_then(Value::as_object_mut) else { return };
    let quarter = 15;
    let up = json!({
        "stabilizationWindowSeconds": 0,
        "selectPolicy": "Max",
        "policies": [
            {"type": "Pods", "value": 4, "periodSeconds": quarter},
            {"type": "Percent", "value": 100, "periodSeconds": quarter},
        ],
    });
    let down = json!({
        "selectPolicy": "Max",
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": quarter}],
    });
    for (name, rules) in [("scaleUp", up), ("scaleDown", down)] {
        if let (Some(found), Value::Object(rules)) = (within(behavior, name), rules) {
            for (field, value) in rules {
                or(found, &field, value);
            }
        }
    }
}

fn network_policy(fields: &mut Fields) {
    let Some(spec) = within(fields, "spec") else { return };
    if !spec.contains_key("policyTypes") {
        let egress =
            spec.get("egress").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
        let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        spec.insert("policyTypes".to_owned(), types);
    }
}

fn subject(fields: &mut Fields) {
    if matches!(text(fields, "kind"), "User" | "Group") {
        or(fields, "apiGroup", json!("rbac.authorization.k8s.io"));
    }
}

fn definition(fields: &mut Fields) {
    let Some(spec) = within(fields, "spec") else { return };
    let Some(names) = within(spec, "names") else { return };
    let kind = text(names, "kind").to_owned();
    if !kind.is_empty() {
        or(names, "singular", json!(kind.to_lowercase()));
        or(names, "listKind", json!(format!("{kind}List")));
    }
}

fn device_request(fields: &mut Fields) {
    if text(fields, "allocationMode") == "ExactCount" {
        or(fields, "count", json!(1));
    }
}
