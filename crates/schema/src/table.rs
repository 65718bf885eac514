//! Tables: what `kubectl get` prints.
//!
//! The columns are those of a real server (facts) or of a custom resource's definition; each cell
//! is found by its type and heading, so that a kind without rules of its own still shows its name
//! and age.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::catalog::{Column, plain_column};
use crate::{Resource, schema::ObjectType};

mod access;
mod age;
mod network;
mod path;
mod plain;
mod pod;
mod storage;
mod workloads;

/// How much of each object a row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

/// A `meta.k8s.io` Table of `objects`; `version` is `v1` or `v1beta1`.
#[must_use]
pub fn render(
    resource: &Resource,
    objects: &[Value],
    include: IncludeObject,
    version: &str,
    now: Timestamp,
    list_meta: Value,
    omit_headers: bool,
) -> Value {
    let fallback = [plain_column("Name", "string", "name"), plain_column("Age", "string", "")];
    let columns: &[Column] =
        if resource.columns.is_empty() { &fallback } else { &resource.columns };
    let kind = resource.schema.object().map_or("", |object: &ObjectType| object.name.as_str());
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells: Vec<Value> =
                columns.iter().map(|column| cell(kind, column, object, now)).collect();
            let mut row = Map::new();
            row.insert("cells".to_owned(), Value::Array(cells));
            if kind == "core.v1.Pod"
                && let Some(condition) = pod::row_condition(object)
            {
                row.insert("conditions".to_owned(), json!([condition]));
            }
            if let Some(object) = included(object, include, version) {
                row.insert("object".to_owned(), object);
            }
            Value::Object(row)
        })
        .collect();
    let headers: Vec<Value> =
        if omit_headers { Vec::new() } else { columns.iter().map(header).collect() };
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": list_meta,
        "columnDefinitions": headers,
        "rows": rows,
    })
}

fn header(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.kind,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

fn included(object: &Value, include: IncludeObject, version: &str) -> Option<Value> {
    match include {
        IncludeObject::None => None,
        IncludeObject::Object => Some(object.clone()),
        IncludeObject::Metadata => Some(json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": object["metadata"],
        })),
    }
}

fn cell(kind: &str, column: &Column, object: &Value, now: Timestamp) -> Value {
    if let Some(path) = &column.path {
        return path::cell(object, path, &column.kind, now);
    }
    let metadata = &object["metadata"];
    match column.name.as_str() {
        "Name" => return metadata["name"].clone(),
        "Age" => return json!(age::since(&metadata["creationTimestamp"], now)),
        "Created At" => return metadata["creationTimestamp"].clone(),
        _ => {}
    }
    let heading = column.name.as_str();
    let found = match kind {
        "core.v1.Pod" => pod::cell(heading, object, now),
        "apps.v1.Deployment"
        | "apps.v1.ReplicaSet"
        | "apps.v1.StatefulSet"
        | "apps.v1.DaemonSet"
        | "core.v1.ReplicationController"
        | "core.v1.PodTemplate" => workloads::cell(heading, object),
        "batch.v1.Job" => workloads::job_cell(heading, object, now),
        "batch.v1.CronJob" => workloads::cron_cell(heading, object, now),
        "autoscaling.v1.HorizontalPodAutoscaler" | "autoscaling.v2.HorizontalPodAutoscaler" => {
            workloads::autoscaler_cell(heading, object)
        }
        "core.v1.Service" => network::service_cell(heading, object),
        "core.v1.Endpoints" => network::endpoints_cell(heading, object),
        "discovery.v1.EndpointSlice" => network::slice_cell(heading, object),
        "networking.v1.Ingress" => network::ingress_cell(heading, object),
        "networking.v1.IngressClass"
        | "networking.v1.NetworkPolicy"
        | "networking.v1.ServiceCIDR"
        | "networking.v1.IPAddress" => network::other_cell(heading, object),
        "core.v1.Node" => access::node_cell(heading, object),
        "core.v1.Event" => access::event_cell(heading, object, now),
        "events.v1.Event" => {
            let mut core = object.clone();
            crate::convert::event_to_core(&mut core);
            access::event_cell(heading, &core, now)
        }
        "rbac.v1.RoleBinding" | "rbac.v1.ClusterRoleBinding" => {
            access::binding_cell(heading, object)
        }
        "core.v1.ResourceQuota" => access::quota_cell(heading, object),
        "certificates.v1.CertificateSigningRequest" => access::request_cell(heading, object),
        "core.v1.PersistentVolume" | "core.v1.PersistentVolumeClaim" => {
            storage::volume_cell(heading, object)
        }
        _ => None,
    };
    found.unwrap_or_else(|| plain::cell(kind, heading, object))
}

/// The text at a JSON pointer, or what stands for nothing.
fn text_or<'a>(object: &'a Value, pointer: &str, nothing: &'a str) -> &'a str {
    let found = object.pointer(pointer).and_then(Value::as_str);
    found.filter(|text| !text.is_empty()).unwrap_or(nothing)
}

/// The number at a JSON pointer, or zero.
fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// The list at a JSON pointer, or nothing.
fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The named texts of a list's items, joined by commas.
fn joined(list: &[Value], key: &str) -> String {
    list.iter().filter_map(|one| one[key].as_str()).collect::<Vec<_>>().join(",")
}

/// `a=b,c=d`, or `<none>`.
fn pairs(map: &Value) -> String {
    let pairs = map.as_object().into_iter().flatten();
    let words: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    if words.is_empty() { "<none>".to_owned() } else { words.join(",") }
}

/// A label selector in text form, or `<none>`.
fn selector(selector: &Value) -> String {
    let read = berth_api::Selector::from_json(selector).map(|read| read.to_string());
    read.ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "<none>".to_owned())
}

#[cfg(test)]
mod tests;
