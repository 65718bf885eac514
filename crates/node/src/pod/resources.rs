//! Requests and limits as cgroup numbers; the pod's class of service.

use std::collections::BTreeMap;

use berth_scheduler::reclaim;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::cri::v1;
use crate::quantity;

/// The period that the kubelet gives the CPU quota, 100 ms.
const CPU_PERIOD_US: i64 = 100_000;
/// The kernel refuses a quota under 1 ms.
const CPU_QUOTA_LEAST_US: i64 = 1_000;

type Amounts = Option<BTreeMap<String, Quantity>>;

/// An amount above zero in thousandths of the unit, if there is one.
fn amount(amounts: &Amounts, name: &str) -> Option<i64> {
    let quantity = amounts.as_ref()?.get(name)?;
    i64::try_from(quantity::milli(quantity)).ok().filter(|n| *n > 0)
}

/// CPU limit or request, in millicores.
fn millicores(amounts: &Amounts) -> Option<i64> {
    amount(amounts, "cpu")
}

/// Memory limit or request, in bytes.
fn bytes(amounts: &Amounts) -> Option<i64> {
    let quantity = amounts.as_ref()?.get("memory")?;
    i64::try_from(quantity::bytes(quantity)).ok().filter(|n| *n > 0)
}

/// The class of service by which the kernel picks whom to end first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    /// The API's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The class of a pod, from what its containers ask for.
    pub fn of_pod(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::BestEffort };
        let mut any = false;
        let mut equal = true;
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            let none = ResourceRequirements::default();
            let resources = container.resources.as_ref().unwrap_or(&none);
            for name in ["cpu", "memory"] {
                let limit = amount(&resources.limits, name);
                let request = amount(&resources.requests, name).or(limit);
                any |= limit.is_some() || request.is_some();
                equal &= limit.is_some() && limit == request;
            }
        }
        match (any, equal) {
            (false, _) => Self::BestEffort,
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
        }
    }
}

/// The CPU that a container asks for, in thousandths.
pub(crate) fn cpu(container: &Container) -> i64 {
    let own = container.resources.as_ref();
    own.and_then(|own| millicores(&own.requests).or(millicores(&own.limits))).unwrap_or(0)
}

/// The memory that a container asks for, in bytes.
pub(crate) fn memory(container: &Container) -> i64 {
    let own = container.resources.as_ref();
    own.and_then(|own| bytes(&own.requests).or(bytes(&own.limits))).unwrap_or(0)
}

/// A container's share of the machine in CRI's numbers; `memory_total` is the machine's, bytes.
pub(crate) fn linux(
    container: &Container,
    qos: Qos,
    memory_total: i64,
) -> v1::LinuxContainerResources {
    let none = ResourceRequirements::default();
    let resources = container.resources.as_ref().unwrap_or(&none);
    // What was borrowed ends at what was asked for, whatever the machine has left.
    let borrowed = |name: &str| {
        let quantity = resources.limits.as_ref()?.get(name)?;
        i64::try_from(quantity::bytes(quantity)).ok().filter(|n| *n > 0)
    };
    let limit = millicores(&resources.limits);
    let quota_of = limit.or_else(|| borrowed(reclaim::CPU));
    let memory = bytes(&resources.limits).or_else(|| borrowed(reclaim::MEMORY));
    let request = millicores(&resources.requests).or(limit).unwrap_or(0);
    let quota = quota_of.map_or(0, |m| (m * CPU_PERIOD_US / 1000).max(CPU_QUOTA_LEAST_US));
    v1::LinuxContainerResources {
        cpu_period: if quota > 0 { CPU_PERIOD_US } else { 0 },
        cpu_quota: quota,
        cpu_shares: (request * 1024 / 1000).clamp(2, 262_144),
        memory_limit_in_bytes: memory.unwrap_or(0),
        oom_score_adj: oom_score_adj(qos, bytes(&resources.requests), memory_total),
        ..v1::LinuxContainerResources::default()
    }
}

/// Who asked for more memory is ended later; Guaranteed last, BestEffort first.
fn oom_score_adj(qos: Qos, request: Option<i64>, memory_total: i64) -> i64 {
    match qos {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let share = request.unwrap_or(0).saturating_mul(1000) / memory_total.max(1);
            (1000 - share).clamp(3, 999)
        }
    }
}

/// The machine's memory in bytes, 0 when the kernel does not say.
pub(crate) fn memory_total() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok())
        .map_or(0, |kib: i64| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_batch_pod_borrows_is_its_limit_and_never_its_weight() {
        let container: Container = serde_json::from_value(serde_json::json!({
            "name": "c",
            "resources": {
                "requests": {"berth.dev/batch-cpu": "1500", "berth.dev/batch-memory": "1Gi"},
                "limits": {"berth.dev/batch-cpu": "1500", "berth.dev/batch-memory": "1Gi"},
            }
        }))
        .expect("a container");
        let linux = linux(&container, Qos::BestEffort, 1 << 30);
        assert_eq!((linux.cpu_quota, linux.cpu_period, linux.cpu_shares), (150_000, 100_000, 2));
        assert_eq!((linux.memory_limit_in_bytes, linux.oom_score_adj), (1 << 30, 1000));
    }

    #[test]
    fn cpu_becomes_shares_and_quota() {
        let resources = serde_json::json!({
            "name": "c",
            "resources": {"requests": {"cpu": "250m", "memory": "1Mi"}, "limits": {"cpu": "500m"}}
        });
        let container: Container = serde_json::from_value(resources).expect("a container");
        let linux = linux(&container, Qos::Burstable, 1 << 30);
        assert_eq!((linux.cpu_shares, linux.cpu_quota, linux.cpu_period), (256, 50_000, 100_000));
        assert_eq!((linux.memory_limit_in_bytes, linux.oom_score_adj), (0, 999));
    }
}
