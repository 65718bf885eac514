//! What the scheduler counts, under kube-scheduler's names, in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use super::board::Pending;

/// Upper bounds of the buckets, seconds: decisions take microseconds, bindings milliseconds.
const BOUNDS: [f64; 16] = [
    0.000_01, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0,
    30.0, 60.0,
];

static COUNTED: LazyLock<Mutex<Counted>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Counted {
    pending: Pending,
    attempts: BTreeMap<&'static str, u64>,
    attempt: BTreeMap<&'static str, Histogram>,
    sli: Histogram,
    extension: BTreeMap<&'static str, Histogram>,
    preemptions: u64,
    victims: u64,
}

#[derive(Default)]
struct Histogram {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn see(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        for (bucket, bound) in self.buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(seconds <= bound);
        }
        self.count += 1;
        self.sum += seconds;
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let join = if labels.is_empty() { "" } else { "," };
        for (count, bound) in self.buckets.iter().zip(BOUNDS) {
            line(out, &format!("{name}_bucket{{{labels}{join}le=\"{bound}\"}} {count}"));
        }
        let count = self.count;
        line(out, &format!("{name}_bucket{{{labels}{join}le=\"+Inf\"}} {count}"));
        let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        line(out, &format!("{name}_sum{braced} {}", self.sum));
        line(out, &format!("{name}_count{braced} {count}"));
    }
}

fn counted() -> std::sync::MutexGuard<'static, Counted> {
    COUNTED.lock().expect("no holder of the lock panics")
}

pub(super) fn pending(pending: Pending) {
    counted().pending = pending;
}

/// An attempt ended: `scheduled`, `unschedulable` or `error`.
pub(super) fn attempt(result: &'static str, took: Duration) {
    let mut counted = counted();
    *counted.attempts.entry(result).or_default() += 1;
    counted.attempt.entry(result).or_default().see(took);
}

/// A pod was bound so long after it could first be.
pub(super) fn bound(since: Duration) {
    counted().sli.see(since);
}

pub(super) fn extension_point(name: &'static str, took: Duration) {
    counted().extension.entry(name).or_default().see(took);
}

pub(super) fn preempted(victims: usize) {
    let mut counted = counted();
    counted.preemptions += 1;
    counted.victims += victims as u64;
}

/// Everything counted so far, as Prometheus reads it.
pub fn metrics() -> String {
    let counted = counted();
    let mut out = String::new();
    head(&mut out, "scheduler_pending_pods", "gauge", "Number of pending pods, by the queue type.");
    let Pending { active, backoff, unschedulable } = counted.pending;
    for (queue, count) in
        [("active", active), ("backoff", backoff), ("unschedulable", unschedulable)]
    {
        line(&mut out, &format!("scheduler_pending_pods{{queue=\"{queue}\"}} {count}"));
    }
    head(&mut out, "scheduler_schedule_attempts_total", "counter", "Attempts, by result.");
    for (result, count) in &counted.attempts {
        line(
            &mut out,
            &format!("scheduler_schedule_attempts_total{{result=\"{result}\"}} {count}"),
        );
    }
    let name = "scheduler_scheduling_attempt_duration_seconds";
    head(&mut out, name, "histogram", "Deciding and binding, by result.");
    for (result, histogram) in &counted.attempt {
        histogram.write(&mut out, name, &format!("result=\"{result}\""));
    }
    let name = "scheduler_pod_scheduling_sli_duration_seconds";
    head(&mut out, name, "histogram", "From when a pod could be scheduled until it was.");
    counted.sli.write(&mut out, name, "");
    let name = "scheduler_framework_extension_point_duration_seconds";
    head(&mut out, name, "histogram", "Phases of scheduling.");
    for (point, histogram) in &counted.extension {
        histogram.write(&mut out, name, &format!("extension_point=\"{point}\""));
    }
    let name = "scheduler_preemption_attempts_total";
    head(&mut out, name, "counter", "Preemptions that found a node.");
    line(&mut out, &format!("{name} {}", counted.preemptions));
    let name = "scheduler_preemption_victims_total";
    head(&mut out, name, "counter", "Pods that had to go.");
    line(&mut out, &format!("{name} {}", counted.victims));
    out
}

fn head(out: &mut String, name: &str, kind: &str, about: &str) {
    line(out, &format!("# HELP {name} {about}\n# TYPE {name} {kind}"));
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("a string takes what is written to it");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_counted_under_the_known_names() {
        attempt("scheduled", Duration::from_millis(3));
        bound(Duration::from_millis(7));
        extension_point("Bind", Duration::from_millis(2));
        let text = metrics();
        for wanted in [
            "scheduler_pending_pods{queue=\"active\"}",
            "scheduler_schedule_attempts_total{result=\"scheduled\"}",
            "scheduler_scheduling_attempt_duration_seconds_bucket{result=\"scheduled\",le=\"0.005\"}",
            "scheduler_pod_scheduling_sli_duration_seconds_count",
            "scheduler_framework_extension_point_duration_seconds_sum{extension_point=\"Bind\"}",
        ] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
    }
}
