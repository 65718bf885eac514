//! Requests counted and timed, in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];
/// Series beyond this go uncounted: a stranger's made-up paths must not fill the memory.
const SERIES: usize = 2000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    verb: String,
    group: String,
    resource: String,
    subresource: String,
}

#[derive(Default)]
struct Seen {
    codes: BTreeMap<u16, u64>,
    buckets: [u64; BUCKETS.len()],
    seconds: f64,
    count: u64,
}

/// What `/metrics` shows.
#[derive(Default)]
pub(crate) struct Metrics {
    series: Mutex<BTreeMap<Series, Seen>>,
    watches: AtomicI64,
}

/// Counts a watch as open until it is dropped.
pub(crate) struct OpenWatch(std::sync::Arc<Metrics>);

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.watches.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(crate) fn watch(self: &std::sync::Arc<Self>) -> OpenWatch {
        self.watches.fetch_add(1, Ordering::Relaxed);
        OpenWatch(self.clone())
    }

    pub(crate) fn count(&self, target: &crate::path::Target, code: u16, took: Duration) {
        let of = |text: &str| if target.is_resource { text.to_owned() } else { String::new() };
        let key = Series {
            verb: target.verb.to_ascii_uppercase(),
            group: of(&target.group),
            resource: of(&target.resource),
            subresource: of(&target.subresource),
        };
        let mut series = self.series.lock().expect("nothing panics while holding it");
        if series.len() >= SERIES && !series.contains_key(&key) {
            return;
        }
        let seen = series.entry(key).or_default();
        *seen.codes.entry(code).or_default() += 1;
        let seconds = took.as_secs_f64();
        for (bucket, most) in seen.buckets.iter_mut().zip(BUCKETS) {
            if seconds <= most {
                *bucket += 1;
            }
        }
        seen.seconds += seconds;
        seen.count += 1;
    }

    pub(crate) fn render(&self) -> String {
        let mut counts = String::from(
            "# HELP apiserver_request_total Requests answered.\n\
             # TYPE apiserver_request_total counter\n",
        );
        let mut times = String::from(
            "# HELP apiserver_request_duration_seconds Time until the answer began.\n\
             # TYPE apiserver_request_duration_seconds histogram\n",
        );
        let series = self.series.lock().expect("nothing panics while holding it");
        for (key, seen) in series.iter() {
            let labels = format!(
                "verb={:?},group={:?},resource={:?},subresource={:?}",
                key.verb, key.group, key.resource, key.subresource
            );
            for (code, count) in &seen.codes {
                let _ =
                    writeln!(counts, "apiserver_request_total{{{labels},code=\"{code}\"}} {count}");
            }
            let name = "apiserver_request_duration_seconds";
            for (most, count) in BUCKETS.iter().zip(seen.buckets) {
                let _ = writeln!(times, "{name}_bucket{{{labels},le=\"{most}\"}} {count}");
            }
            let _ = writeln!(times, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", seen.count);
            let _ = writeln!(times, "{name}_sum{{{labels}}} {}", seen.seconds);
            let _ = writeln!(times, "{name}_count{{{labels}}} {}", seen.count);
        }
        let watches = self.watches.load(Ordering::Relaxed);
        format!(
            "{counts}{times}# HELP apiserver_longrunning_requests Watches open.\n\
             # TYPE apiserver_longrunning_requests gauge\n\
             apiserver_longrunning_requests{{verb=\"WATCH\"}} {watches}\n"
        )
    }
}
