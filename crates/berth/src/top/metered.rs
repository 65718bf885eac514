//! What the metrics API tells (`metrics.k8s.io`): CPU and working set, also to who may ask no node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use berth_api::Quantity;
use futures::{StreamExt, stream};
use kube::Client;
use serde::Deserialize;

use super::kubelet::{Key, Sample};

const CALL: Duration = Duration::from_secs(20);
const AT_ONCE: usize = 16;

#[derive(Deserialize)]
struct List {
    items: Vec<Pod>,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    containers: Vec<Container>,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    namespace: String,
}

#[derive(Deserialize)]
struct Container {
    name: String,
    usage: BTreeMap<String, String>,
}

/// What the containers of `namespaces` use; nothing of those where nobody tells.
pub async fn samples(client: &Client, namespaces: &BTreeSet<String>) -> BTreeMap<Key, Sample> {
    let lists = stream::iter(namespaces).map(async |namespace| {
        let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods");
        let request = http::Request::get(path).body(Vec::new()).ok()?;
        tokio::time::timeout(CALL, client.request::<List>(request)).await.ok()?.ok()
    });
    let lists: Vec<List> =
        lists.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await;
    lists.into_iter().flat_map(read).collect()
}

fn read(list: List) -> impl Iterator<Item = (Key, Sample)> {
    list.items.into_iter().flat_map(|pod| {
        let Metadata { name, namespace } = pod.metadata;
        pod.containers.into_iter().map(move |container| {
            let amount = |of: &str| container.usage.get(of)?.parse::<Quantity>().ok();
            let sample = Sample {
                cpu_cores: amount("cpu").map(|cpu| cpu.nanos() as f64 / 1e9),
                working_set_bytes: amount("memory").and_then(|one| u64::try_from(one.whole()).ok()),
                ..Sample::default()
            };
            ((namespace.clone(), name.clone(), container.name), sample)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_metrics_servers_write_them() {
        let text = r#"{"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1","metadata":{},
            "items":[{"metadata":{"name":"web","namespace":"shop"},
            "timestamp":"2026-11-21T19:00:00Z","window":"15s","containers":[
            {"name":"a","usage":{"cpu":"1503127n","memory":"3520Ki"}},
            {"name":"b","usage":{}}]}]}"#;
        let list: List = serde_json::from_str(text).unwrap();
        let samples: BTreeMap<Key, Sample> = read(list).collect();
        let of = |name: &str| &samples[&("shop".to_owned(), "web".to_owned(), name.to_owned())];
        assert_eq!(of("a").cpu_cores, Some(0.001_503_127));
        assert_eq!(of("a").working_set_bytes, Some(3520 << 10));
        assert_eq!((of("b").cpu_cores, of("b").working_set_bytes), (None, None));
    }
}
