//! What was counted until one moment, and what came between two of them.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::Values;
use berth_api::answers::{Count, difference};
use berth_api::labels;
use berth_api::summary::{ContainerStats, PodStats, Summary};

const CALL: Duration = Duration::from_secs(5);
/// Instances of an App that are drawn.
const MOST: u32 = 100;

/// A pod that runs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Instance {
    name: String,
    uid: String,
    pub node: String,
    /// What its endpoints begin with; where it shares its node's address, all of them.
    endpoints: Vec<String>,
}

impl Instance {
    fn of(pod: &Pod) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        let ip = status.pod_ip.as_deref().unwrap_or_default();
        let ports = spec.containers.iter().flat_map(|one| one.ports.iter().flatten());
        let endpoints = match spec.host_network {
            Some(true) => ports.map(|port| format!("{ip}:{}", port.container_port)).collect(),
            _ => vec![format!("{ip}:")],
        };
        Some(Self {
            name: pod.name_any(),
            uid: pod.uid()?,
            node: spec.node_name.clone()?,
            endpoints,
        })
    }

    /// Whether its node told what a kubelet does not.
    pub fn is_measured(&self, used: &HashMap<String, Used>) -> bool {
        used.get(&self.uid).is_some_and(|used| used.load.is_some() && used.io.is_some())
    }

    fn answers_at(&self, endpoint: &str) -> bool {
        let is =
            |own: &String| *own == endpoint || (own.ends_with(':') && endpoint.starts_with(own));
        self.endpoints.iter().any(is)
    }
}

/// The App's pods that have a node; none where the API server does not answer.
pub(super) async fn instances(
    client: &Client,
    namespace: &str,
    app: &str,
) -> Option<Vec<Instance>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    // What runs by its clock has its name, and is no instance of it.
    let own = format!("{}={app},{}={app}", labels::NAME, labels::INSTANCE);
    let params = ListParams::default().labels(&own).limit(MOST);
    match tokio::time::timeout(CALL, api.list(&params)).await {
        Ok(Ok(pods)) => Some(pods.items.iter().filter_map(Instance::of).collect()),
        Ok(Err(error)) => {
            tracing::debug!(%error, namespace, app, "an App's pods");
            None
        }
        Err(_) => None,
    }
}

/// What a pod used until now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Used {
    /// When the processor's time was counted: kubelets do not count when they are asked.
    at: Option<Timestamp>,
    cpu_nanos: Option<u64>,
    rss: Option<u64>,
    all: Option<u64>,
    working_set: Option<u64>,
    /// Over 1, 5 and 15 minutes.
    load: Option<[f64; 3]>,
    /// When I/O was counted, and the bytes read and written.
    io: Option<(Timestamp, [u64; 2])>,
    /// When the youngest container began to run.
    started: Option<Timestamp>,
}

/// What the node's pods used, by uid; nothing where it does not say.
pub(super) async fn summary(client: &Client, node: &str) -> Vec<(String, Used)> {
    let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    let Ok(request) = http::Request::get(path).body(Vec::new()) else { return Vec::new() };
    match tokio::time::timeout(CALL, client.request::<Summary>(request)).await {
        Ok(Ok(summary)) => summary.pods.into_iter().map(read).collect(),
        Ok(Err(error)) => {
            tracing::debug!(%error, node, "what a node's pods use");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

/// Takes load and I/O from what collectors tell, where the node itself does not.
pub(super) fn complete(used: &mut HashMap<String, Used>, summary: Summary) {
    for (uid, told) in summary.pods.into_iter().map(read) {
        let known = used.entry(uid).or_default();
        known.load = known.load.or(told.load);
        known.io = known.io.or(told.io);
    }
}

fn read(pod: PodStats) -> (String, Used) {
    // What one container does not say is not known of the pod.
    let sum = |of: &dyn Fn(&ContainerStats) -> Option<u64>| {
        pod.containers.iter().map(of).sum::<Option<u64>>()
    };
    let used = Used {
        at: pod.containers.iter().filter_map(|one| one.cpu.time).max(),
        cpu_nanos: sum(&|one| one.cpu.usage_core_nano_seconds),
        rss: sum(&|one| one.memory.rss_bytes),
        all: sum(&|one| one.memory.usage_bytes),
        working_set: sum(&|one| one.memory.working_set_bytes),
        load: load(&pod.containers),
        io: pod.containers.iter().filter_map(|one| one.io.time).max().and_then(|at| {
            Some((at, [sum(&|one| one.io.read_bytes)?, sum(&|one| one.io.written_bytes)?]))
        }),
        started: pod.containers.iter().filter_map(|one| one.start_time).max(),
    };
    (pod.pod_ref.uid, used)
}

/// Of all the pod's containers together.
fn load(containers: &[ContainerStats]) -> Option<[f64; 3]> {
    let loads: Option<Vec<[f64; 3]>> =
        containers.iter().map(|one| Some(one.load.as_ref()?.averages)).collect();
    loads?.into_iter().reduce(|sum, one| std::array::from_fn(|index| sum[index] + one[index]))
}

/// All that was counted of an App until one moment.
#[derive(Clone, Debug)]
pub(super) struct Look {
    at: Instant,
    /// By pod: its uid, what it used, and what balancers said of it.
    pods: BTreeMap<String, (String, Used, Option<Told>)>,
}

/// By who tells it, and of which endpoint.
type Told = HashMap<String, Count>;

impl Look {
    /// `counts` are by who tells them and of which endpoint; none where no balancer answers.
    pub fn new(
        instances: &[Instance],
        used: &HashMap<String, Used>,
        counts: Option<&[(String, String, Count)]>,
    ) -> Self {
        let pods = instances.iter().map(|one| {
            let own = counts.map(|counts| {
                let own = counts.iter().filter(|(_, endpoint, _)| one.answers_at(endpoint));
                own.map(|(place, endpoint, count)| (format!("{place} {endpoint}"), *count))
                    .collect()
            });
            let used = used.get(&one.uid).copied().unwrap_or_default();
            (one.name.clone(), (one.uid.clone(), used, own))
        });
        Self { at: Instant::now(), pods: pods.collect() }
    }

    /// What came since `before`, a second.
    pub fn since(&self, before: &Self) -> BTreeMap<String, Values> {
        let seconds = (self.at - before.at).as_secs_f64().max(0.001);
        let pods = self.pods.iter().map(|(name, (uid, used, counts))| {
            let old = before.pods.get(name).filter(|(of, ..)| of == uid);
            let cpu = old.and_then(|(_, old, _)| {
                // A container that was started anew counts from nothing: wait for the next look.
                let nanos = used.cpu_nanos?.checked_sub(old.cpu_nanos?)?;
                let spent = used.at?.duration_since(old.at?).as_secs_f64();
                (spent > 0.0).then_some(nanos as f64 / 1e9 / spent)
            });
            let bytes = |value: Option<u64>| value.map(|bytes| bytes as f64);
            let cache = used.all.zip(used.rss).map(|(all, rss)| all.saturating_sub(rss));
            let came = counts.as_ref().zip(old.and_then(|(.., old)| old.as_ref()));
            let came = came.map(|(now, old)| difference(old, now));
            let rate = |of: &dyn Fn(&Count) -> f64| came.as_ref().map(|sum| of(sum) / seconds);
            let io = old.and_then(|(_, old, _)| {
                let ((at, now), (before, old)) = (used.io?, old.io?);
                let spent = at.duration_since(before).as_secs_f64();
                let came = [now[0].checked_sub(old[0])?, now[1].checked_sub(old[1])?];
                (spent > 0.0).then(|| came.map(|bytes| bytes as f64 / spent))
            });
            let load = |over: usize| used.load.map(|load| load[over]);
            let values = [
                cpu,
                bytes(used.rss),
                bytes(cache),
                bytes(used.working_set),
                rate(&|sum| sum.answers),
                rate(&|sum| sum.failures),
                rate(&|sum| sum.seconds),
                load(0),
                load(1),
                load(2),
                io.map(|[read, _]| read),
                io.map(|[_, written]| written),
                used.started.map(|at| at.as_millisecond() as f64),
            ];
            (name.clone(), values)
        });
        pods.collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn instance(name: &str, uid: &str) -> Instance {
        let pod = json!({
            "metadata": { "name": name, "uid": uid },
            "spec": { "nodeName": "n", "containers": [] },
            "status": { "podIP": "10.0.0.5" },
        });
        Instance::of(&serde_json::from_value(pod).unwrap()).unwrap()
    }

    /// At `second` of some minute.
    fn looked(
        second: u8,
        uid: &str,
        containers: serde_json::Value,
        counts: Option<&[Count]>,
    ) -> Look {
        let mut pod = json!({ "podRef": { "uid": uid }, "containers": containers });
        for one in pod["containers"].as_array_mut().unwrap() {
            one["cpu"]["time"] = json!(format!("2026-11-21T19:00:{second:02}Z"));
        }
        let used = HashMap::from([read(serde_json::from_value(pod).unwrap())]);
        let counts = counts.map(|counts| {
            let of = |count: &Count| ("b:1".to_owned(), "10.0.0.5:80".to_owned(), *count);
            counts.iter().map(of).collect::<Vec<_>>()
        });
        Look::new(&[instance("web", uid)], &used, counts.as_deref())
    }

    fn container(nanos: u64, rss: u64, all: u64) -> serde_json::Value {
        json!({ "cpu": { "usageCoreNanoSeconds": nanos },
                "memory": { "rssBytes": rss, "usageBytes": all, "workingSetBytes": all } })
    }

    fn count(answers: f64, failures: f64, seconds: f64) -> Count {
        Count { answers, failures, seconds }
    }

    fn after(mut now: Look, before: &Look) -> Values {
        now.at = before.at + Duration::from_secs(10);
        now.since(before)["web"]
    }

    #[test]
    fn containers_of_a_pod_add_up_and_rates_are_a_second() {
        let one = looked(0, "u", json!([container(0, 1, 1), container(0, 1, 1)]), Some(&[]));
        let two = json!([container(5_000_000_000, 100, 300), container(1_000_000_000, 10, 10)]);
        let values = after(looked(10, "u", two, Some(&[count(20.0, 1.0, 0.5)])), &one);
        let wanted = [0.6, 110.0, 200.0, 310.0, 2.0, 0.1, 0.05].map(Some);
        assert_eq!(values[..7], wanted);
        assert_eq!(values[7..], [None; 6], "a kubelet's summary has no load and no I/O");
    }

    #[test]
    fn load_io_and_start_are_those_of_all_containers() {
        let one = |second: u8, load: f64, written: u64, started: u8| {
            json!({ "startTime": format!("2026-11-21T18:00:{started:02}Z"),
                    "load": { "averages": [load, 0.25, 0.0] },
                    "io": { "time": format!("2026-11-21T19:00:{second:02}Z"),
                            "readBytes": 10, "writtenBytes": written } })
        };
        let before = json!([one(0, 0.0, 0, 1), one(0, 0.0, 100, 2)]);
        let now = json!([one(10, 1.5, 4000, 1), one(10, 0.5, 1100, 2)]);
        let values = after(looked(10, "u", now, None), &looked(0, "u", before, None));
        let started: Timestamp = "2026-11-21T18:00:02Z".parse().unwrap();
        let wanted = [2.0, 0.5, 0.0, 0.0, 500.0, started.as_millisecond() as f64];
        assert_eq!(values[7..], wanted.map(Some));
    }

    #[test]
    fn collectors_tell_what_kubelets_do_not() {
        let kubelet = json!({ "podRef": { "uid": "u" }, "containers": [container(1, 2, 3)] });
        let mut used = HashMap::from([read(serde_json::from_value(kubelet).unwrap())]);
        assert!(!instance("web", "u").is_measured(&used));
        let told = |uid: &str| {
            json!({ "podRef": { "uid": uid }, "containers": [{ "name": "c",
                "load": { "averages": [1.5, 0.5, 0.0] },
                "io": { "time": "2026-11-21T19:00:00Z", "readBytes": 1, "writtenBytes": 2 } }] })
        };
        let summary = json!({ "pods": [told("u"), told("v")],
                              "silent": [{ "node": "n", "reason": "away" }] });
        complete(&mut used, serde_json::from_value(summary).unwrap());
        assert!(instance("web", "u").is_measured(&used));
        let (one, other) = (used["u"], used["v"]);
        assert_eq!((one.rss, one.load), (Some(2), Some([1.5, 0.5, 0.0])));
        assert_eq!((one.io, other.rss), (other.io, None));
    }

    #[test]
    fn what_nobody_counts_is_not_nothing() {
        let silent = json!([{ "cpu": { "usageCoreNanoSeconds": 1 } }]);
        let one = looked(0, "u", silent.clone(), None);
        assert_eq!(after(looked(10, "u", silent, None), &one), {
            let mut values = [None; 13];
            values[0] = Some(0.0);
            values
        });
    }

    #[test]
    fn what_began_anew_has_no_rate_from_before() {
        let one = looked(0, "u", json!([container(9, 1, 1)]), Some(&[count(50.0, 0.0, 1.0)]));
        let again = looked(10, "u", json!([container(3, 1, 1)]), Some(&[count(10.0, 0.0, 1.0)]));
        let values = after(again, &one);
        assert_eq!((values[0], values[4]), (None, Some(1.0)), "the balancer's ten came since");
        let other = looked(10, "v", json!([container(10, 1, 1)]), Some(&[]));
        let values = after(other, &one);
        assert_eq!((values[0], values[4]), (None, None), "another pod of that name");
    }

    #[test]
    fn on_its_nodes_address_a_pod_has_its_own_ports_alone() {
        let pod = json!({
            "metadata": { "name": "p", "uid": "u" },
            "spec": { "nodeName": "n", "hostNetwork": true,
                      "containers": [{ "name": "c", "ports": [{ "containerPort": 80 }] }] },
            "status": { "podIP": "192.0.2.1" },
        });
        let host = Instance::of(&serde_json::from_value(pod).unwrap()).unwrap();
        assert!(host.answers_at("192.0.2.1:80") && !host.answers_at("192.0.2.1:8080"));
        let own = instance("web", "u");
        assert!(own.answers_at("10.0.0.5:9") && !own.answers_at("10.0.0.55:9"));
    }
}
