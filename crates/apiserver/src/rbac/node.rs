//! What a node agent may read: secrets, config maps, claims, volumes and account tokens of pods
//! that are bound to its node, and nothing of others.
//!
//! Judged on what the store holds at that moment, not on a graph kept beside it: an agent asks
//! some times per pod, and a pod that has just been bound must not be refused its secrets.
//!
//! # Source
//! Kubernetes' node authorizer; KEP-279.

use std::sync::Arc;

use serde_json::Value;

use crate::admission::node_restriction::node_of;
use crate::object;
use crate::path::Target;
use crate::server::Core;
use crate::status::Failure;
use crate::user::User;

/// Whether the user is no agent, or what it asks for belongs to its node. Roles are judged apart.
pub(crate) async fn allows(
    core: &Arc<Core>,
    user: &User,
    target: &Target,
) -> Result<bool, Failure> {
    match node_of(user) {
        None => Ok(true),
        // In a box: nearly no request is an agent's, and each would make room for one.
        Some(node) => Box::pin(belongs(core, node, target)).await,
    }
}

async fn belongs(core: &Arc<Core>, node: &str, target: &Target) -> Result<bool, Failure> {
    if !is_guarded(target) {
        return Ok(true);
    }
    // Without a name it would be everybody's.
    if target.name.is_empty() || (target.verb != "get" && target.resource != "serviceaccounts") {
        return Ok(target.resource == "persistentvolumeclaims" && target.subresource == "status");
    }
    let pods = core.resource("", "v1", "pods")?;
    let (namespace, name) = match target.resource.as_str() {
        "persistentvolumes" => {
            let volume = core.core_object("persistentvolumes", "", &target.name).await?;
            let Some(volume) = volume else { return Ok(true) };
            let claim = &volume["spec"]["claimRef"];
            let text = |field: &str| claim[field].as_str().unwrap_or_default().to_owned();
            (text("namespace"), text("name"))
        }
        _ => (target.namespace.clone(), target.name.clone()),
    };
    if namespace.is_empty() {
        return Ok(false);
    }
    let prefix = crate::record::prefix(&pods, &namespace);
    let index = crate::record::PODS_BY_NODE.name;
    let page = core.store.list_by(index, node.as_bytes(), prefix.as_bytes(), None, 0).await?;
    let kind = match target.resource.as_str() {
        "persistentvolumes" => "persistentvolumeclaims",
        other => other,
    };
    Ok(page.iter().flat_map(|page| &page.entries).any(|entry| {
        let pod = crate::record::object(&pods, entry);
        pod["spec"]["nodeName"].as_str() == Some(node) && refers(&pod, kind, &name)
    }))
}

/// Who is refused what, in Kubernetes' words.
pub(crate) fn refusal(user: &User, target: &Target) -> String {
    format!("{}: {}", super::refusal(user, target), unrelated(user))
}

/// Why an agent is refused what its role allows.
pub(crate) fn unrelated(user: &User) -> String {
    let node = node_of(user).unwrap_or_default();
    format!("no relationship found between node '{node}' and this object")
}

fn is_guarded(target: &Target) -> bool {
    let reads = matches!(target.verb.as_str(), "get" | "list" | "watch");
    target.is_resource
        && target.group.is_empty()
        && match target.resource.as_str() {
            "secrets" | "configmaps" | "persistentvolumeclaims" | "persistentvolumes" => reads,
            "serviceaccounts" => target.subresource == "token",
            _ => false,
        }
}

/// Whether the pod names that object anywhere.
fn refers(pod: &Value, kind: &str, name: &str) -> bool {
    let spec = &pod["spec"];
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    match kind {
        "serviceaccounts" => spec["serviceAccountName"] == name,
        "persistentvolumeclaims" => list(&spec["volumes"]).iter().any(|volume| {
            let own =
                format!("{}-{}", object::name(pod), volume["name"].as_str().unwrap_or_default());
            volume["persistentVolumeClaim"]["claimName"] == name
                || (volume["ephemeral"].is_object() && own == name)
        }),
        "secrets" => {
            list(&spec["imagePullSecrets"]).iter().any(|one| one["name"] == name)
                || names(spec, name, &["secretRef", "secretKeyRef", "nodePublishSecretRef"])
                || list(&spec["volumes"]).iter().any(|volume| {
                    volume["secret"]["secretName"] == name
                        || volume["azureFile"]["secretName"] == name
                        || projected(volume, "secret", name)
                })
        }
        "configmaps" => {
            names(spec, name, &["configMapRef", "configMapKeyRef"])
                || list(&spec["volumes"]).iter().any(|volume| {
                    volume["configMap"]["name"] == name || projected(volume, "configMap", name)
                })
        }
        _ => false,
    }
}

fn projected(volume: &Value, kind: &str, name: &str) -> bool {
    let sources = volume["projected"]["sources"].as_array().into_iter().flatten();
    sources.into_iter().any(|source| source[kind]["name"] == name)
}

/// Whether a field of one of these kinds, however deep, names it.
fn names(value: &Value, name: &str, fields: &[&str]) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| {
            (fields.contains(&key.as_str()) && value["name"] == name) || names(value, name, fields)
        }),
        Value::Array(list) => list.iter().any(|value| names(value, name, fields)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_refer_to_what_they_use() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "serviceAccountName": "sa",
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "s"}},
                {"name": "b", "configMap": {"name": "m"}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "d", "ephemeral": {}},
                {"name": "e", "projected": {"sources": [{"secret": {"name": "ps"}},
                    {"configMap": {"name": "pm"}}]}},
            ],
            "containers": [{
                "env": [{"valueFrom": {"secretKeyRef": {"name": "es", "key": "k"}}}],
                "envFrom": [{"configMapRef": {"name": "em"}}],
            }],
        }});
        for (kind, name) in [
            ("serviceaccounts", "sa"),
            ("secrets", "pull"),
            ("secrets", "s"),
            ("secrets", "ps"),
            ("secrets", "es"),
            ("configmaps", "m"),
            ("configmaps", "pm"),
            ("configmaps", "em"),
            ("persistentvolumeclaims", "claim"),
            ("persistentvolumeclaims", "p-d"),
        ] {
            assert!(refers(&pod, kind, name), "{kind} {name}");
            assert!(!refers(&pod, kind, "other"), "{kind}");
        }
        assert!(!refers(&pod, "secrets", "m"));
    }
}
