//! RuntimeClasses: the class a pod names must be there, and brings its overhead and its nodes.
//!
//! # Source
//! Kubernetes' `RuntimeClass` plugin; KEP-585, KEP-688.

use serde_json::{Value, json};

use super::Asked;
use crate::record;
use crate::status::Failure;

/// Completes a new pod by its class.
pub(super) async fn complete(asked: &Asked<'_>, new: &mut Value) -> Result<(), Failure> {
    if !asked.is_new("", "pods") {
        return Ok(());
    }
    let Some(name) = new["spec"]["runtimeClassName"].as_str() else {
        return match new["spec"]["overhead"].as_object() {
            Some(overhead) if !overhead.is_empty() => {
                Err(asked
                    .forbid("pod rejected: Pod Overhead set without corresponding RuntimeClass"))
            }
            _ => Ok(()),
        };
    };
    let classes = asked.core.resource("node.k8s.io", "v1", "runtimeclasses")?;
    let found = asked.core.store.get(&record::key(&classes, "", name)).await?.0;
    let Some(entry) = found else {
        return Err(asked.forbid(format!("pod rejected: RuntimeClass \"{name}\" not found")));
    };
    merge(&record::object(&classes, &entry), new).map_err(|why| asked.forbid(why))
}

fn merge(class: &Value, pod: &mut Value) -> Result<(), String> {
    let fixed = &class["overhead"]["podFixed"];
    let own = &pod["spec"]["overhead"];
    if own.as_object().is_some_and(|own| !own.is_empty()) && own != fixed {
        return Err(
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned()
        );
    }
    if fixed.is_object() {
        pod["spec"]["overhead"] = fixed.clone();
    }
    for (key, value) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
        if !pod["spec"]["nodeSelector"].is_object() {
            pod["spec"]["nodeSelector"] = json!({});
        }
        let own = &mut pod["spec"]["nodeSelector"][key.as_str()];
        if !own.is_null() && own != value {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; \
                 pod.spec.nodeSelector[{key}] = {own}"
            ));
        }
        *own = value.clone();
    }
    let more = class["scheduling"]["tolerations"].as_array().cloned().unwrap_or_default();
    if !more.is_empty() {
        let mut all = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        for one in more {
            if !all.contains(&one) {
                all.push(one);
            }
        }
        pod["spec"]["tolerations"] = json!(all);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_brings_overhead_and_nodes() {
        let class = json!({
            "overhead": {"podFixed": {"memory": "64Mi"}},
            "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm"}]},
        });
        let mut pod = json!({"spec": {}});
        merge(&class, &mut pod).unwrap();
        assert_eq!(
            pod["spec"],
            json!({"overhead": {"memory": "64Mi"}, "nodeSelector": {"vm": "yes"},
                "tolerations": [{"key": "vm"}]})
        );
        let mut other = json!({"spec": {"nodeSelector": {"vm": "no"}}});
        assert!(merge(&class, &mut other).unwrap_err().contains("conflict"));
    }
}
