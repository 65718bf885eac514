//! From one metric's reading to a number of replicas. Pure.
//!
//! Amounts are in thousandths. Pods that are not ready count as using nothing when more would be
//! made, and pods without a reading as using what makes the change smaller: a missing number never
//! moves a workload further than the known ones do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::workloads::pod;

/// What CPU a pod uses while it starts says nothing about its load.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// A pod that was never ready since then has not become so yet.
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);

/// What one pod uses.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub value: i64,
    pub at: Timestamp,
    pub window: SignedDuration,
}

/// Readings by pod.
pub(super) type Samples = BTreeMap<String, Sample>;

/// How far from the goal is near enough: a share of it, downwards and upwards.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerance {
    pub down: f64,
    pub up: f64,
}

impl Tolerance {
    fn holds(self, ratio: f64) -> bool {
        ratio >= 1.0 - self.down && ratio <= 1.0 + self.up
    }
}

/// What a metric came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Proposal {
    pub replicas: i32,
    /// The average a pod, or the value.
    pub value: i64,
    /// Percent of what is asked for, where that is the goal.
    pub utilization: Option<i32>,
}

/// The pods that a workload selects, by what their reading is worth.
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn group(pods: &[Arc<Pod>], samples: &Samples, cpu: bool, now: Timestamp) -> Groups {
    let mut groups = Groups {
        ready: 0,
        unready: BTreeSet::new(),
        missing: BTreeSet::new(),
        ignored: BTreeSet::new(),
    };
    for one in pods {
        let name = one.metadata.name.clone().unwrap_or_default();
        if pod::is_terminating(one) || pod::phase(one) == "Failed" {
            groups.ignored.insert(name);
        } else if pod::phase(one) == "Pending" {
            groups.unready.insert(name);
        } else if let Some(sample) = samples.get(&name) {
            if cpu && is_starting(one, sample, now) {
                groups.unready.insert(name);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.insert(name);
        }
    }
    groups
}

/// Whether the CPU reading is from the pod's start.
fn is_starting(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let Some(status) = &pod.status else { return true };
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    let (Some(ready), Some(start)) = (ready, &status.start_time) else { return true };
    let changed = ready.last_transition_time.as_ref().map_or(start.0, |time| time.0);
    let is_ready = ready.status == "True";
    if start.0.duration_until(now) < CPU_INITIALIZATION {
        return !is_ready || sample.at.duration_since(changed) < sample.window;
    }
    !is_ready && start.0.duration_until(changed) < INITIAL_READINESS
}

/// By what share of what the pods ask for they use.
///
/// # Errors
/// A pod asks for nothing, or there is no reading at all.
pub(super) fn by_utilization(
    current: i32,
    target: i32,
    samples: &Samples,
    requests: &BTreeMap<String, i64>,
    (pods, cpu, tolerance, now): (&[Arc<Pod>], bool, Tolerance, Timestamp),
) -> Result<Proposal, String> {
    let groups = group(pods, samples, cpu, now);
    let known = known(samples, &groups)?;
    let share = |known: &BTreeMap<String, i64>| {
        let used: i64 = known.values().sum();
        let asked: i64 = known.keys().filter_map(|name| requests.get(name)).sum();
        if asked == 0 {
            return Err("no metrics returned matched known pods".to_owned());
        }
        let percent = i32::try_from(used.saturating_mul(100) / asked).unwrap_or(i32::MAX);
        let count = i64::try_from(known.len()).unwrap_or(i64::MAX);
        Ok((f64::from(percent) / f64::from(target.max(1)), percent, used / count.max(1)))
    };
    let (ratio, utilization, value) = share(&known)?;
    // A pod without a reading uses all it asked for, or the goal if that is more.
    let fill = |name: &String| {
        requests.get(name).map_or(0, |asked| asked.saturating_mul(target.max(100).into()) / 100)
    };
    let again = |known: &BTreeMap<String, i64>| share(known).map(|(ratio, ..)| ratio);
    let replicas = settle(current, ratio, &groups, known, fill, again, tolerance)?;
    Ok(Proposal { replicas, value, utilization: Some(utilization) })
}

/// By what each pod uses on average.
///
/// # Errors
/// There is no reading at all.
pub(super) fn by_average(
    current: i32,
    target: i64,
    samples: &Samples,
    (pods, cpu, tolerance, now): (&[Arc<Pod>], bool, Tolerance, Timestamp),
) -> Result<Proposal, String> {
    let groups = group(pods, samples, cpu, now);
    let known = known(samples, &groups)?;
    let average = |known: &BTreeMap<String, i64>| {
        let count = i64::try_from(known.len()).unwrap_or(i64::MAX);
        known.values().sum::<i64>() / count.max(1)
    };
    let value = average(&known);
    let again = |known: &BTreeMap<String, i64>| Ok(ratio(average(known), target));
    let replicas =
        settle(current, ratio(value, target), &groups, known, |_| target, again, tolerance)?;
    Ok(Proposal { replicas, value, utilization: None })
}

fn known(samples: &Samples, groups: &Groups) -> Result<BTreeMap<String, i64>, String> {
    let counts =
        |name: &&String| !groups.ignored.contains(*name) && !groups.unready.contains(*name);
    let known: BTreeMap<String, i64> = samples
        .keys()
        .filter(counts)
        .filter_map(|name| Some((name.clone(), samples.get(name)?.value)))
        .collect();
    if known.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    Ok(known)
}

fn settle(
    current: i32,
    ratio: f64,
    groups: &Groups,
    mut known: BTreeMap<String, i64>,
    fill: impl Fn(&String) -> i64,
    again: impl Fn(&BTreeMap<String, i64>) -> Result<f64, String>,
    tolerance: Tolerance,
) -> Result<i32, String> {
    let unready_count = !groups.unready.is_empty() && ratio > 1.0;
    if !unready_count && groups.missing.is_empty() {
        return Ok(if tolerance.holds(ratio) { current } else { up(ratio, groups.ready) });
    }
    for name in &groups.missing {
        if ratio < 1.0 {
            known.insert(name.clone(), fill(name));
        } else if ratio > 1.0 {
            known.insert(name.clone(), 0);
        }
    }
    if unready_count {
        known.extend(groups.unready.iter().map(|name| (name.clone(), 0)));
    }
    let cautious = again(&known)?;
    let turned = (ratio < 1.0 && cautious > 1.0) || (ratio > 1.0 && cautious < 1.0);
    if tolerance.holds(cautious) || turned {
        return Ok(current);
    }
    let replicas = up(cautious, known.len());
    let backwards =
        (cautious < 1.0 && replicas > current) || (cautious > 1.0 && replicas < current);
    Ok(if backwards { current } else { replicas })
}

/// By one value for the whole workload; from none, as many as the value is above the goal.
pub(super) fn by_value(
    current: i32,
    target: i64,
    value: i64,
    pods: &[Arc<Pod>],
    tolerance: Tolerance,
) -> Proposal {
    let ratio = ratio(value, target);
    let ready = pods.iter().filter(|one| pod::phase(one) == "Running" && pod::is_ready(one));
    let replicas = match current {
        0 => up(ratio, 1),
        _ if tolerance.holds(ratio) => current,
        _ => up(ratio, ready.count()),
    };
    Proposal { replicas, value, utilization: None }
}

/// By one value that is shared by all replicas.
pub(super) fn by_share(running: i32, target: i64, value: i64, tolerance: Tolerance) -> Proposal {
    let share = ratio(value, target);
    let replicas = match running {
        running if running > 0 && tolerance.holds(share / f64::from(running)) => running,
        _ => up(share, 1),
    };
    let average = if running > 0 { ceil(ratio(value, i64::from(running))).into() } else { 0 };
    Proposal { replicas, value: average, utilization: None }
}

fn ratio(value: i64, target: i64) -> f64 {
    // Amounts stay far below 2⁵³ thousandths.
    value as f64 / target.max(1) as f64
}

fn up(ratio: f64, count: usize) -> i32 {
    ceil(ratio * count as f64)
}

fn ceil(number: f64) -> i32 {
    // The conversion keeps to i32's bounds.
    number.ceil() as i32
}
