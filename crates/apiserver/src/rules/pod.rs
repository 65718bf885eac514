//! Pods: what Kubernetes' admission adds to a new one, and how long an old one may take to end.

use std::sync::Arc;

use berth_schema::Resource;
use berth_store::Entry;
use serde_json::{Value, json};

use crate::object;
use crate::server::Core;
use crate::status::Failure;
use crate::{record, verbs};

/// Where every container finds its token, CA and namespace.
const TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour and 7 seconds: the odd number tells a default token from one that was asked for.
const TOKEN_SECONDS: i64 = 3607;
const TOLERATION_SECONDS: i64 = 300;
const DEFAULT_GRACE: i64 = 30;

/// Completes a new pod: service account and its token, tolerations, priority.
pub(super) async fn admit(
    core: &Arc<Core>,
    resource: &Arc<Resource>,
    pod: &mut Value,
) -> Result<(), Failure> {
    if !pod["spec"].is_object() {
        return Ok(());
    }
    service_account(core, resource, pod).await?;
    priority(core, resource, pod).await?;
    tolerate(pod);
    pod["status"]["qosClass"] = json!(quality(pod));
    Ok(())
}

/// One address and the list of addresses say the same; the list goes by the one when they differ.
pub(super) fn fold(pod: &mut Value) {
    let Some(status) = pod.get_mut("status").and_then(Value::as_object_mut) else { return };
    for (one, many) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        let address = status.get(one).and_then(Value::as_str).unwrap_or_default().to_owned();
        let first = status.get(many).and_then(|list| list[0]["ip"].as_str()).unwrap_or_default();
        if !address.is_empty() && first != address {
            status.insert(many.to_owned(), json!([{"ip": address}]));
        } else if address.is_empty() && !first.is_empty() {
            let first = first.to_owned();
            status.insert(one.to_owned(), json!(first));
        }
    }
}

/// The quality of service that a pod's requests and limits make: guaranteed when every container
/// asks for all it may have, best effort when none asks for anything.
pub(super) fn quality(pod: &Value) -> &'static str {
    let lists = ["initContainers", "containers"];
    let containers = || lists.iter().filter_map(|list| pod["spec"][*list].as_array()).flatten();
    let amount = |container: &Value, kind: &str, what: &str| {
        let amount = container["resources"][kind][what].clone();
        Some(amount).filter(|amount| !matches!(amount.as_str(), None | Some("0")))
    };
    let (mut any, mut all) = (false, true);
    for container in containers() {
        for what in ["cpu", "memory"] {
            let request = amount(container, "requests", what);
            let limit = amount(container, "limits", what);
            any |= request.is_some() || limit.is_some();
            // A request that is not named is the limit.
            all &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

async fn service_account(
    core: &Arc<Core>,
    resource: &Arc<Resource>,
    pod: &mut Value,
) -> Result<(), Failure> {
    let own = ["serviceAccountName", "serviceAccount"]
        .iter()
        .find_map(|field| pod["spec"][*field].as_str().filter(|name| !name.is_empty()));
    let account_name = own.unwrap_or("default").to_owned();
    let namespace = object::namespace(pod).to_owned();
    let name = object::name(pod).to_owned();
    let account = core.core_object("serviceaccounts", &namespace, &account_name).await?;
    let account = account.ok_or_else(|| {
        Failure::forbidden_object(
            resource,
            &name,
            format!(
                "error looking up service account {namespace}/{account_name}: serviceaccount \
                 \"{account_name}\" not found"
            ),
        )
    })?;
    let spec = &mut pod["spec"];
    spec["serviceAccountName"] = json!(account_name);
    spec["serviceAccount"] = json!(account_name);
    if spec["imagePullSecrets"].as_array().is_none_or(Vec::is_empty)
        && let Some(secrets) = account["imagePullSecrets"].as_array()
        && !secrets.is_empty()
    {
        spec["imagePullSecrets"] = json!(secrets);
    }
    let mounts = spec["automountServiceAccountToken"]
        .as_bool()
        .or_else(|| account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if mounts {
        mount_token(spec);
    }
    Ok(())
}

/// Gives each container that has nothing at that place yet the projected token volume.
fn mount_token(spec: &mut Value) {
    let existing = spec["volumes"].as_array().into_iter().flatten().find_map(|volume| {
        let name = volume["name"].as_str()?;
        name.starts_with("kube-api-access-").then(|| name.to_owned())
    });
    let is_new = existing.is_none();
    let volume = existing.unwrap_or_else(|| format!("kube-api-access-{}", object::suffix()));
    let mut used = false;
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if !container.is_object() {
                continue;
            }
            if !container["volumeMounts"].is_array() {
                container["volumeMounts"] = json!([]);
            }
            let Some(mounts) = container["volumeMounts"].as_array_mut() else { continue };
            if mounts.iter().any(|mount| mount["mountPath"] == TOKEN_DIR) {
                continue;
            }
            mounts.push(json!({"name": volume, "readOnly": true, "mountPath": TOKEN_DIR}));
            used = true;
        }
    }
    if !used || !is_new {
        return;
    }
    if !spec["volumes"].is_array() {
        spec["volumes"] = json!([]);
    }
    if let Some(volumes) = spec["volumes"].as_array_mut() {
        volumes.push(json!({
            "name": volume,
            "projected": {
                "defaultMode": 0o644,
                "sources": [
                    {"serviceAccountToken": {
                        "expirationSeconds": TOKEN_SECONDS,
                        "path": "token",
                    }},
                    {"configMap": {
                        "name": "kube-root-ca.crt",
                        "items": [{"key": "ca.crt", "path": "ca.crt"}],
                    }},
                    {"downwardAPI": {"items": [{
                        "path": "namespace",
                        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                    }]}},
                ],
            },
        }));
    }
}

/// The priority of the pod's class, or of the default one.
async fn priority(
    core: &Arc<Core>,
    resource: &Arc<Resource>,
    pod: &mut Value,
) -> Result<(), Failure> {
    let classes = core.resource("scheduling.k8s.io", "v1", "priorityclasses")?;
    let class = match pod["spec"]["priorityClassName"].as_str().filter(|name| !name.is_empty()) {
        Some(name) => {
            let (entry, _) = core.store.get(&record::key(&classes, "", name)).await?;
            let Some(entry) = entry else {
                let why = format!("no PriorityClass with name {name} was found");
                return Err(Failure::forbidden_object(resource, object::name(pod), why));
            };
            Some(record::object(&classes, &entry))
        }
        None => {
            let prefix = record::prefix(&classes, "");
            let page = core.store.list(prefix.as_bytes(), None, 0, None).await?;
            // Each new pod asks this, and hardly any class is it.
            let is_told = |entry: &&Entry| {
                memchr::memmem::find(&entry.value, b"\"globalDefault\":true").is_some()
            };
            let told = page.entries.iter().filter(is_told);
            let all = told.map(|entry| record::object(&classes, entry));
            all.filter(|class| class["globalDefault"] == true)
                .min_by_key(|class| class["value"].as_i64())
        }
    };
    let value = class.as_ref().and_then(|class| class["value"].as_i64()).unwrap_or_default();
    let asked = pod["spec"]["priority"].as_i64();
    if asked.is_some_and(|asked| asked != value) {
        let why = format!(
            "the integer value of priority ({}) must not be provided in pod spec; priority \
             admission controller computed {value} from the given PriorityClass name",
            asked.unwrap_or_default()
        );
        return Err(Failure::forbidden_object(resource, object::name(pod), why));
    }
    let policy = class.as_ref().and_then(|class| class["preemptionPolicy"].as_str());
    pod["spec"]["priority"] = json!(value);
    pod["spec"]["preemptionPolicy"] = json!(policy.unwrap_or("PreemptLowerPriority"));
    if let Some(class) = &class {
        pod["spec"]["priorityClassName"] = json!(object::name(class));
    }
    Ok(())
}

/// Lets the pod stay for five minutes on a node that fails, unless it says otherwise.
pub(super) fn tolerate(pod: &mut Value) {
    if !pod["spec"]["tolerations"].is_array() {
        pod["spec"]["tolerations"] = json!([]);
    }
    let Some(tolerations) = pod["spec"]["tolerations"].as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covered = tolerations.iter().any(|one| {
            let own = one["key"].as_str().unwrap_or_default();
            let effect = one["effect"].as_str().unwrap_or_default();
            (own == key || own.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if !covered {
            tolerations.push(json!({
                "key": key,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
}

/// How long a pod may take to end: not at all when it runs nowhere any more, or never did.
pub(super) fn grace(pod: &Value, asked: Option<i64>) -> i64 {
    let unscheduled = pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty);
    if unscheduled || matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return 0;
    }
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64();
    // A negative wish is Kubernetes' way to say one second.
    match asked.or(own).unwrap_or(DEFAULT_GRACE) {
        seconds if seconds < 0 => 1,
        seconds => seconds,
    }
}

/// `resize` changes what containers may use, nothing else.
pub(super) fn take_resources(pod: &mut Value, asked: &Value) {
    for list in ["containers", "initContainers"] {
        let wanted = asked["spec"][list].as_array().cloned().unwrap_or_default();
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let same = wanted.iter().find(|one| one["name"] == container["name"]);
            if let Some(resources) = same.and_then(|one| one.get("resources")) {
                container["resources"] = resources.clone();
            }
        }
    }
}

/// Sets a pod on a node, as the scheduler decided.
pub(crate) fn bind(resource: &Resource, live: &Value, binding: &Value) -> Result<Value, Failure> {
    let name = object::name(live);
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    if node.is_empty() || !matches!(binding["target"]["kind"].as_str(), None | Some("" | "Node")) {
        return Err(Failure::bad_request("a pod is bound to a Node: target.name is required"));
    }
    let current = live["spec"]["nodeName"].as_str().unwrap_or_default();
    if object::is_deleting(live) {
        let why = format!("pod {name} is being deleted, cannot be assigned to a host");
        return Err(Failure::conflict(resource, name, &why));
    }
    if !current.is_empty() {
        let why = format!("pod {name} is already assigned to node \"{current}\"");
        return Err(Failure::conflict(resource, name, &why));
    }
    let mut new = live.clone();
    new["spec"]["nodeName"] = json!(node);
    if let Some(annotations) = binding["metadata"]["annotations"].as_object() {
        let own = object::meta_mut(&mut new).entry("annotations").or_insert_with(|| json!({}));
        for (key, value) in annotations {
            own[key] = value.clone();
        }
    }
    let now = object::now();
    let scheduled = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": now,
    });
    if !new["status"].is_object() {
        new["status"] = json!({"phase": "Pending"});
    }
    let mut conditions = new["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.retain(|condition| condition["type"] != "PodScheduled");
    conditions.push(scheduled);
    new["status"]["conditions"] = Value::Array(conditions);
    Ok(new)
}

/// The pod that a request is about.
pub(crate) async fn find(core: &Core, namespace: &str, name: &str) -> Result<Value, Failure> {
    verbs::found(core, "pods", namespace, name).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_is_the_asked_the_own_or_thirty_seconds_and_none_off_a_node() {
        let pod = |node: &str, phase: &str, own: Option<i64>| {
            json!({
                "spec": {"nodeName": node, "terminationGracePeriodSeconds": own},
                "status": {"phase": phase},
            })
        };
        assert_eq!(grace(&pod("n", "Running", Some(5)), None), 5);
        assert_eq!(grace(&pod("n", "Running", Some(5)), Some(1)), 1);
        assert_eq!(grace(&pod("n", "Running", None), None), 30);
        assert_eq!(grace(&pod("n", "Running", None), Some(-1)), 1);
        assert_eq!(grace(&pod("n", "Succeeded", Some(5)), Some(9)), 0);
        assert_eq!(grace(&pod("", "Pending", Some(5)), Some(9)), 0);
    }

    #[test]
    fn quality_follows_requests_and_limits() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"resources": resources}]}});
        assert_eq!(quality(&pod(json!({}))), "BestEffort");
        assert_eq!(quality(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(quality(&pod(json!({"limits": both}))), "Guaranteed");
        assert_eq!(quality(&pod(json!({"limits": both, "requests": {"cpu": "2"}}))), "Burstable");
    }

    #[test]
    fn a_token_is_mounted_once_and_only_where_nothing_is() {
        let mut spec = json!({"containers": [
            {"name": "a"},
            {"name": "b", "volumeMounts": [{"name": "own", "mountPath": TOKEN_DIR}]},
        ]});
        mount_token(&mut spec);
        mount_token(&mut spec);
        assert_eq!(spec["volumes"].as_array().unwrap().len(), 1);
        assert_eq!(spec["containers"][0]["volumeMounts"].as_array().unwrap().len(), 1);
        assert_eq!(spec["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
    }
}
