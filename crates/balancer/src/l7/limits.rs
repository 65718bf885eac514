//! How many requests an endpoint or a route takes: at once, and a second.
//!
//! Rates are kept by the generic cell rate algorithm (ITU-T I.371): one atomic number, the time at
//! which the next request would be exactly on schedule. No lock, no timer, no tokens to refill.
//!
//! [`Load`] is Mogujie's rule: an endpoint says in a header of its answers how loaded it is; past
//! the threshold it gets fewer requests, the more loaded the fewer, down to a limit per second.

use std::sync::atomic::{AtomicU64, Ordering};

/// Requests that may come at once after a quiet time, as a part of the rate: 100 ms' worth.
const BURST_US: u64 = 100_000;
/// A value that was not heard again for so long says nothing any more.
const LOAD_HOLDS_US: u64 = 10_000_000;

/// What is allowed; 0 is no limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    /// Requests open at one endpoint.
    pub(crate) open: usize,
    /// Requests a second to one endpoint.
    pub(crate) rate: u32,
    /// Requests open on the whole route.
    pub(crate) route_open: usize,
    /// Requests a second on the whole route.
    pub(crate) route_rate: u32,
    pub(crate) load: Option<Threshold>,
}

/// When an endpoint is overloaded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Threshold {
    /// The header of an answer that carries the value, in lower case.
    pub(crate) header: String,
    /// Above this an endpoint gets fewer requests.
    pub(crate) value: f32,
    /// From here on it gets the least there is.
    pub(crate) full: f32,
    /// That least: requests a second.
    pub(crate) floor: u32,
}

/// A limit per second. The default has none.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    /// When the next request is due, µs.
    due_us: AtomicU64,
}

impl Rate {
    /// Takes one of `per_second`; false when there is none left now. 0 is no limit.
    pub(crate) fn take(&self, per_second: u32, now_us: u64) -> bool {
        if per_second == 0 {
            return true;
        }
        let step = (1_000_000 / u64::from(per_second)).max(1);
        let ahead = BURST_US.max(step);
        let taken = self.due_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |due| {
            let due = due.max(now_us);
            (due + step <= now_us + ahead).then_some(due + step)
        });
        taken.is_ok()
    }
}

/// What an endpoint said of its load last.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// The bits of an `f32` above, below the second when it was said.
    said: AtomicU64,
    floor: Rate,
}

impl Load {
    /// Takes the text of the header; what is no number is passed over.
    pub(crate) fn hear(&self, text: &[u8], now_us: u64) {
        let value = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse::<f32>().ok());
        if let Some(value) = value.filter(|value| value.is_finite() && *value >= 0.0) {
            let second = u64::from(u32::try_from(now_us / 1_000_000).unwrap_or(u32::MAX));
            self.said.store(u64::from(value.to_bits()) << 32 | second, Ordering::Relaxed);
        }
    }

    /// Whether a request may go here, given an even draw.
    pub(crate) fn admits(&self, threshold: &Threshold, now_us: u64, draw: u32) -> bool {
        let said = self.said.load(Ordering::Relaxed);
        let heard_us = (said & u64::from(u32::MAX)) * 1_000_000;
        if said == 0 || now_us > heard_us + LOAD_HOLDS_US {
            return true;
        }
        let bits = u32::try_from(said >> 32).unwrap_or_default();
        let share = share(f32::from_bits(bits), threshold);
        f64::from(draw) < share * f64::from(u32::MAX) || {
            share < 1.0 && threshold.floor > 0 && self.floor.take(threshold.floor, now_us)
        }
    }
}

/// The part of its requests that an endpoint with this load still gets.
fn share(load: f32, threshold: &Threshold) -> f64 {
    if load <= threshold.value {
        return 1.0;
    }
    let span = f64::from(threshold.full) - f64::from(threshold.value);
    if span <= 0.0 {
        return 0.0;
    }
    (1.0 - (f64::from(load) - f64::from(threshold.value)) / span).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threshold() -> Threshold {
        Threshold { header: "x-load".into(), value: 0.5, full: 1.0, floor: 10 }
    }

    #[test]
    fn a_rate_holds_and_allows_a_tenth_of_a_second_at_once() {
        let rate = Rate::default();
        let start = 5_000_000;
        assert_eq!((0..1000).filter(|_| rate.take(100, start)).count(), 10);
        let later = (0..1_000_000).step_by(1000).filter(|us| rate.take(100, start + us)).count();
        assert!((99..=101).contains(&later), "{later}");
        // Slower than ten a second: still one at a time.
        let slow = Rate::default();
        assert!(slow.take(1, start) && !slow.take(1, start + 999_999));
        assert!(slow.take(1, start + 1_000_000));
        assert!((0..1000).all(|_| rate.take(0, start)));
    }

    #[test]
    fn the_share_falls_between_threshold_and_full() {
        for (load, expected) in [(0.0, 1.0), (0.5, 1.0), (0.75, 0.5), (1.0, 0.0), (7.0, 0.0)] {
            assert!((share(load, &threshold()) - expected).abs() < 1e-6, "{load}");
        }
    }

    #[test]
    fn an_overloaded_endpoint_gets_its_floor_and_no_more() {
        let load = Load::default();
        let admitted = |from_us: u64| {
            let draws = (0..1_000_000).step_by(500).zip((0..u32::MAX).step_by(2_147_483));
            draws.filter(|(us, draw)| load.admits(&threshold(), from_us + us, *draw)).count()
        };
        assert_eq!(admitted(1_000_000), 2000);
        load.hear(b"0.75", 2_000_000);
        // Half of them, and ten.
        assert!((1000..1015).contains(&admitted(2_000_000)), "{}", admitted(2_000_000));
        load.hear(b" 3.5 ", 4_000_000);
        assert!((10..=12).contains(&admitted(4_000_000)));
        load.hear(b"nonsense", 5_000_000);
        load.hear(b"-1", 5_000_000);
        load.hear(b"NaN", 5_000_000);
        assert!((10..=12).contains(&admitted(5_500_000)));
        // Silence is no load.
        assert_eq!(admitted(20_000_000), 2000);
    }
}
