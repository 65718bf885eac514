//! Requests counted and timed, in Prometheus' text form.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use crate::path::Target;

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

impl Series {
    fn of(target: &Target) -> Self {
        let [_, group, resource, subresource] = words(target).map(str::to_owned);
        Self { verb: target.verb.to_ascii_uppercase(), group, resource, subresource }
    }

    fn is_of(&self, target: &Target) -> bool {
        let [verb, group, resource, subresource] = words(target);
        self.verb.eq_ignore_ascii_case(verb)
            && self.resource == resource
            && self.group == group
            && self.subresource == subresource
    }
}

/// What tells series apart.
fn words(target: &Target) -> [&str; 4] {
    let of = |text| if target.is_resource { text } else { "" };
    [&target.verb, of(&target.group), of(&target.resource), of(&target.subresource)]
}

/// A series' figures; counted without a lock.
#[derive(Debug)]
struct Seen {
    series: Series,
    codes: Mutex<BTreeMap<u16, AtomicU64>>,
    /// The code that nearly all have, beside the map of the others.
    usual: (u16, AtomicU64),
    /// How many took no longer than each and longer than the one before.
    buckets: [AtomicU64; BUCKETS.len()],
    micros: AtomicU64,
    count: AtomicU64,
}

impl Seen {
    fn new(series: Series, code: u16) -> Self {
        Self {
            series,
            codes: Mutex::default(),
            usual: (code, AtomicU64::new(0)),
            buckets: Default::default(),
            micros: AtomicU64::new(0),
            count: AtomicU64::new(0),
        }
    }

    fn count(&self, code: u16, took: Duration) {
        let add = |to: &AtomicU64, what: u64| {
            to.fetch_add(what, Ordering::Relaxed);
        };
        if code == self.usual.0 {
            add(&self.usual.1, 1);
        } else {
            let mut codes = self.codes.lock().expect("nothing panics while holding it");
            add(codes.entry(code).or_default(), 1);
        }
        let seconds = took.as_secs_f64();
        if let Some(bucket) = BUCKETS.iter().position(|most| seconds <= *most) {
            add(&self.buckets[bucket], 1);
        }
        add(&self.micros, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        add(&self.count, 1);
    }
}

/// What `/metrics` shows.
#[derive(Default)]
pub(crate) struct Metrics {
    /// By a hash of what tells them apart; several of one hash stand beside each other.
    series: RwLock<HashMap<u64, Vec<Arc<Seen>>>>,
    hasher: RandomState,
    watches: AtomicI64,
    /// What else this process counts, by those who count it.
    others: RwLock<Vec<fn() -> String>>,
}

/// Counts a watch as open until it is dropped.
pub(crate) struct OpenWatch(Arc<Metrics>);

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.watches.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(crate) fn watch(self: &Arc<Self>) -> OpenWatch {
        self.watches.fetch_add(1, Ordering::Relaxed);
        OpenWatch(self.clone())
    }

    /// Shows what `other` renders too, after its own.
    pub(crate) fn also(&self, other: fn() -> String) {
        self.others.write().expect("nothing panics while holding it").push(other);
    }

    /// Counts one request that was answered.
    pub(crate) fn count(&self, target: &Target, code: u16, took: Duration) {
        let hash = self.hasher.hash_one(words(target));
        let find = |series: &HashMap<u64, Vec<Arc<Seen>>>| {
            let places = series.get(&hash)?;
            places.iter().find(|seen| seen.series.is_of(target)).cloned()
        };
        let known = find(&self.series.read().expect("nothing panics while holding it"));
        let seen = match known {
            Some(seen) => seen,
            None => {
                let mut series = self.series.write().expect("nothing panics while holding it");
                match find(&series) {
                    Some(seen) => seen,
                    None if series.len() >= SERIES => return,
                    None => {
                        let seen = Arc::new(Seen::new(Series::of(target), code));
                        series.entry(hash).or_default().push(seen.clone());
                        seen
                    }
                }
            }
        };
        seen.count(code, took);
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
        let series = self.series.read().expect("nothing panics while holding it");
        let mut all: Vec<&Arc<Seen>> = series.values().flatten().collect();
        all.sort_by(|a, b| a.series.cmp(&b.series));
        let get = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        for seen in all {
            let key = &seen.series;
            let labels = format!(
                "verb={:?},group={:?},resource={:?},subresource={:?}",
                key.verb, key.group, key.resource, key.subresource
            );
            let others = seen.codes.lock().expect("nothing panics while holding it");
            let mut codes: BTreeMap<u16, u64> =
                others.iter().map(|(code, count)| (*code, get(count))).collect();
            codes.insert(seen.usual.0, get(&seen.usual.1));
            for (code, count) in &codes {
                let _ =
                    writeln!(counts, "apiserver_request_total{{{labels},code=\"{code}\"}} {count}");
            }
            let name = "apiserver_request_duration_seconds";
            let (mut below, count) = (0, get(&seen.count));
            for (most, bucket) in BUCKETS.iter().zip(&seen.buckets) {
                below += get(bucket);
                let _ = writeln!(times, "{name}_bucket{{{labels},le=\"{most}\"}} {below}");
            }
            let _ = writeln!(times, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
            let _ = writeln!(times, "{name}_sum{{{labels}}} {}", get(&seen.micros) as f64 / 1e6);
            let _ = writeln!(times, "{name}_count{{{labels}}} {count}");
        }
        let watches = self.watches.load(Ordering::Relaxed);
        let others = self.others.read().expect("nothing panics while holding it").clone();
        let others: String = others.into_iter().map(|other| other()).collect();
        format!(
            "{counts}{times}# HELP apiserver_longrunning_requests Watches open.\n\
             # TYPE apiserver_longrunning_requests gauge\n\
             apiserver_longrunning_requests{{verb=\"WATCH\"}} {watches}\n{others}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_what_they_ask() {
        let metrics = Metrics::default();
        let target = |verb: &str, resource: &str| Target {
            is_resource: true,
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            ..Target::default()
        };
        for (verb, code, millis) in [("get", 200, 2), ("get", 404, 2), ("get", 200, 9_000)] {
            metrics.count(&target(verb, "pods"), code, Duration::from_millis(millis));
        }
        metrics.count(&target("list", "pods"), 200, Duration::ZERO);
        metrics.also(|| "scheduler_pending_pods 3\n".to_owned());
        let shown = metrics.render();
        let get = "verb=\"GET\",group=\"\",resource=\"pods\",subresource=\"\"";
        for line in [
            "scheduler_pending_pods 3".to_owned(),
            format!("apiserver_request_total{{{get},code=\"200\"}} 2"),
            format!("apiserver_request_total{{{get},code=\"404\"}} 1"),
            format!("apiserver_request_duration_seconds_bucket{{{get},le=\"0.001\"}} 0"),
            format!("apiserver_request_duration_seconds_bucket{{{get},le=\"5\"}} 2"),
            format!("apiserver_request_duration_seconds_bucket{{{get},le=\"+Inf\"}} 3"),
            format!("apiserver_request_duration_seconds_sum{{{get}}} 9.004"),
        ] {
            assert!(shown.lines().any(|own| own == line), "{line} in {shown}");
        }
    }
}
