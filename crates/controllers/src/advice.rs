//! Right-sizing: remembers what the containers of each workload use, and says what they should ask
//! for. Nothing is changed; people read it.
//!
//! ```text
//!  every minute: metrics.k8s.io ─▶ History of (workload, container) ─┐
//!  pods: OOMKilled ──────────────▶            ▲                      ├─▶ every 5 min: ConfigMaps
//!                                             └── at the start ◀─────┘          │
//!                                                             berth advise ◀────┘
//! ```
//!
//! Any Kubernetes with `metrics.k8s.io` will do. What is decided is in `berth_scheduler::advice`; the
//! ConfigMaps hold sums only, some kilobytes a container, so that a restart loses five minutes.
//!
//! # Assumptions
//! One process at a time writes (the scheduler's Lease, where there are several).

mod keep;
mod look;
mod workload;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_api::Quantity;
use berth_daemon::Tasks;
use berth_scheduler::advice::History;
use berth_scheduler::amount::{Bytes, Millicores};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;

use crate::driver::{World, chain, within};

pub use berth_scheduler::advice::{Confidence, DAYS};
pub use look::{Amount, Row, look};
pub use workload::Workload;

/// Where the ConfigMaps are.
pub const NAMESPACE: &str = "kube-system";
/// What they are labelled with.
pub const LABEL: &str = "berth.dev/advice-history";
/// Containers of workloads that are remembered; more would not fit the ConfigMaps' budget.
const MOST: usize = 20_000;
const SECONDS_OF_DAY: i64 = 86_400;
/// No call takes longer.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// After a call that failed.
const AGAIN: Duration = Duration::from_secs(10);

/// How the history is kept.
#[derive(Clone, Debug)]
pub struct Config {
    /// How often use is looked at.
    pub sample_every: Duration,
    /// How often what was seen is written.
    pub write_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { sample_every: Duration::from_secs(60), write_every: Duration::from_secs(5 * 60) }
    }
}

/// All that is remembered.
pub type Histories = BTreeMap<Subject, History>;

/// A container of a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// Whose.
    pub workload: Workload,
    /// Its name in the pod.
    pub container: String,
}

/// Days since 1970.
pub(crate) fn today() -> i64 {
    Timestamp::now().as_second().div_euclid(SECONDS_OF_DAY)
}

/// Remembers in `tasks`; writes only while `leads` says so.
pub fn start(
    client: Client,
    world: &Arc<World>,
    config: Config,
    leads: impl Fn() -> bool + Send + Sync + 'static,
    tasks: &Tasks,
) {
    let world = Arc::clone(world);
    tasks.spawn_until_stop("advice", async move {
        world.pods.ready().await;
        world.replica_sets.ready().await;
        world.jobs.ready().await;
        let mut histories = loop {
            match within(CALL_LIMIT, keep::read(&client)).await {
                Ok(histories) => break histories,
                Err(error) => tracing::debug!(error = %chain(&error), "reading histories"),
            }
            tokio::time::sleep(AGAIN).await;
        };
        let mut written: Option<Instant> = None;
        loop {
            match within(CALL_LIMIT, sample(&client)).await {
                Ok(samples) => take(&mut histories, &world, &samples, today()),
                Err(error) => tracing::debug!(error = %chain(&error), "use of pods"),
            }
            let due = written.is_none_or(|written| written.elapsed() >= config.write_every);
            if due && !histories.is_empty() && leads() {
                match within(CALL_LIMIT, keep::write(&client, &histories)).await {
                    Ok(()) => written = Some(Instant::now()),
                    Err(error) => tracing::warn!(error = %chain(&error), "writing histories"),
                }
            }
            tokio::time::sleep(config.sample_every).await;
        }
    });
}

/// What one container was measured to use.
struct Sample {
    namespace: String,
    pod: String,
    container: String,
    cpu: Millicores,
    memory: Bytes,
}

/// Nothing where nobody measures.
async fn sample(client: &Client) -> kube::Result<Vec<Sample>> {
    let kind = GroupVersionKind::gvk("metrics.k8s.io", "v1beta1", "PodMetrics");
    let resource = ApiResource::from_gvk_with_plural(&kind, "pods");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let list = match api.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 503) => return Ok(Vec::new()),
        answer => answer?,
    };
    let mut samples = Vec::new();
    for pod in list.items {
        for container in pod.data["containers"].as_array().into_iter().flatten() {
            let read = |what: &str| container["usage"][what].as_str()?.parse::<Quantity>().ok();
            let (Some(name), Some(cpu), Some(memory)) =
                (container["name"].as_str(), read("cpu"), read("memory"))
            else {
                continue;
            };
            samples.push(Sample {
                namespace: pod.namespace().unwrap_or_default(),
                pod: pod.name_any(),
                container: name.to_owned(),
                cpu: Millicores(cpu.millis()),
                memory: Bytes(memory.whole()),
            });
        }
    }
    Ok(samples)
}

/// Counts the samples, and every kill for memory that pods still tell of.
fn take(histories: &mut Histories, world: &World, samples: &[Sample], today: i64) {
    histories.retain(|_, history| history.forget(today));
    for sample in samples {
        let Some(pod) = world.pods.get(&sample.namespace, &sample.pod) else { continue };
        let Some(history) = of(histories, world, &pod, &sample.container) else { continue };
        history.see(today, sample.cpu, sample.memory);
    }
    for pod in world.pods.all() {
        let status = pod.status.as_ref();
        for own in status.iter().flat_map(|status| status.container_statuses.iter().flatten()) {
            let Some((day, limit)) = killed(&pod, own) else { continue };
            if let Some(history) = of(histories, world, &pod, &own.name) {
                history.see_killed(day, limit);
            }
        }
    }
    histories.retain(|_, history| history.forget(today));
}

fn of<'a>(
    histories: &'a mut Histories,
    world: &World,
    pod: &Pod,
    container: &str,
) -> Option<&'a mut History> {
    let workload = Workload::of(pod, &world.replica_sets, &world.jobs)?;
    let subject = Subject { workload, container: container.to_owned() };
    if histories.len() >= MOST && !histories.contains_key(&subject) {
        return None;
    }
    Some(histories.entry(subject).or_default())
}

/// On which day the container was last killed for want of memory, and what it was allowed then.
fn killed(pod: &Pod, status: &ContainerStatus) -> Option<(i64, Bytes)> {
    let states = [status.state.as_ref(), status.last_state.as_ref()];
    let ended = states.into_iter().flatten().filter_map(|state| state.terminated.as_ref());
    let killed = ended.into_iter().find(|end| end.reason.as_deref() == Some("OOMKilled"))?;
    let day = killed.finished_at.as_ref()?.0.as_second().div_euclid(SECONDS_OF_DAY);
    let spec = pod.spec.as_ref()?.containers.iter().find(|own| own.name == status.name)?;
    let resources = spec.resources.as_ref()?;
    let memory = |amounts: &Option<BTreeMap<_, _>>| {
        let text: &k8s_openapi::apimachinery::pkg::api::resource::Quantity =
            amounts.as_ref()?.get("memory")?;
        text.0.parse::<Quantity>().ok()
    };
    // Without a limit the node ran out, at no less than what was asked for.
    let limit = memory(&resources.limits).or_else(|| memory(&resources.requests))?;
    Some((day, Bytes(limit.whole())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_kill_is_read_from_either_state_with_the_limit_that_did_not_suffice() {
        fn check(status: serde_json::Value, resources: serde_json::Value, expected: Option<i64>) {
            let mut status = status;
            for (key, value) in
                [("name", json!("c")), ("image", json!("i")), ("imageID", json!(""))]
            {
                status[key] = value;
            }
            (status["ready"], status["restartCount"]) = (json!(false), json!(1));
            let pod: Pod = serde_json::from_value(json!({ "spec": { "containers": [
                { "name": "c", "resources": resources }] } }))
            .unwrap();
            let found = killed(&pod, &serde_json::from_value(status).unwrap());
            assert_eq!(
                found.map(|(day, limit)| (day, limit.0 >> 20)),
                expected.map(|mib| (1, mib))
            );
        }
        let ended = |reason: &str| {
            json!({ "terminated": { "exitCode": 137, "reason": reason,
            "finishedAt": "1970-01-02T03:00:00Z" } })
        };
        let limit = json!({ "limits": { "memory": "64Mi" }, "requests": { "memory": "32Mi" } });
        check(json!({ "state": ended("OOMKilled") }), limit.clone(), Some(64));
        check(json!({ "lastState": ended("OOMKilled") }), limit.clone(), Some(64));
        check(json!({ "lastState": ended("Error") }), limit, None);
        let request = json!({ "requests": { "memory": "32Mi" } });
        check(json!({ "lastState": ended("OOMKilled") }), request, Some(32));
        check(json!({ "lastState": ended("OOMKilled") }), json!({}), None);
    }
}
