//! What each endpoint answered since this process has it: counted here, told at `/metrics` of the
//! health port, and what releases are judged by.
//!
//! Endpoints of several sets with one address share their totals. One that is gone is no more told:
//! whoever compares two looks takes what is in both.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, Weak};

/// One address' counts.
#[derive(Debug, Default)]
pub(super) struct Totals {
    answers: AtomicU64,
    failures: AtomicU64,
    took_us: AtomicU64,
}

type All = HashMap<SocketAddrV4, Weak<Totals>>;

static ALL: LazyLock<Mutex<All>> = LazyLock::new(Mutex::default);

impl Totals {
    /// Those of an address, which are kept as long as somebody has them.
    pub(super) fn of(address: SocketAddrV4) -> Arc<Self> {
        let mut all = ALL.lock().expect("no holder of the lock panics");
        if let Some(known) = all.get(&address).and_then(Weak::upgrade) {
            return known;
        }
        let made = Arc::new(Self::default());
        all.insert(address, Arc::downgrade(&made));
        made
    }

    /// An answer came after so long; failures are 500 and above, and answers that broke off.
    pub(super) fn answered(&self, good: bool, took_us: u64) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.took_us.fetch_add(took_us, Ordering::Relaxed);
        if !good {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// All of them, for Prometheus.
pub(crate) fn metrics() -> String {
    let mut known: Vec<(SocketAddrV4, Arc<Totals>)> = {
        let mut all = ALL.lock().expect("no holder of the lock panics");
        all.retain(|_, totals| totals.strong_count() > 0);
        all.iter().filter_map(|(address, totals)| Some((*address, totals.upgrade()?))).collect()
    };
    known.sort_by_key(|(address, _)| *address);
    let mut text = String::new();
    let mut series = |name: &str, help: &str, value: &dyn Fn(&Totals) -> String| {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} counter\n"));
        for (address, totals) in &known {
            text.push_str(&format!("{name}{{endpoint=\"{address}\"}} {}\n", value(totals)));
        }
    };
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    series("berth_balancer_answers_total", "Requests that an endpoint took.", &|totals| {
        count(&totals.answers).to_string()
    });
    series("berth_balancer_failures_total", "Answers of 500 and above, or none.", &|totals| {
        count(&totals.failures).to_string()
    });
    series("berth_balancer_seconds_total", "Time until answers began.", &|totals| {
        let micros = count(&totals.took_us);
        format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn an_address_is_told_once_as_long_as_it_is_there() {
        let address = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 77), 8080);
        let (one, other) = (Totals::of(address), Totals::of(address));
        one.answered(true, 1_500_000);
        other.answered(false, 250);
        let text = metrics();
        let line = |name: &str| format!("berth_balancer_{name}{{endpoint=\"{address}\"}}");
        assert!(text.contains(&format!("{} 2\n", line("answers_total"))), "{text}");
        assert!(text.contains(&format!("{} 1\n", line("failures_total"))), "{text}");
        assert!(text.contains(&format!("{} 1.500250\n", line("seconds_total"))), "{text}");
        drop((one, other));
        assert!(!metrics().contains("192.0.2.77"));
    }
}
