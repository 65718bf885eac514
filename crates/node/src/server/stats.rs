//! `/metrics/resource` and `/stats/summary`: what containers use, as the runtime and [`Meters`]
//! count it.
//!
//! The summary is Kubernetes' own, with more in it for a container, which its clients skip:
//!
//! | field | |
//! | --- | --- |
//! | `load` | `averages` over 1, 5 and 15 minutes, `tasks` and the `active` ones among them |
//! | `io` | `readBytes`, `writtenBytes`, and `reads`, `writes` where the kernel counts them |
//!
//! [`Meters`]: crate::meters::Meters

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Node, Refusal};
use crate::cri::v1::ContainerStats;
use crate::machine;
use crate::meters::Reading;
use crate::pod::labels;

/// What the kernel counts in for programs, on every platform of Linux (`USER_HZ`).
const TICKS_A_SECOND: u64 = 100;

/// What one container uses.
#[derive(Clone, Debug, Default, PartialEq)]
struct Usage {
    namespace: String,
    pod: String,
    uid: String,
    container: String,
    /// When the runtime counted.
    at: Timestamp,
    cpu_nanos: u64,
    memory_bytes: u64,
    /// Without what the kernel keeps of files.
    rss_bytes: u64,
    /// With all of it.
    all_bytes: u64,
    written_bytes: u64,
    reading: Reading,
}

impl Usage {
    fn of(stats: &ContainerStats, readings: &HashMap<String, Reading>) -> Option<Self> {
        let attributes = stats.attributes.as_ref()?;
        let labels = &attributes.labels;
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        let cpu = stats.cpu.as_ref();
        let memory = stats.memory.as_ref();
        let layer = stats.writable_layer.as_ref();
        Some(Self {
            namespace: label(labels::POD_NAMESPACE),
            pod: label(labels::POD_NAME),
            uid: label(labels::POD_UID),
            container: label(labels::CONTAINER_NAME),
            at: cpu
                .and_then(|cpu| Timestamp::from_nanosecond(cpu.timestamp.into()).ok())
                .unwrap_or_else(Timestamp::now),
            cpu_nanos: cpu.and_then(|c| c.usage_core_nano_seconds.as_ref()).map_or(0, |v| v.value),
            memory_bytes: memory.and_then(|m| m.working_set_bytes.as_ref()).map_or(0, |v| v.value),
            rss_bytes: memory.and_then(|m| m.rss_bytes.as_ref()).map_or(0, |v| v.value),
            all_bytes: memory.and_then(|m| m.usage_bytes.as_ref()).map_or(0, |v| v.value),
            written_bytes: layer.and_then(|l| l.used_bytes.as_ref()).map_or(0, |v| v.value),
            reading: readings.get(&attributes.id).cloned().unwrap_or_default(),
        })
    }
}

async fn usages(node: &Node) -> Result<Vec<Usage>, Refusal> {
    let ours = [(labels::INSTANCE, node.config.instance.as_str())];
    let stats = node
        .cri
        .list_container_stats(&ours)
        .await
        .map_err(|error| Refusal(StatusCode::SERVICE_UNAVAILABLE, error.reason()))?;
    let meters = node.meters.clone();
    let readings = tokio::task::spawn_blocking(move || meters.readings())
        .await
        .map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(stats.iter().filter_map(|one| Usage::of(one, &readings)).collect())
}

pub(super) async fn metrics(State(node): State<Node>) -> Result<Response, Refusal> {
    let text = render(&usages(&node).await?);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

/// Prometheus' text format, the names that metrics-server reads.
fn render(usages: &[Usage]) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, value: &dyn Fn(&Usage) -> String| {
        let _ = writeln!(text, "# TYPE {name} {kind}");
        for usage in usages {
            let Usage { container, namespace, pod, .. } = usage;
            let _ = writeln!(
                text,
                "{name}{{container={container:?},namespace={namespace:?},pod={pod:?}}} {}",
                value(usage)
            );
        }
    };
    family("container_cpu_usage_seconds_total", "counter", &|usage| {
        let (seconds, nanos) = (usage.cpu_nanos / 1_000_000_000, usage.cpu_nanos % 1_000_000_000);
        format!("{seconds}.{nanos:09}")
    });
    family("container_memory_working_set_bytes", "gauge", &|usage| usage.memory_bytes.to_string());
    text
}

pub(super) async fn summary(State(node): State<Node>) -> Result<Response, Refusal> {
    let usages = usages(&node).await?;
    let capacity = machine::capacity(&node.config);
    let available = machine::memory_available();
    let now = Timestamp::now().to_string();
    let document = json!({
        "node": {
            "nodeName": node.config.name,
            "cpu": { "time": now, "usageCoreNanoSeconds": machine_cpu_nanos().await },
            "memory": {
                "time": now,
                "availableBytes": available,
                "workingSetBytes": capacity.memory_bytes.saturating_sub(available),
            },
        },
        "pods": pods(&usages, &now),
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], document.to_string()).into_response())
}

/// All that the machine's processors did since it started, in nanoseconds of one of them.
async fn machine_cpu_nanos() -> u64 {
    let stat = tokio::fs::read_to_string("/proc/stat").await.unwrap_or_default();
    busy_ticks(&stat).saturating_mul(1_000_000_000 / TICKS_A_SECOND)
}

/// The first line is the sum: user nice system idle iowait irq softirq steal; the rest is in user.
fn busy_ticks(stat: &str) -> u64 {
    let words = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = words.filter_map(|word| word.parse().ok()).take(8).collect();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    ticks.iter().sum::<u64>().saturating_sub(idle)
}

fn pods(usages: &[Usage], now: &str) -> Vec<Value> {
    let mut by_pod: BTreeMap<&str, Vec<&Usage>> = BTreeMap::new();
    for usage in usages {
        by_pod.entry(&usage.uid).or_default().push(usage);
    }
    let pod = |usages: Vec<&Usage>| {
        let sum = |of: &dyn Fn(&Usage) -> u64| usages.iter().map(|usage| of(usage)).sum::<u64>();
        let containers: Vec<Value> = usages
            .iter()
            .map(|usage| {
                let at = usage.at.to_string();
                let mut container = json!({
                    "name": usage.container,
                    "cpu": { "time": at, "usageCoreNanoSeconds": usage.cpu_nanos },
                    "memory": {
                        "time": now,
                        "workingSetBytes": usage.memory_bytes,
                        "usageBytes": usage.all_bytes,
                        "rssBytes": usage.rss_bytes,
                    },
                    "rootfs": { "time": now, "usedBytes": usage.written_bytes },
                });
                usage.reading.tell(&mut container, now);
                container
            })
            .collect();
        let first = usages.first().copied().cloned().unwrap_or_default();
        json!({
            "podRef": { "name": first.pod, "namespace": first.namespace, "uid": first.uid },
            "containers": containers,
            "cpu": { "time": now, "usageCoreNanoSeconds": sum(&|usage| usage.cpu_nanos) },
            "memory": { "time": now, "workingSetBytes": sum(&|usage| usage.memory_bytes) },
        })
    };
    by_pod.into_values().map(pod).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_busy_when_it_is_not_idle() {
        let stat = "cpu  100 20 30 4000 500 6 7 8 90 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n";
        assert_eq!(busy_ticks(stat), 171);
        assert_eq!(busy_ticks(""), 0);
    }

    #[test]
    fn usage_is_written_as_prometheus_reads_it() {
        let usage = Usage {
            namespace: "shop".to_owned(),
            pod: "web".to_owned(),
            container: "a".to_owned(),
            cpu_nanos: 1_500_000_000,
            memory_bytes: 4096,
            ..Usage::default()
        };
        let text = render(&[usage]);
        let labels = "{container=\"a\",namespace=\"shop\",pod=\"web\"}";
        let cpu = format!("container_cpu_usage_seconds_total{labels} 1.500000000\n");
        assert!(text.contains(&cpu), "{text}");
        assert!(text.contains(&format!("container_memory_working_set_bytes{labels} 4096\n")));
    }
}
