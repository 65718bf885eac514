//! What became of GatewayClasses, Gateways and routes, written into their status.
//!
//! Of a route's parents only those entries are ours that carry our controller's name; the others
//! are kept. A write names the version it was made from, so that a controller that writes at the
//! same time loses nothing: the next snapshot brings both.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use berth_api::gateway::{
    CONTROLLER, Condition, GRPCRoute, Gateway, GatewayAddress, GatewayClass, GatewayStatus,
    HTTPRoute, ListenerStatus, ParentStatus, RouteStatus, TCPRoute, TLSRoute, UDPRoute,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::PATIENCE;
use crate::l7::lenient::Lenient;
use crate::l7::routes::{FoundCondition, GatewayReport, Reports, RouteReport};
use crate::l7::{Address, GatewayObjects};

/// A status to write.
#[derive(Debug, PartialEq)]
struct Write {
    types: &'static str,
    namespace: Option<String>,
    name: String,
    patch: Value,
}

/// Writes what differs; `false` when some could not be written.
pub(super) async fn write(
    client: &Client,
    objects: &GatewayObjects,
    reports: &Reports,
    addresses: &[Address],
    versions: &BTreeMap<String, String>,
) -> bool {
    let now = k8s_openapi::jiff::Timestamp::now();
    let now = k8s_openapi::jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
    let mut all_written = true;
    for write in outdated(objects, reports, addresses, &now) {
        all_written &= apply(client, write, versions).await;
    }
    all_written
}

async fn apply(client: &Client, write: Write, versions: &BTreeMap<String, String>) -> bool {
    let mut types = match write.types {
        "GatewayClass" => ApiResource::erase::<GatewayClass>(&()),
        "Gateway" => ApiResource::erase::<Gateway>(&()),
        "GRPCRoute" => ApiResource::erase::<GRPCRoute>(&()),
        "TCPRoute" => ApiResource::erase::<TCPRoute>(&()),
        "UDPRoute" => ApiResource::erase::<UDPRoute>(&()),
        "TLSRoute" => ApiResource::erase::<TLSRoute>(&()),
        _ => ApiResource::erase::<HTTPRoute>(&()),
    };
    if let Some(version) = versions.get(&types.plural) {
        types.api_version = format!("{}/{version}", types.group);
        types.version.clone_from(version);
    }
    let api: Api<kube::core::DynamicObject> = match &write.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &types),
        None => Api::all_with(client.clone(), &types),
    };
    let (params, patch) = (PatchParams::default(), Patch::Merge(&write.patch));
    match timeout(PATIENCE, api.patch_status(&write.name, &params, &patch)).await {
        Ok(Ok(_)) => true,
        // It is gone, or has changed, and the next snapshot will say so.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => true,
        Ok(Err(error)) => {
            tracing::debug!(kind = write.types, name = write.name, %error, "status not written");
            false
        }
        Err(_) => false,
    }
}

/// Every status that says something else than `reports`.
fn outdated(
    objects: &GatewayObjects,
    reports: &Reports,
    addresses: &[Address],
    now: &str,
) -> Vec<Write> {
    let mut writes = Vec::new();
    for (name, generation) in &reports.classes {
        let Some(class) = find(&objects.classes, None, name) else { continue };
        let before = class.status.clone().unwrap_or_default().conditions;
        let found = [FoundCondition::so("Accepted")];
        let conditions = conditions(&found, &before, *generation, now);
        if conditions != before {
            let patch = json!({"status": {"conditions": conditions}});
            writes.push(Write {
                types: "GatewayClass",
                namespace: None,
                name: name.clone(),
                patch,
            });
        }
    }
    for report in &reports.gateways {
        let Some(gateway) = find(&objects.gateways, Some(&report.namespace), &report.name) else {
            continue;
        };
        let before = gateway.status.clone().unwrap_or_default();
        let after = gateway_status(report, &before, addresses, now);
        if after != before {
            let patch = json!({"status": after});
            let namespace = Some(report.namespace.clone());
            writes.push(Write { types: "Gateway", namespace, name: report.name.clone(), patch });
        }
    }
    let of_routes: HashMap<_, &RouteReport> = reports
        .routes
        .iter()
        .map(|one| ((one.kind, one.namespace.as_str(), one.name.as_str()), one))
        .collect();
    let mut route = |kind: &'static str, metadata: &ObjectMeta, status: Option<&RouteStatus>| {
        let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
        let named = (kind, namespace.unwrap_or_default(), name.unwrap_or_default());
        let report = of_routes.get(&named).copied();
        let before = status.cloned().unwrap_or_default();
        let after = route_status(report, &before, now);
        if after != before {
            let patch = json!({
                "metadata": {"resourceVersion": metadata.resource_version},
                "status": after,
            });
            let name = metadata.name.clone().unwrap_or_default();
            writes.push(Write { types: kind, namespace: metadata.namespace.clone(), name, patch });
        }
    };
    for one in &objects.http {
        let status = one.object.as_ref().ok().and_then(|object| object.status.as_ref());
        route("HTTPRoute", &one.metadata, status);
    }
    for one in &objects.grpc {
        let status = one.object.as_ref().ok().and_then(|object| object.status.as_ref());
        route("GRPCRoute", &one.metadata, status);
    }
    for one in &objects.tcp {
        let status = one.object.as_ref().ok().and_then(|object| object.status.as_ref());
        route("TCPRoute", &one.metadata, status);
    }
    for one in &objects.udp {
        let status = one.object.as_ref().ok().and_then(|object| object.status.as_ref());
        route("UDPRoute", &one.metadata, status);
    }
    for one in &objects.tls {
        let status = one.object.as_ref().ok().and_then(|object| object.status.as_ref());
        route("TLSRoute", &one.metadata, status);
    }
    writes
}

fn find<'a, K: 'static>(
    all: &'a [Arc<Lenient<K>>],
    namespace: Option<&str>,
    name: &str,
) -> Option<&'a K> {
    let is_it = |one: &&Arc<Lenient<K>>| {
        one.metadata.namespace.as_deref() == namespace && one.name_any() == name
    };
    Some(all.iter().find(is_it)?.object.as_ref().ok()?)
}

/// Ours in the order that they are found in, others as they were.
fn conditions(
    found: &[FoundCondition],
    before: &[Condition],
    generation: Option<i64>,
    now: &str,
) -> Vec<Condition> {
    let ours = found.iter().map(|found| found.condition(before, generation, now));
    let is_other = |before: &&Condition| {
        found.iter().all(|found| found.kind != before.kind) && before.reason != "Pending"
    };
    ours.chain(before.iter().filter(is_other).cloned()).collect()
}

fn gateway_status(
    report: &GatewayReport,
    before: &GatewayStatus,
    addresses: &[Address],
    now: &str,
) -> GatewayStatus {
    let address = |address: &Address| match address {
        Address::Ip(ip) => {
            GatewayAddress { kind: Some("IPAddress".to_owned()), value: ip.to_string() }
        }
        Address::Hostname(name) => {
            GatewayAddress { kind: Some("Hostname".to_owned()), value: name.clone() }
        }
    };
    let listeners = report.listeners.iter().map(|listener| {
        let known = before.listeners.iter().find(|known| known.name == listener.name);
        let known = known.map_or(&[][..], |known| &known.conditions);
        ListenerStatus {
            name: listener.name.clone(),
            supported_kinds: listener.kinds.clone(),
            attached_routes: i32::try_from(listener.attached).unwrap_or(i32::MAX),
            conditions: conditions(&listener.conditions, known, report.generation, now),
        }
    });
    GatewayStatus {
        addresses: addresses.iter().map(address).collect(),
        conditions: conditions(&report.conditions, &before.conditions, report.generation, now),
        listeners: listeners.collect(),
    }
}

fn route_status(report: Option<&RouteReport>, before: &RouteStatus, now: &str) -> RouteStatus {
    let others = before.parents.iter().filter(|one| one.controller_name != CONTROLLER);
    let ours = report.iter().flat_map(|report| {
        report.parents.iter().map(|(parent, found)| {
            let known = before
                .parents
                .iter()
                .find(|one| one.controller_name == CONTROLLER && one.parent_ref == *parent);
            let known = known.map_or(&[][..], |known| &known.conditions);
            ParentStatus {
                parent_ref: parent.clone(),
                controller_name: CONTROLLER.to_owned(),
                conditions: conditions(found, known, report.generation, now),
            }
        })
    });
    RouteStatus { parents: others.cloned().chain(ours).collect() }
}
