//! What a node tells of its containers: Kubernetes' `/stats/summary`, with what Berth's nodes add,
//! or its collector where there is one.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use berth_api::summary::{ContainerStats, PodRef, Summary};
use jiff::Timestamp;
use kube::Client;

use super::cadvisor;

const CALL: Duration = Duration::from_secs(20);

/// Namespace, pod, container.
pub type Key = (String, String, String);

/// Counters, and when they were read.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted<const N: usize> {
    /// The node's own time.
    pub at: Timestamp,
    /// Since the container runs.
    pub counts: [f64; N],
}

impl<const N: usize> Counted<N> {
    /// The counters in another unit.
    pub fn map(&self, of: impl FnOnce([f64; N]) -> [f64; N]) -> Self {
        Self { at: self.at, counts: of(self.counts) }
    }
}

/// One container at one moment. None is what its node does not tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Nanoseconds of a core.
    pub cpu_nanos: Option<Counted<1>>,
    /// Cores, over the kubelet's own last seconds.
    pub cpu_cores: Option<f64>,
    pub rss_bytes: Option<u64>,
    /// With all that the kernel keeps of files for it.
    pub all_bytes: Option<u64>,
    pub working_set_bytes: Option<u64>,
    /// Over 1, 5 and 15 minutes.
    pub load: Option<[f64; 3]>,
    /// Read and written.
    pub bytes: Option<Counted<2>>,
    /// Reads and writes.
    pub operations: Option<Counted<2>>,
}

/// What `node` tells now, through the API server.
///
/// # Errors
/// When it does not answer, or may not be asked.
pub async fn samples(client: &Client, node: &str) -> Result<BTreeMap<Key, Sample>> {
    let text = get(client, node, "stats/summary").await?;
    let mut samples = read(&text).context("reading the node's summary")?;
    // A kubelet has no I/O in its summary, but cAdvisor in itself.
    if samples.values().all(|sample| sample.bytes.is_none())
        && let Ok(text) = get(client, node, "metrics/cadvisor").await
    {
        cadvisor::add(&text, &mut samples);
    }
    Ok(samples)
}

async fn get(client: &Client, node: &str, path: &str) -> Result<String> {
    let path = format!("/api/v1/nodes/{node}/proxy/{path}");
    let request = http::Request::get(path).body(Vec::new())?;
    let answer = tokio::time::timeout(CALL, client.request_text(request)).await;
    Ok(answer.map_err(|_| anyhow!("no answer within {} s", CALL.as_secs()))??)
}

/// Takes load and I/O from what collectors tell.
pub fn complete(samples: &mut BTreeMap<Key, Sample>, summary: Summary) {
    for (key, told) in of(summary) {
        let known = samples.entry(key).or_default();
        known.load = told.load;
        // Kubelets count less often, and not everywhere.
        known.bytes = told.bytes.or(known.bytes.take());
    }
}

fn read(text: &str) -> serde_json::Result<BTreeMap<Key, Sample>> {
    Ok(of(serde_json::from_str(text)?).collect())
}

fn of(summary: Summary) -> impl Iterator<Item = (Key, Sample)> {
    summary.pods.into_iter().flat_map(|pod| {
        let PodRef { name, namespace, .. } = pod.pod_ref;
        let key = move |container: &str| (namespace.clone(), name.clone(), container.to_owned());
        pod.containers.into_iter().map(move |one| (key(&one.name), sample(one)))
    })
}

fn sample(container: ContainerStats) -> Sample {
    let ContainerStats { cpu, memory, io, load, .. } = container;
    let both = |counts: Option<(u64, u64)>| {
        let (one, other) = counts?;
        Some(Counted { at: io.time?, counts: [one as f64, other as f64] })
    };
    Sample {
        cpu_nanos: cpu
            .time
            .zip(cpu.usage_core_nano_seconds)
            .map(|(at, nanos)| Counted { at, counts: [nanos as f64] }),
        cpu_cores: cpu.usage_nano_cores.map(|nanos| nanos as f64 / 1e9),
        rss_bytes: memory.rss_bytes,
        all_bytes: memory.usage_bytes,
        working_set_bytes: memory.working_set_bytes,
        load: load.map(|load| load.averages),
        bytes: both(io.read_bytes.zip(io.written_bytes)),
        operations: both(io.reads.zip(io.writes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        ("shop".into(), "web".into(), "a".into())
    }

    #[test]
    fn a_node_of_berth_tells_load_and_io() {
        let text = r#"{"node":{"nodeName":"n"},"pods":[{"podRef":{"name":"web","namespace":"shop",
            "uid":"u"},"containers":[{"name":"a","startTime":"2026-11-21T19:00:00Z",
            "cpu":{"time":"2026-11-21T19:00:10.5Z","usageCoreNanoSeconds":2000000000},
            "memory":{"time":"2026-11-21T19:00:10Z","workingSetBytes":30,"usageBytes":50,
            "rssBytes":10},"rootfs":{"usedBytes":1},
            "load":{"time":"2026-11-21T19:00:10Z","averages":[1.5,0.4,0.1],"tasks":7,"active":1},
            "io":{"time":"2026-11-21T19:00:10Z","readBytes":1,"writtenBytes":2}}]}]}"#;
        let samples = read(text).unwrap();
        let sample = &samples[&key()];
        assert_eq!(sample.load, Some([1.5, 0.4, 0.1]));
        assert_eq!(sample.bytes.as_ref().unwrap().counts, [1.0, 2.0]);
        assert_eq!((sample.operations.clone(), sample.cpu_cores), (None, None));
        assert_eq!(sample.cpu_nanos.as_ref().unwrap().counts, [2e9]);
        assert_eq!((sample.rss_bytes, sample.all_bytes), (Some(10), Some(50)));
    }

    #[test]
    fn a_collector_tells_what_a_kubelet_does_not() {
        let kubelet = r#"{"pods":[{"podRef":{"name":"web","namespace":"shop","uid":"u"},
            "containers":[{"name":"a","memory":{"workingSetBytes":30}}]}]}"#;
        let mut samples = read(kubelet).unwrap();
        let collector = r#"{"pods":[{"podRef":{"name":"web","namespace":"shop","uid":"u"},
            "containers":[{"name":"a","startTime":"2026-11-21T19:00:00Z",
            "load":{"time":"2026-11-21T19:00:10Z","averages":[1.5,0.4,0.1],"tasks":7,"active":1},
            "io":{"time":"2026-11-21T19:00:10Z","readBytes":1,"writtenBytes":2}}]}],
            "silent":[{"node":"n","reason":"its collector is not ready"}]}"#;
        complete(&mut samples, serde_json::from_str(collector).unwrap());
        let sample = &samples[&key()];
        assert_eq!((sample.working_set_bytes, sample.load), (Some(30), Some([1.5, 0.4, 0.1])));
        assert_eq!(sample.bytes.as_ref().unwrap().counts, [1.0, 2.0]);
    }

    #[test]
    fn a_kubelet_tells_pressure_where_berth_tells_io() {
        let text = r#"{"pods":[{"podRef":{"name":"web","namespace":"shop","uid":"u"},
            "startTime":"2026-11-21T19:00:00Z","containers":[{"name":"a",
            "cpu":{"time":"2026-11-21T19:00:10Z","usageNanoCores":250000000,
            "usageCoreNanoSeconds":2000000000,"psi":{"full":{"total":0}}},
            "memory":{"workingSetBytes":30,"pageFaults":3},
            "io":{"time":"2026-11-21T19:00:10Z","psi":{"full":{"total":0}}},
            "logs":{"usedBytes":1}}],"process_stats":{"process_count":1}}]}"#;
        let samples = read(text).unwrap();
        let sample = &samples[&key()];
        assert_eq!((sample.cpu_cores, sample.working_set_bytes), (Some(0.25), Some(30)));
        assert_eq!((&sample.bytes, &sample.load, &sample.rss_bytes), (&None, &None, &None));
    }
}
