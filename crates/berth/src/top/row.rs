//! A container's line: what it does, beside what its pod says it may.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use berth_api::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use kube::ResourceExt;
use serde::Serialize;

use super::kubelet::{Key, Sample};
use super::rate::Rates;
use crate::output::{age, columns};
use crate::pods;

/// How much of what the kernel keeps of files a container would miss, as Mogujie counts it.
const OF_CACHE: f64 = 0.4;

/// One container that runs. None is what nobody tells, or not yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    namespace: String,
    pod: String,
    container: String,
    node: String,
    /// Cores.
    cpu: Option<f64>,
    cpu_limit: Option<f64>,
    rss_bytes: Option<u64>,
    /// RSS and two fifths of the cache.
    weighed_bytes: Option<u64>,
    working_set_bytes: Option<u64>,
    memory_limit_bytes: Option<u64>,
    /// Over 1, 5 and 15 minutes.
    load: Option<[f64; 3]>,
    started_at: Option<Timestamp>,
    uptime_seconds: Option<i64>,
    read_bytes: Option<u64>,
    written_bytes: Option<u64>,
    read_bytes_per_second: Option<f64>,
    written_bytes_per_second: Option<f64>,
    reads_per_second: Option<f64>,
    writes_per_second: Option<f64>,
    restarts: i32,
}

/// What comes first.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Who uses most
    #[default]
    Cpu,
    /// The largest RSS
    Memory,
    /// The highest load of the last minute
    Load,
    /// Who reads and writes most
    Io,
    /// By namespace, pod and container
    Name,
}

impl Sort {
    /// Puts `rows` into this order; those that are alike, by name.
    pub fn order(self, rows: &mut [Row]) {
        let amount = |row: &Row| match self {
            Self::Cpu => row.cpu,
            Self::Memory => row.rss_bytes.map(|bytes| bytes as f64),
            Self::Load => row.load.map(|[one, ..]| one),
            Self::Io => {
                let rates = row.read_bytes_per_second.zip(row.written_bytes_per_second);
                rates.map(|(read, written)| read + written)
            }
            Self::Name => None,
        };
        // What nobody tells is last.
        let amount = |row: &Row| amount(row).unwrap_or(-1.0);
        let by_name = |a: &Row, b: &Row| -> Ordering {
            (&a.namespace, &a.pod, &a.container).cmp(&(&b.namespace, &b.pod, &b.container))
        };
        rows.sort_by(|a, b| amount(b).total_cmp(&amount(a)).then_with(|| by_name(a, b)));
    }
}

/// A row for each container of `pods` that runs; its rates are taken further.
pub fn of(
    pods: &[Pod],
    samples: &BTreeMap<Key, Sample>,
    rates: &mut BTreeMap<Key, Rates>,
    now: Timestamp,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for pod in pods {
        for status in pods::statuses(pod).filter(|status| is_running(status)) {
            let name = status.name.clone();
            let key = (pod.namespace().unwrap_or_default(), pod.name_any(), name);
            let sample = samples.get(&key).cloned().unwrap_or_default();
            let rate = rates.entry(key).or_default();
            rate.take(&sample);
            rows.push(row(pod, status, &sample, rate, now));
        }
    }
    rows
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

fn row(pod: &Pod, status: &ContainerStatus, sample: &Sample, rates: &Rates, now: Timestamp) -> Row {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
    let mut all = spec.into_iter().flat_map(|spec| &spec.containers).chain(init);
    let limits = all.find(|one| one.name == status.name).and_then(limits);
    let limit = |name: &str| limits.and_then(|limits| limits.get(name)?.0.parse::<Quantity>().ok());
    let running = status.state.as_ref().and_then(|state| state.running.as_ref());
    let started_at = running.and_then(|running| Some(running.started_at.as_ref()?.0));
    let (rss, all) = (sample.rss_bytes, sample.all_bytes);
    let weighed = rss.zip(all).map(|(rss, all)| {
        let cache = all.saturating_sub(rss) as f64;
        rss + (OF_CACHE * cache).round() as u64
    });
    let total = |index: usize| sample.bytes.as_ref().map(|counted| counted.counts[index] as u64);
    Row {
        namespace: pod.namespace().unwrap_or_default(),
        pod: pod.name_any(),
        container: status.name.clone(),
        node: spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        cpu: rates.cpu.now.map(|[cores]| cores).or(sample.cpu_cores),
        cpu_limit: limit("cpu").map(|cpu| cpu.millis() as f64 / 1000.0),
        rss_bytes: rss,
        weighed_bytes: weighed,
        working_set_bytes: sample.working_set_bytes,
        memory_limit_bytes: limit("memory").and_then(|bytes| u64::try_from(bytes.whole()).ok()),
        load: sample.load,
        started_at,
        uptime_seconds: started_at.map(|at| now.duration_since(at).as_secs().max(0)),
        read_bytes: total(0),
        written_bytes: total(1),
        read_bytes_per_second: rates.bytes.now.map(|[read, _]| read),
        written_bytes_per_second: rates.bytes.now.map(|[_, written]| written),
        reads_per_second: rates.operations.now.map(|[reads, _]| reads),
        writes_per_second: rates.operations.now.map(|[_, writes]| writes),
        restarts: status.restart_count,
    }
}

type Limits = BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

fn limits(container: &Container) -> Option<&Limits> {
    container.resources.as_ref()?.limits.as_ref()
}

/// For people.
pub fn table(rows: &[Row], with_namespace: bool) -> String {
    const HEADER: [&str; 15] = [
        "NAMESPACE",
        "POD",
        "CONTAINER",
        "CPU",
        "%LIMIT",
        "RSS",
        "RSS+0.4C",
        "WORKING SET",
        "LIMIT",
        "LOAD 1m 5m 15m",
        "UP",
        "READ/s",
        "WRITTEN/s",
        "I/O OPS/s",
        "RESTARTS",
    ];
    let first = usize::from(!with_namespace);
    let lines: Vec<Vec<String>> = rows.iter().map(|row| cells(row).split_off(first)).collect();
    columns(&HEADER[first..], &lines)
}

fn cells(row: &Row) -> Vec<String> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let size = |count: Option<u64>| or_none(count.map(|count| bytes(count as f64)));
    let rate = |count: Option<f64>| or_none(count.map(bytes));
    let share = row.cpu.zip(row.cpu_limit.filter(|limit| *limit > 0.0));
    let operations = row.reads_per_second.zip(row.writes_per_second);
    let load = row.load.map(|[one, five, fifteen]| format!("{one:.2} {five:.2} {fifteen:.2}"));
    let up = row.started_at.zip(row.uptime_seconds).map(|(at, seconds)| {
        let now = at + jiff::SignedDuration::from_secs(seconds);
        age(at, now)
    });
    vec![
        row.namespace.clone(),
        row.pod.clone(),
        row.container.clone(),
        or_none(row.cpu.map(|cores| format!("{cores:.2}"))),
        or_none(share.map(|(cpu, limit)| format!("{:.0}%", 100.0 * cpu / limit))),
        size(row.rss_bytes),
        size(row.weighed_bytes),
        size(row.working_set_bytes),
        size(row.memory_limit_bytes),
        or_none(load),
        or_none(up),
        rate(row.read_bytes_per_second),
        rate(row.written_bytes_per_second),
        or_none(operations.map(|(reads, writes)| format!("{:.0}", reads + writes))),
        row.restarts.to_string(),
    ]
}

/// `0`, `512B`, `3.5Ki`, `12Mi`.
fn bytes(count: f64) -> String {
    const UNITS: [&str; 5] = ["B", "Ki", "Mi", "Gi", "Ti"];
    let mut count = count;
    let mut unit = 0;
    while count >= 1023.5 && unit + 1 < UNITS.len() {
        count /= 1024.0;
        unit += 1;
    }
    match count {
        0.0 => "0".to_owned(),
        _ if unit > 0 && count < 9.95 => format!("{count:.1}{}", UNITS[unit]),
        _ => format!("{count:.0}{}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::kubelet::Counted;
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "web-1", "namespace": "shop", "uid": "u" },
            "spec": { "nodeName": "n", "containers": [
                { "name": "a", "resources": { "limits": { "cpu": "500m", "memory": "1Gi" } } },
                { "name": "b" }, { "name": "waits" },
            ] },
            "status": { "containerStatuses": [
                { "name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 3,
                  "state": { "running": { "startedAt": "2026-11-21T19:00:00Z" } } },
                { "name": "b", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                  "state": { "running": { "startedAt": "2026-11-21T19:04:00Z" } } },
                { "name": "waits", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                  "state": { "waiting": {} } },
            ] },
        }))
        .unwrap()
    }

    fn sample(second: i64, nanos: f64, written: f64) -> Sample {
        let at = Timestamp::from_second(second).unwrap();
        Sample {
            cpu_nanos: Some(Counted { at, counts: [nanos] }),
            rss_bytes: Some(100 << 20),
            all_bytes: Some(200 << 20),
            working_set_bytes: Some(150 << 20),
            load: Some([1.5, 0.333, 0.0]),
            bytes: Some(Counted { at, counts: [0.0, written] }),
            ..Sample::default()
        }
    }

    #[test]
    fn a_container_is_shown_with_its_limits_and_rates() {
        let key: Key = ("shop".into(), "web-1".into(), "a".into());
        let now = "2026-11-21T19:05:00Z".parse().unwrap();
        let mut rates = BTreeMap::new();
        let first = BTreeMap::from([(key.clone(), sample(0, 0.0, 0.0))]);
        of(&[pod()], &first, &mut rates, now);
        let second = BTreeMap::from([(key, sample(2, 5e8, 4096.0))]);
        let mut rows = of(&[pod()], &second, &mut rates, now);
        Sort::Cpu.order(&mut rows);
        assert_eq!(rows.len(), 2, "what does not run does nothing");
        let wanted = [
            "shop",
            "web-1",
            "a",
            "0.25",
            "50%",
            "100Mi",
            "140Mi",
            "150Mi",
            "1.0Gi",
            "1.50 0.33 0.00",
            "5m",
            "0",
            "2.0Ki",
            "-",
            "3",
        ];
        assert_eq!(cells(&rows[0]), wanted);
        let wanted =
            ["shop", "web-1", "b", "-", "-", "-", "-", "-", "-", "-", "60s", "-", "-", "-", "0"];
        assert_eq!(cells(&rows[1]), wanted, "its node tells nothing of it");
        let text = table(&rows, false);
        assert!(text.starts_with("POD ") && text.contains("LOAD 1m 5m 15m"), "{text}");
        let value = serde_json::to_value(&rows[0]).unwrap();
        assert_eq!(value["writtenBytesPerSecond"], 2048.0);
        assert_eq!((&value["uptimeSeconds"], &value["writtenBytes"]), (&300.into(), &4096.into()));
    }

    #[test]
    fn who_does_most_comes_first_and_who_is_unknown_last() {
        let row = |pod: &str, cpu, one: Option<f64>| Row {
            pod: pod.into(),
            cpu,
            load: one.map(|one| [one, 0.0, 0.0]),
            ..Row::default()
        };
        let mut rows =
            [row("b", Some(0.5), Some(1.0)), row("a", None, None), row("c", Some(0.7), None)];
        for (sort, expected) in [(Sort::Cpu, "cba"), (Sort::Load, "bac"), (Sort::Name, "abc")] {
            sort.order(&mut rows);
            let order: String = rows.iter().map(|row| row.pod.as_str()).collect();
            assert_eq!(order, expected, "{sort:?}");
        }
    }

    #[test]
    fn bytes_have_two_digits_or_three() {
        for (count, expected) in [
            (0.0, "0"),
            (12.4, "12B"),
            (2048.0, "2.0Ki"),
            (10.2 * 1024.0, "10Ki"),
            (1024.0 * 1024.0 - 1.0, "1.0Mi"),
            (f64::from(3 << 29), "1.5Gi"),
        ] {
            assert_eq!(bytes(count), expected, "{count}");
        }
    }
}
