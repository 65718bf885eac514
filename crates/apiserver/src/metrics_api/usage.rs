//! From two readings of a node to what it uses. Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// What something uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Usage {
    pub at: Timestamp,
    /// What the CPU rate was measured over.
    pub window: SignedDuration,
    pub cpu_nanocores: u64,
    pub memory_bytes: u64,
}

impl Usage {
    /// The window as Go writes durations.
    pub(super) fn window_text(&self) -> String {
        let millis = self.window.as_millis().max(0);
        let (minutes, rest) = (millis / 60_000, millis % 60_000);
        let (whole, parts) = (rest / 1000, rest % 1000);
        let minutes = if minutes > 0 { format!("{minutes}m") } else { String::new() };
        let parts = if parts > 0 {
            format!(".{parts:03}").trim_end_matches('0').to_owned()
        } else {
            String::new()
        };
        format!("{minutes}{whole}{parts}s")
    }
}

/// A counter as it was read.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Counter {
    at: Timestamp,
    cpu_nanos: u64,
    memory_bytes: u64,
}

impl Counter {
    fn read(stats: &Value) -> Option<Self> {
        Some(Self {
            at: stats["cpu"]["time"].as_str()?.parse().ok()?,
            cpu_nanos: stats["cpu"]["usageCoreNanoSeconds"].as_u64()?,
            memory_bytes: stats["memory"]["workingSetBytes"].as_u64()?,
        })
    }

    /// The rate since `before`; none when it began anew or no time has passed.
    fn since(&self, before: &Self) -> Option<Usage> {
        let window = self.at.duration_since(before.at);
        let nanos = u128::try_from(window.as_nanos()).ok().filter(|nanos| *nanos > 0)?;
        let used = u128::from(self.cpu_nanos.checked_sub(before.cpu_nanos)?);
        let rate = u64::try_from(used * 1_000_000_000 / nanos).ok()?;
        let Self { at, memory_bytes, .. } = *self;
        Some(Usage { at, window, cpu_nanocores: rate, memory_bytes })
    }
}

/// The counters of a node's last reading, and the rates to the one before.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    counters: BTreeMap<(String, String), Counter>,
    node_counter: Option<Counter>,
    /// None until it was read twice.
    pub node: Option<Usage>,
    /// By UID, then by container; only pods all of whose containers were read twice.
    pub pods: BTreeMap<String, BTreeMap<String, Usage>>,
}

impl Reading {
    /// The next reading, from a summary.
    pub(super) fn next(&self, summary: &Value) -> Self {
        let mut next = Self { node_counter: Counter::read(&summary["node"]), ..Self::default() };
        next.node = next.node_counter.and_then(|now| match &self.node_counter {
            Some(before) if before.at == now.at => self.node,
            Some(before) => now.since(before),
            None => None,
        });
        for pod in summary["pods"].as_array().into_iter().flatten() {
            let uid = pod["podRef"]["uid"].as_str().unwrap_or_default();
            let mut usages = BTreeMap::new();
            let mut complete = true;
            for container in pod["containers"].as_array().into_iter().flatten() {
                let name = container["name"].as_str().unwrap_or_default();
                let Some(counter) = Counter::read(container) else { continue };
                let key = (uid.to_owned(), name.to_owned());
                let known = || self.pods.get(uid)?.get(name).copied();
                let usage = match self.counters.get(&key) {
                    // The runtime has not counted anew since.
                    Some(before) if before.at == counter.at => known(),
                    Some(before) => counter.since(before),
                    None => None,
                };
                complete &= usage.is_some();
                usages.extend(usage.map(|usage| (name.to_owned(), usage)));
                next.counters.insert(key, counter);
            }
            if complete && !usages.is_empty() {
                next.pods.insert(uid.to_owned(), usages);
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stats(second: i64, cpu_nanos: u64, memory: u64) -> Value {
        let time = Timestamp::from_second(second).unwrap().to_string();
        json!({
            "name": "a",
            "cpu": { "time": time, "usageCoreNanoSeconds": cpu_nanos },
            "memory": { "time": time, "workingSetBytes": memory },
        })
    }

    fn summary(node: Value, containers: Vec<Value>) -> Value {
        json!({ "node": node, "pods": [
            { "podRef": { "uid": "u" }, "containers": containers } ] })
    }

    #[test]
    fn two_readings_make_a_rate() {
        let first = summary(stats(100, 50_000_000_000, 1), vec![stats(100, 1_000_000_000, 2)]);
        let once = Reading::default().next(&first);
        assert!(once.node.is_none() && once.pods.is_empty());
        let second = summary(stats(110, 55_000_000_000, 3), vec![stats(110, 1_500_000_000, 4)]);
        let twice = once.next(&second);
        let node = twice.node.unwrap();
        assert_eq!((node.cpu_nanocores, node.memory_bytes), (500_000_000, 3));
        let container = twice.pods["u"]["a"];
        assert_eq!((container.cpu_nanocores, container.memory_bytes), (50_000_000, 4));
        assert_eq!(container.window_text(), "10s");
        // Asked again before the runtime counted anew: the same as before.
        assert_eq!(twice.next(&second).pods, twice.pods);
    }

    #[test]
    fn a_container_that_began_anew_has_no_rate_yet() {
        let first = summary(stats(100, 5, 1), vec![stats(100, 1_000_000_000, 2)]);
        let again = summary(stats(110, 9, 1), vec![stats(110, 10, 2)]);
        let reading = Reading::default().next(&first).next(&again);
        assert!(reading.node.is_some() && reading.pods.is_empty());
    }

    #[test]
    fn windows_are_written_as_go_writes_them() {
        let check = |millis: i64, expected: &str| {
            let usage = Usage {
                at: Timestamp::UNIX_EPOCH,
                window: SignedDuration::from_millis(millis),
                cpu_nanocores: 0,
                memory_bytes: 0,
            };
            assert_eq!(usage.window_text(), expected);
        };
        check(15_000, "15s");
        check(14_872, "14.872s");
        check(60_500, "1m0.5s");
    }
}
