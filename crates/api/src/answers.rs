//! What a balancer of ours counts of each endpoint, where it tells it, and how it is read.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What one process says of one endpoint since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Count {
    /// Requests that were answered.
    pub answers: f64,
    /// Those with 500 and above, or without an answer.
    pub failures: f64,
    /// Seconds until answers began, summed.
    pub seconds: f64,
}

/// Where the processes of a pod tell their metrics: where their readiness is asked.
pub fn places(pod: &Pod) -> Vec<String> {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let place = |container: &Container| {
        let asked = container.readiness_probe.as_ref()?.http_get.as_ref()?;
        let port = match &asked.port {
            IntOrString::Int(number) => *number,
            IntOrString::String(name) => {
                let ports = container.ports.iter().flatten();
                let named = ports.filter(|port| port.name.as_ref() == Some(name));
                named.map(|port| port.container_port).next()?
            }
        };
        Some(format!("{}:{port}", asked.host.as_deref().or(ip)?))
    };
    containers.filter_map(place).collect()
}

/// The counts in what a process tells (Prometheus' text format), by endpoint.
pub fn read(text: &str) -> BTreeMap<&str, Count> {
    let mut counts = BTreeMap::<&str, Count>::new();
    for line in text.lines() {
        let Some((series, number)) = line.rsplit_once(' ') else { continue };
        let named = series.strip_suffix("\"}").and_then(|rest| rest.split_once("{endpoint=\""));
        let (Some((name, endpoint)), Ok(number)) = (named, number.parse::<f64>()) else { continue };
        let Some(word) = name.strip_prefix("berth_balancer_") else { continue };
        let count = counts.entry(endpoint).or_default();
        match word {
            "answers_total" => count.answers = number,
            "failures_total" => count.failures = number,
            "seconds_total" => count.seconds = number,
            _ => {}
        }
    }
    counts
}

/// What came between two looks, of all together.
pub fn difference<K: Eq + Hash>(before: &HashMap<K, Count>, now: &HashMap<K, Count>) -> Count {
    let mut sum = Count::default();
    for (of, now) in now {
        // One that is new since, or a process that began anew, counts from nothing.
        let old = before.get(of).filter(|old| old.answers <= now.answers);
        let old = old.copied().unwrap_or_default();
        sum.answers += now.answers - old.answers;
        sum.failures += (now.failures - old.failures).max(0.0);
        sum.seconds += (now.seconds - old.seconds).max(0.0);
    }
    sum
}
