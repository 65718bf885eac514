//! Node agents: what each may write is what belongs to its own node.
//!
//! A user of `system:nodes` named `system:node:NAME` is one. Reading is `rbac::node`'s to judge.
//!
//! # Source
//! Kubernetes' `NodeRestriction` plugin; KEP-279.

use serde_json::Value;

use super::{Asked, Operation};
use crate::object;
use crate::status::Failure;
use crate::user::User;

/// Labels of these domains are for administrators, but for the few that agents report.
const REPORTED: [&str; 12] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "node.kubernetes.io/windows-build",
];

/// The group of the agent that lives in the control plane's own process. All pods are on its node,
/// so there is nothing to keep from it; it follows secrets and config maps as wholes, and says of
/// its node that the control plane is there.
pub(super) const EMBEDDED: &str = "system:berth:embedded-agent";

/// The node of an agent, when the agent is bounded to it.
pub(crate) fn node_of(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix("system:node:")?;
    let is_bounded = !user.is_master() && !user.is_in(EMBEDDED);
    (user.is_in("system:nodes") && is_bounded).then_some(name)
}

/// Refuses what an agent may not write.
pub(super) async fn check(asked: &Asked<'_>, new: Option<&Value>) -> Result<(), Failure> {
    let Some(node) = node_of(&asked.call.user) else { return Ok(()) };
    let parents = if asked.kind() == ("", "pods") && asked.is_new("", "pods") {
        new.map(|pod| mirror(node, pod))
    } else {
        None
    };
    parents.unwrap_or_else(|| judge(asked, node, new)).map_err(|why| asked.forbid(why))
}

fn judge(asked: &Asked<'_>, node: &str, new: Option<&Value>) -> Result<(), String> {
    let own = |what: &str| {
        if asked.name == node {
            return Ok(());
        }
        Err(format!("node \"{node}\" is not allowed to modify {what} \"{}\"", asked.name))
    };
    match (asked.kind(), asked.subresource) {
        (("", "nodes"), sub) => {
            own("node")?;
            if asked.operation == Operation::Delete {
                return Err(format!("node \"{node}\" is not allowed to delete node \"{node}\""));
            }
            new.map_or(Ok(()), |new| labels_and_taints(node, asked.old, new, sub))
        }
        (("coordination.k8s.io", "leases"), _) => {
            if asked.namespace != "kube-node-lease" {
                return Err(
                    "can only access leases in the \"kube-node-lease\" system namespace".to_owned()
                );
            }
            match asked.name == node {
                true => Ok(()),
                false => {
                    Err("can only access node lease with the same name as the requesting node"
                        .to_owned())
                }
            }
        }
        (("storage.k8s.io", "csinodes"), _) => match asked.name == node {
            true => Ok(()),
            false => {
                Err("can only access CSINode with the same name as the requesting node".to_owned())
            }
        },
        (("", "pods"), None) if asked.operation == Operation::Delete => ours(node, asked.old),
        (("", "pods"), Some("status")) => {
            ours(node, asked.old)?;
            let labels = |pod: &Value| pod["metadata"]["labels"].clone();
            match (asked.old, new) {
                (Some(old), Some(new)) if labels(old) != labels(new) => {
                    Err(format!("node \"{node}\" cannot update labels through pod status"))
                }
                _ => Ok(()),
            }
        }
        (("", "pods"), Some("eviction")) => ours(node, asked.old),
        (("", "pods"), sub) => Err(format!("unexpected pod write to {:?} by a node", sub)),
        (("", "persistentvolumeclaims"), Some("status")) => Ok(()),
        (("", "persistentvolumeclaims"), _) => Err("may only update PVC status".to_owned()),
        (("resource.k8s.io", "resourceslices"), _) => {
            let of = |slice: &Value| slice["spec"]["nodeName"].as_str() == Some(node);
            match new.into_iter().chain(asked.old).all(of) {
                true => Ok(()),
                false => Err("can only write ResourceSlices of the requesting node".to_owned()),
            }
        }
        _ => Ok(()),
    }
}

fn ours(node: &str, pod: Option<&Value>) -> Result<(), String> {
    let on = pod.and_then(|pod| pod["spec"]["nodeName"].as_str()).unwrap_or_default();
    if on == node {
        return Ok(());
    }
    Err(format!("node \"{node}\" can only write pods with spec.nodeName set to itself"))
}

/// An agent creates pods only as mirrors of files on its node, which use nothing of the API.
fn mirror(node: &str, pod: &Value) -> Result<(), String> {
    if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() {
        return Err(format!(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \
             \"{node}\" can only create mirror pods"
        ));
    }
    if pod["spec"]["nodeName"].as_str() != Some(node) {
        return Err(format!(
            "node \"{node}\" can only create pods with spec.nodeName set to itself"
        ));
    }
    let owners = pod["metadata"]["ownerReferences"].as_array().map_or(&[][..], Vec::as_slice);
    let by_node = owners.iter().all(|one| one["kind"] == "Node" && one["name"] == node);
    if owners.len() > 1 || !by_node {
        return Err(format!("node \"{node}\" can only create pods with itself as owner"));
    }
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        for kind in ["secret", "configMap", "persistentVolumeClaim", "projected"] {
            if !volume[kind].is_null() {
                return Err(format!(
                    "node \"{node}\" can not create pods that reference {kind} volumes"
                ));
            }
        }
    }
    Ok(())
}

fn restricted(label: &str) -> bool {
    if REPORTED.contains(&label) {
        return false;
    }
    let Some((domain, _)) = label.split_once('/') else { return false };
    let is = |of: &str| domain == of || domain.ends_with(&format!(".{of}"));
    if is("kubelet.kubernetes.io") {
        return false;
    }
    if is("node-restriction.kubernetes.io") {
        return true;
    }
    !is("node.kubernetes.io") && (is("kubernetes.io") || is("k8s.io"))
}

fn labels_and_taints(
    node: &str,
    old: Option<&Value>,
    new: &Value,
    subresource: Option<&str>,
) -> Result<(), String> {
    let (was, is) = (old.map(object::labels).unwrap_or_default(), object::labels(new));
    let changed = was.keys().chain(is.keys()).filter(|key| was.get(*key) != is.get(*key));
    let mut bad: Vec<&str> = changed.map(String::as_str).filter(|key| restricted(key)).collect();
    bad.sort_unstable();
    bad.dedup();
    if !bad.is_empty() {
        let verb = if old.is_some() { "modify" } else { "set" };
        return Err(format!("is not allowed to {verb} labels: {}", bad.join(", ")));
    }
    let Some(old) = old else { return Ok(()) };
    if subresource.is_none() && old["spec"]["taints"] != new["spec"]["taints"] {
        return Err(format!("node \"{node}\" is not allowed to modify taints"));
    }
    if old["metadata"]["ownerReferences"] != new["metadata"]["ownerReferences"] {
        return Err(format!("node \"{node}\" is not allowed to modify ownerReferences"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn agents_report_some_labels_and_leave_others_alone() {
        for label in ["kubernetes.io/arch", "example.com/x", "plain", "kubelet.kubernetes.io/x"] {
            assert!(!restricted(label), "{label}");
        }
        let mine = ["node-restriction.kubernetes.io/x", "a.node-restriction.kubernetes.io/x"];
        for label in mine.into_iter().chain(["node-role.kubernetes.io/master", "k8s.io/x"]) {
            assert!(restricted(label), "{label}");
        }
    }

    #[test]
    fn taints_and_restricted_labels_stay() {
        let node = |label: &str, taints: Value| json!({"metadata": {"labels": {label: "x"}}, "spec": {"taints": taints}});
        let old = node("a", json!([]));
        assert!(labels_and_taints("n", Some(&old), &node("b", json!([])), None).is_ok());
        let taint = node("a", json!([{"key": "k"}]));
        assert!(labels_and_taints("n", Some(&old), &taint, None).is_err());
        let label = node("node-restriction.kubernetes.io/a", json!([]));
        assert!(labels_and_taints("n", Some(&old), &label, None).is_err());
        assert!(labels_and_taints("n", None, &taint, None).is_ok(), "at registration");
    }

    #[test]
    fn agents_create_only_mirror_pods() {
        assert!(mirror("n", &json!({"spec": {"nodeName": "n"}})).is_err());
        let annotated = json!({"annotations": {"kubernetes.io/config.mirror": "x"}});
        assert!(mirror("n", &json!({"metadata": annotated, "spec": {"nodeName": "n"}})).is_ok());
        assert!(mirror("n", &json!({"metadata": annotated, "spec": {"nodeName": "m"}})).is_err());
    }
}
