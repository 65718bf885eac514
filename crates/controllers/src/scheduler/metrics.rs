//! What the scheduler counts, under kube-scheduler's names, in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use super::board::{Incoming, Pending};

/// Upper bounds of the buckets, seconds: decisions take microseconds, bindings milliseconds.
const BOUNDS: [f64; 16] = [
    0.000_01, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0,
    30.0, 60.0,
];

/// More attempts than these are counted together.
const MOST_ATTEMPTS: u32 = 16;
/// Upper bounds of the buckets of victims.
const VICTIMS: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
/// As long as a pod may wait for a place: up to four hours and a half, as kube-scheduler has them.
const WAITS: [f64; 22] = [
    0.001, 0.002_5, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24,
    20.48, 40.96, 81.92, 163.84, 327.68, 655.36, 1310.72, 5242.88,
];

static COUNTED: LazyLock<Mutex<Counted>> = LazyLock::new(Mutex::default);

/// Histograms are by attempts (`1` to `15`, `16+`) or by result or point.
#[derive(Default)]
struct Counted {
    pending: Pending,
    incoming: Incoming,
    attempts: BTreeMap<&'static str, u64>,
    attempt: BTreeMap<&'static str, Histogram>,
    sli: BTreeMap<u32, Histogram>,
    extension: BTreeMap<&'static str, Histogram>,
    preemptions: u64,
    victims: Option<Histogram>,
}

/// The last bucket takes what is above all bounds.
struct Histogram {
    bounds: &'static [f64],
    buckets: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, buckets: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn see(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.buckets[bucket] += 1;
        self.sum += value;
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let join = if labels.is_empty() { "" } else { "," };
        let mut count = 0;
        for (bucket, bound) in self.buckets.iter().zip(self.bounds) {
            count += bucket;
            line(out, &format!("{name}_bucket{{{labels}{join}le=\"{bound}\"}} {count}"));
        }
        let count: u64 = self.buckets.iter().sum();
        line(out, &format!("{name}_bucket{{{labels}{join}le=\"+Inf\"}} {count}"));
        let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        line(out, &format!("{name}_sum{braced} {}", self.sum));
        line(out, &format!("{name}_count{braced} {count}"));
    }
}

fn counted() -> std::sync::MutexGuard<'static, Counted> {
    COUNTED.lock().expect("no holder of the lock panics")
}

pub(super) fn queue(pending: Pending, incoming: Incoming) {
    let mut counted = counted();
    counted.pending = pending;
    counted.incoming = incoming;
}

/// An attempt ended: `scheduled`, `unschedulable` or `error`.
pub(super) fn attempt(result: &'static str, took: Duration) {
    counted().attempt(result, took);
}

/// A pod was bound so long after it could first be, the binding included.
pub(super) fn bound(since: Duration, attempts: u32, binding: Duration) {
    let mut counted = counted();
    counted.attempt("scheduled", binding);
    counted.point("Bind", binding);
    let wait = counted.sli.entry(attempts.clamp(1, MOST_ATTEMPTS));
    wait.or_insert_with(|| Histogram::new(&WAITS)).see(since.as_secs_f64());
}

/// So many pods were decided about, in so long each.
pub(super) fn decided(each: Duration, unschedulable: usize, all: usize) {
    if all == 0 {
        return;
    }
    let mut counted = counted();
    for at in 0..all {
        counted.point("Schedule", each);
        if at < unschedulable {
            counted.attempt("unschedulable", each);
        }
    }
}

pub(super) fn preempted(victims: usize) {
    let mut counted = counted();
    counted.preemptions += 1;
    let histogram = counted.victims.get_or_insert_with(|| Histogram::new(&VICTIMS));
    histogram.see(victims as f64);
}

impl Counted {
    fn attempt(&mut self, result: &'static str, took: Duration) {
        *self.attempts.entry(result).or_default() += 1;
        let histogram = self.attempt.entry(result).or_insert_with(|| Histogram::new(&BOUNDS));
        histogram.see(took.as_secs_f64());
    }

    fn point(&mut self, name: &'static str, took: Duration) {
        let histogram = self.extension.entry(name).or_insert_with(|| Histogram::new(&BOUNDS));
        histogram.see(took.as_secs_f64());
    }
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
    for (attempts, histogram) in &counted.sli {
        let more = if *attempts == MOST_ATTEMPTS { "+" } else { "" };
        histogram.write(&mut out, name, &format!("attempts=\"{attempts}{more}\""));
    }
    let name = "scheduler_queue_incoming_pods_total";
    head(&mut out, name, "counter", "Pods that came to a queue, by event and queue.");
    for (queue, event, count) in counted.incoming.counts() {
        line(&mut out, &format!("{name}{{event=\"{event}\",queue=\"{queue}\"}} {count}"));
    }
    let name = "scheduler_framework_extension_point_duration_seconds";
    head(&mut out, name, "histogram", "Phases of scheduling.");
    for (point, histogram) in &counted.extension {
        histogram.write(&mut out, name, &format!("extension_point=\"{point}\""));
    }
    let name = "scheduler_preemption_attempts_total";
    head(&mut out, name, "counter", "Preemptions that found a node.");
    line(&mut out, &format!("{name} {}", counted.preemptions));
    let name = "scheduler_preemption_victims";
    head(&mut out, name, "histogram", "Pods that had to go, for each preemption.");
    if let Some(victims) = &counted.victims {
        victims.write(&mut out, name, "");
    }
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
        bound(Duration::from_millis(7), 1, Duration::from_millis(3));
        bound(Duration::from_secs(9), 40, Duration::from_millis(3));
        decided(Duration::from_micros(20), 1, 2);
        preempted(3);
        let text = metrics();
        for wanted in [
            "scheduler_pending_pods{queue=\"active\"}",
            "scheduler_schedule_attempts_total{result=\"scheduled\"}",
            "scheduler_schedule_attempts_total{result=\"unschedulable\"}",
            "scheduler_scheduling_attempt_duration_seconds_bucket{result=\"scheduled\",le=\"0.005\"}",
            "scheduler_pod_scheduling_sli_duration_seconds_count{attempts=\"1\"}",
            "scheduler_pod_scheduling_sli_duration_seconds_bucket{attempts=\"16+\",le=\"10.24\"}",
            "scheduler_framework_extension_point_duration_seconds_sum{extension_point=\"Bind\"}",
            "# TYPE scheduler_queue_incoming_pods_total counter",
            "scheduler_preemption_attempts_total",
            "scheduler_preemption_victims_bucket{le=\"4\"}",
        ] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
    }

    #[test]
    fn buckets_hold_what_is_not_above_them() {
        let mut histogram = Histogram::new(&VICTIMS);
        for value in [1.0, 2.0, 3.0, 65.0] {
            histogram.see(value);
        }
        let mut out = String::new();
        histogram.write(&mut out, "v", "");
        for wanted in
            ["le=\"1\"} 1", "le=\"2\"} 2", "le=\"4\"} 3", "le=\"64\"} 3", "le=\"+Inf\"} 4"]
        {
            assert!(out.contains(wanted), "{wanted} in {out}");
        }
        assert!(out.contains("v_sum 71\nv_count 4"), "{out}");
    }
}
