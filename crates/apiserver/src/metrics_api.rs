//! `metrics.k8s.io/v1beta1`: what nodes and pods use now, as `kubectl top` and autoscalers ask.
//!
//! ```text
//!  every 15 s: nodes ─▶ kubelet /stats/summary, all at once ─▶ two readings of each ─▶ rates
//! ```
//!
//! Nothing is stored: CPU is the rate between a node's last two readings, memory the last one. A
//! node that does not answer in time is left out until it does, and holds nobody up.
//!
//! # Source
//! Kubernetes' metrics-server.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use berth_api::Quantity;
use berth_schema::{Catalog, Resource};
use bytes::Bytes;
use futures::StreamExt;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::call::Call;
use crate::kubelet::Place;
use crate::media::Shape;
use crate::respond::{self, Body};
use crate::selector::Labels;
use crate::server::Core;
use crate::status::Failure;
use crate::{object, record};

mod usage;

use usage::{Reading, Usage};

/// The API group.
pub(crate) const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";
/// metrics-server's own.
const PERIOD: Duration = Duration::from_secs(15);
/// Sooner, while a node has been read only once: a rate takes two.
const FIRST_PERIOD: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(5);
/// Nodes asked at a time.
const AT_ONCE: usize = 32;
/// The summary of a node with thousands of containers.
const BODY_LIMIT: usize = 32 * 1024 * 1024;

/// What is known of every node, by name.
#[derive(Default)]
pub(crate) struct Readings(RwLock<BTreeMap<String, Reading>>);

impl Readings {
    fn all(&self) -> BTreeMap<String, Reading> {
        self.0.read().expect("nothing panics while holding it").clone()
    }
}

/// The built-in kinds and those of this group.
pub(crate) fn catalog() -> Catalog {
    let mut catalog = Catalog::builtin();
    for (kind, plural, scope) in
        [("NodeMetrics", "nodes", "Cluster"), ("PodMetrics", "pods", "Namespaced")]
    {
        let amounts = json!({ "type": "object", "additionalProperties": {
            "anyOf": [{ "type": "integer" }, { "type": "string" }],
            "x-kubernetes-int-or-string": true,
        } });
        let mut properties = json!({
            "timestamp": { "type": "string", "format": "date-time" },
            "window": { "type": "string" },
        });
        if kind == "NodeMetrics" {
            properties["usage"] = amounts;
        } else {
            properties["containers"] = json!({ "type": "array", "items": {
                "type": "object",
                "properties": { "name": { "type": "string" }, "usage": amounts },
            } });
        }
        let definition = json!({
            "metadata": { "name": format!("{plural}.{GROUP}") },
            "spec": {
                "group": GROUP,
                "scope": scope,
                "names": { "kind": kind, "plural": plural },
                "versions": [{
                    "name": VERSION, "served": true, "storage": true,
                    "schema": { "openAPIV3Schema": {
                        "type": "object", "properties": properties,
                    } },
                }],
            },
        });
        catalog.add_computed(&definition, &["get", "list"]).expect("our own definition is sound");
    }
    catalog
}

/// Asks all nodes, over and over, until the process stops.
pub(crate) async fn follow(core: Arc<Core>) {
    loop {
        let nodes = nodes(&core).await.unwrap_or_default();
        let asked = nodes.into_iter().map(|(name, place)| {
            let core = &core;
            async move {
                let answer = tokio::time::timeout(ANSWER, ask(core, &place)).await;
                (name, answer.ok().and_then(Result::ok))
            }
        });
        let answers: Vec<_> =
            futures::stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
        let mut before = core.usage.all();
        let mut now = BTreeMap::new();
        for (name, answer) in answers {
            let Some(answer) = answer else { continue };
            let reading = before.remove(&name).unwrap_or_default().next(&answer);
            now.insert(name, reading);
        }
        let is_first = now.values().any(|reading| reading.node.is_none());
        *core.usage.0.write().expect("nothing panics while holding it") = now;
        tokio::time::sleep(if is_first { FIRST_PERIOD } else { PERIOD }).await;
    }
}

async fn nodes(core: &Core) -> Result<Vec<(String, Place)>, Failure> {
    let prefix = Bytes::from(record::kind_prefix("", "nodes"));
    let page = core.store.list(&prefix, None, 0, None).await.map_err(Failure::internal)?;
    let place = |entry: &berth_store::Entry| {
        let node: Value = serde_json::from_slice(&entry.value).ok()?;
        let addresses = node["status"]["addresses"].as_array()?.iter();
        let address = addresses
            .filter(|one| one["type"] == "InternalIP")
            .find_map(|one| one["address"].as_str()?.parse().ok())?;
        let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64()?;
        let port = u16::try_from(port).ok()?;
        Some((object::name(&node).to_owned(), Place { address, port }))
    };
    Ok(page.entries.iter().filter_map(place).collect())
}

async fn ask(core: &Core, place: &Place) -> Result<Value, Failure> {
    let answer = core.kubelet.get(place, "/stats/summary", &core.tasks).await?;
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(Failure::internal)?;
        bytes.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
        if bytes.len() > BODY_LIMIT {
            return Err(Failure::internal("the node's summary is too long"));
        }
    }
    serde_json::from_slice(&bytes).map_err(Failure::internal)
}

/// Answers `get` and `list` of this group.
pub(crate) async fn answer(
    core: &Arc<Core>,
    call: &Call,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, Failure> {
    let target = &call.target;
    if !target.subresource.is_empty() {
        return Err(Failure::no_such_path());
    }
    let mut objects = match resource.plural.as_str() {
        "nodes" => node_metrics(core).await?,
        _ => pod_metrics(core, &target.namespace).await?,
    };
    match target.verb.as_str() {
        "get" => {
            let found = objects.into_iter().find(|one| object::name(one) == target.name);
            let found = found.ok_or_else(|| Failure::not_found(resource, &target.name))?;
            Ok(respond::value(StatusCode::OK, &shown(call, vec![found], true), &call.output))
        }
        "list" => {
            let labels = Labels::parse(call.query.get("labelSelector").unwrap_or_default())?;
            let name =
                call.query.get("fieldSelector").and_then(|f| f.strip_prefix("metadata.name="));
            objects.retain(|one| {
                let own = one["metadata"]["labels"].as_object().into_iter().flatten();
                let own: BTreeMap<String, String> = own
                    .map(|(key, value)| {
                        (key.clone(), value.as_str().unwrap_or_default().to_owned())
                    })
                    .collect();
                labels.matches(&own) && name.is_none_or(|name| object::name(one) == name)
            });
            let list = match shown(call, objects, false) {
                Value::Array(items) => json!({
                    "kind": format!("{}List", resource.kind),
                    "apiVersion": format!("{GROUP}/{VERSION}"),
                    "metadata": {},
                    "items": items,
                }),
                table => table,
            };
            Ok(respond::value(StatusCode::OK, &list, &call.output))
        }
        _ => Err(Failure::method_not_allowed()),
    }
}

/// The objects as they are, or the table that was asked for.
fn shown(call: &Call, mut objects: Vec<Value>, single: bool) -> Value {
    let Shape::Table(version) = &call.output.shape else {
        return match single {
            true => objects.pop().unwrap_or_default(),
            false => Value::Array(objects),
        };
    };
    let column = |name: &str, format: &str| json!({ "name": name, "type": "string", "format": format, "description": "", "priority": 0 });
    let rows: Vec<Value> = objects
        .iter()
        .map(|one| {
            let sum = |resource: &str| -> String {
                let own = one["usage"][resource].as_str();
                let all = one["containers"].as_array().into_iter().flatten();
                let all = all.filter_map(|one| one["usage"][resource].as_str()).chain(own);
                all.filter_map(|text| text.parse::<Quantity>().ok()).sum::<Quantity>().to_string()
            };
            json!({
                "cells": [one["metadata"]["name"], sum("cpu"), sum("memory"), one["window"]],
                "object": {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": one["metadata"],
                },
            })
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": {},
        "columnDefinitions": [
            column("Name", "name"), column("cpu", ""), column("memory", ""), column("Window", ""),
        ],
        "rows": rows,
    })
}

async fn node_metrics(core: &Core) -> Result<Vec<Value>, Failure> {
    let prefix = Bytes::from(record::kind_prefix("", "nodes"));
    let page = core.store.list(&prefix, None, 0, None).await.map_err(Failure::internal)?;
    let readings = core.usage.all();
    let shown = page.entries.iter().filter_map(|entry| {
        let node: Value = serde_json::from_slice(&entry.value).ok()?;
        let usage = readings.get(object::name(&node))?.node?;
        let mut shown = head("NodeMetrics", &node, &usage);
        shown["usage"] = amounts(&usage);
        Some(shown)
    });
    Ok(shown.collect())
}

async fn pod_metrics(core: &Core, namespace: &str) -> Result<Vec<Value>, Failure> {
    let pods = core.resource("", "v1", "pods")?;
    let prefix = Bytes::from(record::prefix(&pods, namespace));
    let page = core.store.list(&prefix, None, 0, None).await.map_err(Failure::internal)?;
    let readings = core.usage.all();
    let shown = page.entries.iter().filter_map(|entry| {
        let pod: Value = serde_json::from_slice(&entry.value).ok()?;
        let reading = readings.get(pod["spec"]["nodeName"].as_str()?)?;
        let containers = reading.pods.get(object::uid(&pod))?;
        // A pod's reading is as old as that of its oldest container.
        let oldest = containers.values().min_by_key(|usage| usage.at)?;
        let mut shown = head("PodMetrics", &pod, oldest);
        shown["containers"] = containers
            .iter()
            .map(|(name, usage)| json!({ "name": name, "usage": amounts(usage) }))
            .collect();
        Some(shown)
    });
    Ok(shown.collect())
}

fn head(kind: &str, of: &Value, usage: &Usage) -> Value {
    let mut meta = json!({ "name": object::name(of), "creationTimestamp": now() });
    if let Some(namespace) = of["metadata"].get("namespace") {
        meta["namespace"] = namespace.clone();
    }
    if let Some(labels) = of["metadata"].get("labels") {
        meta["labels"] = labels.clone();
    }
    json!({
        "kind": kind,
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": meta,
        "timestamp": seconds(usage.at),
        "window": usage.window_text(),
    })
}

fn amounts(usage: &Usage) -> Value {
    let cpu: Quantity = format!("{}n", usage.cpu_nanocores).parse().unwrap_or(Quantity::ZERO);
    let memory = match usage.memory_bytes % 1024 {
        0 => Quantity::from_bytes(usage.memory_bytes).to_string(),
        _ => format!("{}Ki", usage.memory_bytes / 1024),
    };
    json!({ "cpu": cpu.to_string(), "memory": memory })
}

fn now() -> String {
    seconds(Timestamp::now())
}

fn seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}
