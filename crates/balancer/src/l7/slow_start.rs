//! How much of its share a new endpoint gets.
//!
//! A process that has just started has cold caches and unfilled pools. Its share grows in a
//! straight line over the window, from a tenth: with nothing at all it would never warm up.
//! The idea is HAProxy's `slowstart` and Envoy's slow start mode.

use std::time::Duration;

/// All of it, in thousandths.
pub(super) const WHOLE: u64 = 1000;
/// What an endpoint gets in its first moment, in thousandths.
const LEAST: u64 = 100;

/// The share, in thousandths, of an endpoint that is `age_us` old.
pub(super) fn share(age_us: u64, window: Duration) -> u64 {
    let window = u64::try_from(window.as_micros()).unwrap_or(u64::MAX);
    if age_us >= window {
        return WHOLE;
    }
    // Below the window, so the product fits for any window under 500,000 years.
    LEAST + age_us.saturating_mul(WHOLE - LEAST) / window
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_in_a_straight_line() {
        let window = Duration::from_secs(10);
        for (age_s, expected) in [(0, 100), (1, 190), (5, 550), (9, 910), (10, 1000), (99, 1000)] {
            assert_eq!(share(age_s * 1_000_000, window), expected, "{age_s} s");
        }
        assert_eq!(share(0, Duration::ZERO), WHOLE);
    }
}
