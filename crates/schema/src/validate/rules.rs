//! Which type has which rule, and what the rules share.

use std::collections::HashSet;

use berth_api::Quantity;
use serde_json::{Map, Value, json};

use super::path::Path;
use super::{config, container, labels, network, pod, rest, volumes, workloads};
use crate::Cause;

pub type Fields = Map<String, Value>;
/// Checks one object of a type.
pub type Rule = fn(&Path<'_>, &Fields, &mut Vec<Cause>);

/// The rule of the type of this name.
pub fn of(name: &str) -> Option<Rule> {
    Some(match name {
        "meta.v1.ObjectMeta" => labels::metadata,
        "meta.v1.LabelSelector" => labels::selector,
        "core.v1.PodSpec" => pod::spec,
        "core.v1.Toleration" => pod::toleration,
        "core.v1.TopologySpreadConstraint" => pod::spread,
        "core.v1.NodeSelectorRequirement" => labels::node_requirement,
        "core.v1.PreferredSchedulingTerm" | "core.v1.WeightedPodAffinityTerm" => pod::weight,
        "core.v1.PodAffinityTerm" => pod::affinity_term,
        "core.v1.NodeSelector" => pod::node_selector,
        "core.v1.HostAlias" => pod::host_alias,
        "core.v1.PodSecurityContext" => pod::security,
        "core.v1.Container" | "core.v1.EphemeralContainer" => container::container,
        "core.v1.ContainerPort" => container::port,
        "core.v1.EnvVar" => container::variable,
        "core.v1.EnvFromSource" => container::variables_from,
        "core.v1.Probe" => container::probe,
        "core.v1.LifecycleHandler" => container::handler,
        "core.v1.HTTPGetAction" | "core.v1.TCPSocketAction" | "core.v1.GRPCAction" => {
            container::action
        }
        "core.v1.ExecAction" => container::exec,
        "core.v1.ResourceRequirements" => container::resources,
        "core.v1.SecurityContext" => container::security,
        "core.v1.VolumeMount" => volumes::mount,
        "core.v1.Volume" => volumes::volume,
        "core.v1.KeyToPath" | "core.v1.DownwardAPIVolumeFile" => volumes::projected_file,
        "core.v1.HostPathVolumeSource" => volumes::host_path,
        "core.v1.ProjectedVolumeSource" => volumes::projected,
        "core.v1.ObjectFieldSelector" => volumes::object_field,
        "core.v1.ServiceAccountTokenProjection" => volumes::token,
        "apps.v1.DeploymentSpec" => workloads::deployment,
        "apps.v1.ReplicaSetSpec" => workloads::replica_set,
        "apps.v1.DaemonSetSpec" => workloads::daemon_set,
        "apps.v1.StatefulSetSpec" => workloads::stateful_set,
        "core.v1.ReplicationControllerSpec" => workloads::replication_controller,
        "batch.v1.JobSpec" => workloads::job,
        "batch.v1.CronJobSpec" => workloads::cron_job,
        "autoscaling.v1.HorizontalPodAutoscalerSpec"
        | "autoscaling.v2.HorizontalPodAutoscalerSpec" => workloads::autoscaler,
        "policy.v1.PodDisruptionBudgetSpec" => workloads::budget,
        "core.v1.ServiceSpec" => network::service,
        "core.v1.ServicePort" => network::service_port,
        "networking.v1.IngressSpec" => network::ingress,
        "networking.v1.IngressRule" => network::ingress_rule,
        "networking.v1.HTTPIngressPath" => network::ingress_path,
        "networking.v1.IngressBackend" => network::ingress_backend,
        "networking.v1.IPBlock" => network::ip_block,
        "core.v1.Endpoints" => network::endpoints,
        "core.v1.EndpointPort" | "discovery.v1.EndpointPort" => network::endpoint_port,
        "discovery.v1.EndpointSlice" => network::slice,
        "core.v1.ConfigMap" => config::config_map,
        "core.v1.Secret" => config::secret,
        "rbac.v1.ClusterRole" => rest::cluster_role,
        "rbac.v1.Role" => rest::role,
        "rbac.v1.Subject" => rest::subject,
        "rbac.v1.RoleRef" => rest::role_ref,
        "core.v1.PersistentVolumeClaimSpec" => rest::claim,
        "core.v1.PersistentVolumeSpec" => rest::volume,
        "core.v1.ResourceQuotaSpec" => rest::quota,
        "core.v1.LimitRangeItem" => rest::limit_range_item,
        "core.v1.Taint" => rest::taint,
        "core.v1.Event" => rest::event,
        "coordination.v1.LeaseSpec" => rest::lease,
        "scheduling.v1.PriorityClass" => rest::priority_class,
        "networking.v1.IngressClassSpec" => rest::ingress_class,
        _ => return None,
    })
}

pub fn text<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.get(name).and_then(Value::as_str).unwrap_or_default()
}

pub fn list<'a>(fields: &'a Fields, name: &str) -> &'a [Value] {
    fields.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub fn object<'a>(fields: &'a Fields, name: &str) -> Option<&'a Fields> {
    fields.get(name).and_then(Value::as_object)
}

pub fn number(fields: &Fields, name: &str) -> Option<i64> {
    fields.get(name).and_then(Value::as_i64)
}

/// A number, when there is one, is not below zero.
pub fn not_negative(path: &Path<'_>, fields: &Fields, names: &[&str], causes: &mut Vec<Cause>) {
    at_least(path, fields, names, 0, causes);
}

/// A number, when there is one, is not below `least`.
pub fn at_least(
    path: &Path<'_>,
    fields: &Fields,
    names: &[&str],
    least: i64,
    causes: &mut Vec<Cause>,
) {
    for name in names {
        if let Some(found) = number(fields, name).filter(|found| *found < least) {
            let wrong = format!("must be greater than or equal to {least}");
            causes.push(Cause::invalid(path.field(name), &json!(found), &wrong));
        }
    }
}

/// A text, when there is one, passes a check of names.
pub fn named(
    path: &Path<'_>,
    fields: &Fields,
    name: &str,
    check: fn(&str) -> Result<(), String>,
    causes: &mut Vec<Cause>,
) {
    let found = text(fields, name);
    if let (false, Err(wrong)) = (found.is_empty(), check(found)) {
        causes.push(Cause::invalid(path.field(name), &json!(found), &wrong));
    }
}

/// No two items have the same value under `key`.
pub fn unique(path: &Path<'_>, items: &[Value], key: &str, causes: &mut Vec<Cause>) {
    let mut seen: HashSet<&str> = HashSet::new();
    for (at, item) in items.iter().enumerate() {
        let Some(name) = item[key].as_str().filter(|name| !name.is_empty()) else { continue };
        if seen.contains(&name) {
            causes.push(Cause::duplicate(path.index(at).field(key), &json!(name)));
        }
        seen.insert(name);
    }
}

/// The amounts of a map of quantities; each is one and not below zero.
pub fn amounts<'a>(
    path: &Path<'_>,
    fields: &'a Fields,
    name: &str,
    causes: &mut Vec<Cause>,
) -> Vec<(&'a str, Quantity)> {
    let mut found = Vec::new();
    for (key, value) in object(fields, name).into_iter().flatten() {
        match value.as_str().unwrap_or_default().parse::<Quantity>() {
            Ok(amount) if amount.is_negative() => {
                let wrong = "must be greater than or equal to 0";
                causes.push(Cause::invalid(path.field(name).key(key), value, wrong));
            }
            Ok(amount) => found.push((key.as_str(), amount)),
            Err(wrong) => {
                causes.push(Cause::invalid(path.field(name).key(key), value, &wrong.to_string()));
            }
        }
    }
    found
}

/// A number or the name of a port.
pub fn port(path: &Path<'_>, value: &Value, causes: &mut Vec<Cause>) {
    let checked = match value {
        Value::String(name) => berth_api::names::port_name(name),
        Value::Number(number) => berth_api::names::port_number(number.as_i64().unwrap_or(0)),
        _ => return,
    };
    if let Err(wrong) = checked {
        causes.push(Cause::invalid(path, value, &wrong));
    }
}

/// A whole number or a percentage, not below zero; the number, and whether it is a percentage.
pub fn number_or_percent(
    path: &Path<'_>,
    fields: &Fields,
    name: &str,
    causes: &mut Vec<Cause>,
) -> Option<(i64, bool)> {
    let value = fields.get(name)?;
    let read = match value {
        Value::String(text) => text
            .strip_suffix('%')
            .and_then(|text| text.parse::<u32>().ok())
            .map(|part| (i64::from(part), true)),
        other => other.as_i64().map(|number| (number, false)),
    };
    match read {
        Some((found, _)) if found < 0 => {
            let wrong = "must be greater than or equal to 0";
            causes.push(Cause::invalid(path.field(name), value, wrong));
        }
        Some(_) => {}
        None => {
            let wrong = "a valid percent string must be a numeric string followed by an ending '%' \
                         (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
            causes.push(Cause::invalid(path.field(name), value, wrong));
        }
    }
    read
}
