//! What a pod may learn about itself: `fieldRef` and `resourceFieldRef`, for variables and files.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::machine::Amounts;
use crate::quantity;

/// A reference that leads nowhere.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DownwardError {
    /// No such field, or not one that a pod may ask for.
    #[error("field {0:?} is not one that the downward API has")]
    Field(String),
    /// No such resource.
    #[error("resource {0:?} is not one that the downward API has")]
    Resource(String),
    /// The selector names a container that the pod does not have.
    #[error("the pod has no container {0:?}")]
    Container(String),
}

/// The text of `path` of `pod`, for instance `metadata.labels['app']`. A field without a value is
/// an empty text.
///
/// # Errors
/// `Field` for a path that the downward API does not have.
pub fn field(pod: &Pod, path: &str) -> Result<String, DownwardError> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(DownwardError::Field(path.to_owned())),
        };
        return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let joined = |ips: Vec<&str>| Some(ips.join(","));
    let text = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => Some(lines(meta.labels.as_ref())),
        "metadata.annotations" => Some(lines(meta.annotations.as_ref())),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "spec.hostNetwork" => Some(spec.and_then(|s| s.host_network).unwrap_or(false).to_string()),
        "status.hostIP" => status.and_then(|status| status.host_ip.clone()),
        "status.podIP" => status.and_then(|status| status.pod_ip.clone()),
        "status.hostIPs" => joined(
            status
                .and_then(|status| status.host_ips.as_ref())
                .into_iter()
                .flatten()
                .map(|ip| ip.ip.as_str())
                .collect(),
        ),
        "status.podIPs" => joined(
            status
                .and_then(|status| status.pod_ips.as_ref())
                .into_iter()
                .flatten()
                .map(|ip| ip.ip.as_str())
                .collect(),
        ),
        _ => return Err(DownwardError::Field(path.to_owned())),
    };
    Ok(text.unwrap_or_default())
}

/// One line a pair, `key="value"`, sorted; quotes, backslashes and line ends escaped.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The amount that `selector` names, in multiples of its divisor, rounded up.
///
/// `own` is the container that asks, for selectors that name none. A limit that is not set is
/// what the node has for pods.
///
/// # Errors
/// When the resource or the container does not exist.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    node: &Amounts,
) -> Result<String, DownwardError> {
    let container = match selector.container_name.as_deref().filter(|name| !name.is_empty()) {
        None => own.ok_or_else(|| DownwardError::Container(String::new()))?,
        Some(name) => pod
            .spec
            .iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
            .find(|container| container.name == name)
            .ok_or_else(|| DownwardError::Container(name.to_owned()))?,
    };
    let unknown = || DownwardError::Resource(selector.resource.clone());
    let (kind, name) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let resources = container.resources.as_ref();
    let limit = resources.and_then(|r| r.limits.as_ref()?.get(name));
    let set = match kind {
        "limits" => limit,
        "requests" => resources.and_then(|r| r.requests.as_ref()?.get(name)).or(limit),
        _ => return Err(unknown()),
    };
    let of_node = match name {
        "cpu" => node.cpu_milli,
        "memory" => node.memory_bytes,
        "ephemeral-storage" => node.disk_bytes,
        name if name.starts_with("hugepages-") => 0,
        _ => return Err(unknown()),
    };
    let measure = if name == "cpu" { quantity::milli } else { quantity::bytes };
    let one = Quantity("1".to_owned());
    let divisor = match selector.divisor.as_ref().map_or(0, measure) {
        0 => measure(&one),
        divisor => divisor,
    };
    let amount = match set {
        Some(quantity) => measure(quantity),
        None if kind == "limits" => of_node,
        None => 0,
    };
    Ok(amount.div_ceil(divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "u1",
                "labels": { "app": "web", "b/quoted": "a \"word\"" },
            },
            "spec": {
                "nodeName": "n1", "serviceAccountName": "default",
                "containers": [
                    { "name": "a", "resources": { "requests": { "cpu": "250m" }, "limits": { "cpu": "1500m", "memory": "64Mi" } } },
                    { "name": "b" },
                ],
            },
            "status": { "podIP": "10.42.0.5", "podIPs": [{ "ip": "10.42.0.5" }] },
        }))
        .expect("a pod")
    }

    #[test]
    fn fields_become_text() {
        let pod = pod();
        for (path, expected) in [
            ("metadata.name", "web"),
            ("metadata.labels['app']", "web"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations", ""),
            ("metadata.labels", "app=\"web\"\nb/quoted=\"a \\\"word\\\"\""),
            ("spec.nodeName", "n1"),
            ("status.podIP", "10.42.0.5"),
            ("status.podIPs", "10.42.0.5"),
            ("status.hostIP", ""),
        ] {
            assert_eq!(field(&pod, path).as_deref(), Ok(expected), "{path}");
        }
        assert!(field(&pod, "spec.containers").is_err());
    }

    #[test]
    fn amounts_are_divided_and_rounded_up() {
        let pod = pod();
        let node =
            Amounts { cpu_milli: 1900, memory_bytes: 1 << 30, disk_bytes: 1 << 40, pods: 110 };
        let check = |container: &str, name: &str, divisor: &str, expected: &str| {
            let selector = ResourceFieldSelector {
                container_name: Some(container.to_owned()),
                divisor: Some(Quantity(divisor.to_owned())),
                resource: name.to_owned(),
            };
            assert_eq!(
                resource(&pod, None, &selector, &node).as_deref(),
                Ok(expected),
                "{name} of {container} by {divisor}"
            );
        };
        check("a", "limits.cpu", "0", "2");
        check("a", "limits.cpu", "1m", "1500");
        check("a", "requests.cpu", "1m", "250");
        check("a", "limits.memory", "1Mi", "64");
        check("b", "limits.cpu", "1m", "1900");
        check("b", "limits.memory", "1", "1073741824");
        check("b", "requests.memory", "1", "0");
    }
}
