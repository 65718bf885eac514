//! What nodes and pods are measured to use, with the time.

use std::collections::{BTreeMap, HashMap};

use berth_api::Quantity;
use berth_scheduler::amount::{Bytes, Millicores};
use berth_scheduler::reclaim::Amount;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use crate::driver::Key;

/// What was measured longer ago says nothing about now, seconds.
const STALE: i64 = 120;

/// Nothing where nobody measures.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// By node, with when it was measured.
    pub nodes: BTreeMap<String, (i64, Amount)>,
    pub pods: HashMap<Key, Amount>,
}

pub(super) async fn read(client: &Client) -> kube::Result<Measured> {
    let mut measured = Measured::default();
    let now = Timestamp::now().as_second();
    for node in list(client, "NodeMetrics", "nodes").await? {
        let at = node.data["timestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        let at = at.map_or(now, Timestamp::as_second);
        if let Some(used) = amount(&node.data["usage"])
            && now - at <= STALE
        {
            measured.nodes.insert(node.name_any(), (at, used));
        }
    }
    for pod in list(client, "PodMetrics", "pods").await? {
        let mut sum = Amount::default();
        for container in pod.data["containers"].as_array().into_iter().flatten() {
            let used = amount(&container["usage"]).unwrap_or_default();
            sum.cpu.0 += used.cpu.0;
            sum.memory.0 += used.memory.0;
        }
        measured.pods.insert(Key::of(&pod.metadata), sum);
    }
    Ok(measured)
}

async fn list(client: &Client, kind: &str, plural: &str) -> kube::Result<Vec<DynamicObject>> {
    let kind = GroupVersionKind::gvk("metrics.k8s.io", "v1beta1", kind);
    let resource = ApiResource::from_gvk_with_plural(&kind, plural);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    match api.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 503) => Ok(Vec::new()),
        answer => Ok(answer?.items),
    }
}

fn amount(usage: &Value) -> Option<Amount> {
    let read = |what: &str| usage[what].as_str()?.parse::<Quantity>().ok();
    let (cpu, memory) = (read("cpu")?.millis(), read("memory")?.whole());
    Some(Amount { cpu: Millicores(cpu), memory: Bytes(memory) })
}
