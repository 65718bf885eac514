//! What Kubernetes always writes, said or not: the objects that Go holds by value, and numbers and
//! texts without `omitempty`.
//!
//! Nobody owns them, so they are filled in once the fields are tracked. Clients whose models say
//! "required" (Python's) read no object without them.

use std::sync::OnceLock;

use serde_json::Value;

use crate::Resource;

/// Group and kind, where (the parent must be there), field, value. Parents come first.
const ZEROS: &str = r#"
apps/Deployment - status {}
apps/ReplicaSet - status {"replicas":0}
apps/StatefulSet - status {}
apps/StatefulSet /status replicas 0
apps/StatefulSet /status availableReplicas 0
apps/DaemonSet - status {}
apps/DaemonSet /status currentNumberScheduled 0
apps/DaemonSet /status numberMisscheduled 0
apps/DaemonSet /status desiredNumberScheduled 0
apps/DaemonSet /status numberReady 0
batch/Job - status {}
batch/CronJob - status {}
batch/CronJob /spec/jobTemplate metadata {}
batch/CronJob /spec/jobTemplate/spec/template metadata {}
autoscaling/HorizontalPodAutoscaler - status {}
autoscaling/HorizontalPodAutoscaler /status desiredReplicas 0
policy/PodDisruptionBudget - status {}
policy/PodDisruptionBudget /status disruptionsAllowed 0
policy/PodDisruptionBudget /status currentHealthy 0
policy/PodDisruptionBudget /status desiredHealthy 0
policy/PodDisruptionBudget /status expectedPods 0
networking.k8s.io/Ingress - status {}
networking.k8s.io/Ingress /status loadBalancer {}
certificates.k8s.io/CertificateSigningRequest - status {}
flowcontrol.apiserver.k8s.io/FlowSchema - status {}
flowcontrol.apiserver.k8s.io/PriorityLevelConfiguration - status {}
storage.k8s.io/VolumeAttachment - status {"attached":false}
coordination.k8s.io/Lease - spec {}
core/ReplicationController - status {"replicas":0}
core/Service - status {}
core/Service /status loadBalancer {}
core/ResourceQuota - status {}
core/PersistentVolumeClaim - status {}
core/PersistentVolume - status {}
core/Node - status {}
core/Node /status daemonEndpoints {"kubeletEndpoint":{"Port":0}}
core/Node /status nodeInfo {}
core/Node /status/nodeInfo machineID ""
core/Node /status/nodeInfo systemUUID ""
core/Node /status/nodeInfo bootID ""
core/Node /status/nodeInfo kernelVersion ""
core/Node /status/nodeInfo osImage ""
core/Node /status/nodeInfo containerRuntimeVersion ""
core/Node /status/nodeInfo kubeletVersion ""
core/Node /status/nodeInfo kubeProxyVersion ""
core/Node /status/nodeInfo operatingSystem ""
core/Node /status/nodeInfo architecture ""
core/Event - source {}
core/Event - reportingComponent ""
core/Event - reportingInstance ""
events.k8s.io/Event - deprecatedSource {}
"#;

struct Zero {
    kind: &'static str,
    parent: &'static str,
    field: &'static str,
    value: Value,
}

fn zeros() -> &'static [Zero] {
    static READ: OnceLock<Vec<Zero>> = OnceLock::new();
    READ.get_or_init(|| ZEROS.lines().filter_map(read).collect())
}

fn read(line: &'static str) -> Option<Zero> {
    let mut words = line.splitn(4, ' ');
    let kind = words.next()?;
    let parent = words.next().map(|word| if word == "-" { "" } else { word })?;
    let field = words.next()?;
    Some(Zero { kind, parent, field, value: serde_json::from_str(words.next()?).ok()? })
}

/// Fills in what Kubernetes always writes of an object of this kind.
pub fn complete(resource: &Resource, object: &mut Value) {
    if resource.custom.is_some() {
        return;
    }
    let group = if resource.group.is_empty() { "core" } else { resource.group.as_str() };
    let of_kind = zeros().iter().filter(|zero| {
        zero.kind.split_once('/').is_some_and(|(one, kind)| one == group && kind == resource.kind)
    });
    for zero in of_kind {
        if let Some(Value::Object(parent)) = object.pointer_mut(zero.parent)
            && parent.get(zero.field).is_none_or(Value::is_null)
        {
            parent.insert(zero.field.to_owned(), zero.value.clone());
        }
    }
    // The oldest version counts what there is, which the newer one may leave out.
    if resource.kind == "HorizontalPodAutoscaler"
        && resource.version == "v1"
        && let Some(Value::Object(status)) = object.get_mut("status")
    {
        status.entry("currentReplicas").or_insert_with(|| Value::from(0));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Catalog;

    #[test]
    fn every_line_reads_and_names_a_kind_and_a_field() {
        let catalog = Catalog::builtin();
        for line in ZEROS.lines().filter(|line| !line.is_empty()) {
            let zero = read(line).expect(line);
            let (group, kind) = zero.kind.split_once('/').expect(line);
            let group = if group == "core" { "" } else { group };
            let of_kind = |one: &&std::sync::Arc<Resource>| one.group == group && one.kind == kind;
            let resource = catalog.resources().find(of_kind).expect(line);
            let steps = zero.parent.split('/').filter(|step| !step.is_empty());
            let parent = steps.fold(&resource.schema, |at, step| at.child(step).expect(line));
            assert!(parent.child(zero.field).is_some(), "{line}");
        }
    }

    #[test]
    fn what_is_there_stays_and_what_is_always_there_comes() {
        let catalog = Catalog::builtin();
        let resource = catalog.resource("apps", "v1", "statefulsets").unwrap();
        let mut object = json!({"status": {"replicas": 2}});
        complete(resource, &mut object);
        assert_eq!(object, json!({"status": {"replicas": 2, "availableReplicas": 0}}));
        let resource = catalog.resource("", "v1", "services").unwrap();
        let mut object = json!({});
        complete(resource, &mut object);
        assert_eq!(object, json!({"status": {"loadBalancer": {}}}));
    }
}
