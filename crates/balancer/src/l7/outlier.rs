//! Which endpoints are passed over because of how they answered.
//!
//! Two rules: so many failures in a row (a connection that was refused, or an answer of 500 and
//! above), and a rate of good answers far below the others'. Each ejection lasts longer than the
//! one before. A floor keeps a fault that all share from ejecting all.
//!
//! The idea, and the words, are Envoy's outlier detection; the statistics too.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// An endpoint's ejections are doubled in length at most so often.
const LONGEST: u32 = 6;
/// Requests in one interval below which a rate says nothing.
const VOLUME: u32 = 50;
/// Endpoints with that volume below which a mean says nothing.
const COMPANY: usize = 3;

/// When an endpoint is ejected.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// Answers of 500 and above in a row; 0 for never.
    pub(crate) errors: u32,
    /// Failed connections in a row; 0 for never.
    pub(crate) connects: u32,
    /// Below the mean by so many standard deviations; `None` for never.
    pub(crate) deviations: Option<f64>,
    /// How often rates are compared.
    pub(crate) interval: Duration,
    /// How long the first ejection lasts.
    pub(crate) ejection: Duration,
    /// At most this part of a route's endpoints is ejected.
    pub(crate) most_percent: u32,
    /// With fewer usable endpoints than this part, all get requests.
    pub(crate) panic_percent: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            errors: 0,
            connects: 5,
            deviations: None,
            interval: Duration::from_secs(10),
            ejection: Duration::from_secs(10),
            most_percent: 50,
            panic_percent: 50,
        }
    }
}

/// What is counted of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    errors: AtomicU32,
    connects: AtomicU32,
    good: AtomicU32,
    bad: AtomicU32,
    ejections: AtomicU32,
    ejected_until_us: AtomicU64,
}

impl Counts {
    /// Counts an answer; true when the endpoint should be ejected for it.
    pub(crate) fn answered(&self, good: bool, settings: &Settings) -> bool {
        self.connects.store(0, Ordering::Relaxed);
        if good {
            self.errors.store(0, Ordering::Relaxed);
            self.good.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.bad.fetch_add(1, Ordering::Relaxed);
        let in_a_row = self.errors.fetch_add(1, Ordering::Relaxed) + 1;
        settings.errors > 0 && in_a_row >= settings.errors
    }

    /// Counts a failed connection; true when the endpoint should be ejected for it.
    pub(crate) fn refused(&self, settings: &Settings) -> bool {
        self.bad.fetch_add(1, Ordering::Relaxed);
        let in_a_row = self.connects.fetch_add(1, Ordering::Relaxed) + 1;
        settings.connects > 0 && in_a_row >= settings.connects
    }

    pub(crate) fn is_ejected(&self, now_us: u64) -> bool {
        self.ejected_until_us.load(Ordering::Relaxed) > now_us
    }

    /// Ejects for longer than the last time.
    pub(crate) fn eject(&self, settings: &Settings, now_us: u64) {
        let before = self.ejections.fetch_add(1, Ordering::Relaxed).min(LONGEST);
        let first = u64::try_from(settings.ejection.as_micros()).unwrap_or(u64::MAX);
        let until = now_us.saturating_add(first.saturating_mul(1 << before));
        self.ejected_until_us.store(until, Ordering::Relaxed);
        self.errors.store(0, Ordering::Relaxed);
        self.connects.store(0, Ordering::Relaxed);
    }

    /// The answers since the last call. A whole interval of good ones makes an ejection forgotten.
    pub(crate) fn interval(&self) -> (u32, u32) {
        let good = self.good.swap(0, Ordering::Relaxed);
        let bad = self.bad.swap(0, Ordering::Relaxed);
        if good > 0 && bad == 0 {
            let fewer = |ejections: u32| Some(ejections.saturating_sub(1));
            let _ = self.ejections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
        }
        (good, bad)
    }
}

/// Whether one more of `total` may be ejected: within the floor, and never the last one.
pub(crate) fn may_eject(ejected: usize, total: usize, settings: &Settings) -> bool {
    let most = total * usize::try_from(settings.most_percent.min(100)).unwrap_or(100) / 100;
    // One of two or three may go even where the percentage rounds to none.
    let most = if settings.most_percent > 0 { most.max(1) } else { 0 };
    ejected < most.min(total.saturating_sub(1))
}

/// Whether so few of `total` are usable that health is passed over.
pub(crate) fn is_panic(usable: usize, total: usize, settings: &Settings) -> bool {
    usable * 100 < total * usize::try_from(settings.panic_percent.min(100)).unwrap_or(100)
}

/// Those of (good, bad) whose rate is far below the others', worst first.
pub(crate) fn outliers(intervals: &[(u32, u32)], settings: &Settings) -> Vec<usize> {
    let Some(deviations) = settings.deviations else { return Vec::new() };
    let rates = intervals.iter().enumerate().filter_map(|(index, (good, bad))| {
        let all = good.saturating_add(*bad);
        (all >= VOLUME).then(|| (index, f64::from(*good) / f64::from(all)))
    });
    let rates: Vec<(usize, f64)> = rates.collect();
    if rates.len() < COMPANY {
        return Vec::new();
    }
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
    let least = mean - deviations * variance.sqrt();
    let mut below: Vec<_> = rates.into_iter().filter(|(_, rate)| *rate < least - 1e-9).collect();
    below.sort_by(|a, b| a.1.total_cmp(&b.1));
    below.into_iter().map(|(index, _)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_count_and_a_good_answer_forgives() {
        let settings = Settings { errors: 3, ..Settings::default() };
        let counts = Counts::default();
        let seen = [false, false, true, false, false, false];
        let asked: Vec<_> = seen.iter().map(|good| counts.answered(*good, &settings)).collect();
        assert_eq!(asked, [false, false, false, false, false, true]);
        assert_eq!((0..5).filter(|_| counts.refused(&settings)).count(), 1);
        let never = Settings { errors: 0, connects: 0, ..Settings::default() };
        assert!((0..100).all(|_| !counts.answered(false, &never) && !counts.refused(&never)));
    }

    #[test]
    fn each_ejection_lasts_longer_until_an_interval_is_good() {
        let settings = Settings::default();
        let counts = Counts::default();
        let mut now = 1_000_000;
        for length_s in [10, 20, 40, 80, 160, 320, 640, 640] {
            counts.eject(&settings, now);
            assert!(counts.is_ejected(now + length_s * 1_000_000 - 1));
            now += length_s * 1_000_000;
            assert!(!counts.is_ejected(now), "{length_s}");
        }
        for _ in 0..8 {
            counts.answered(true, &settings);
            counts.interval();
        }
        counts.eject(&settings, now);
        assert!(!counts.is_ejected(now + 10_000_000));
    }

    #[test]
    fn the_floor_holds() {
        let percent = |most_percent| Settings { most_percent, ..Settings::default() };
        let most = |total: usize, settings: &Settings| {
            (0..).find(|ejected| !may_eject(*ejected, total, settings)).unwrap()
        };
        for (total, most_percent, expected) in
            [(1, 100, 0), (2, 10, 1), (3, 50, 1), (10, 50, 5), (10, 100, 9), (10, 0, 0), (0, 50, 0)]
        {
            assert_eq!(most(total, &percent(most_percent)), expected, "{total} {most_percent}");
        }
        assert!(is_panic(4, 10, &percent(50)) && !is_panic(5, 10, &percent(50)));
        assert!(!is_panic(0, 0, &percent(50)));
    }

    #[test]
    fn a_rate_far_below_the_others_is_an_outlier() {
        let settings = Settings { deviations: Some(1.9), ..Settings::default() };
        let mut intervals = vec![(100, 0); 9];
        assert_eq!(outliers(&intervals, &settings), [] as [usize; 0]);
        intervals.push((50, 50));
        assert_eq!(outliers(&intervals, &settings), [9]);
        // Too few requests to say.
        intervals[9] = (5, 5);
        assert_eq!(outliers(&intervals, &settings), [] as [usize; 0]);
        // All equally bad.
        assert_eq!(outliers(&[(50, 50); 10], &settings), [] as [usize; 0]);
        assert_eq!(outliers(&[(100, 0), (0, 100)], &settings), [] as [usize; 0]);
        assert_eq!(outliers(&[(0, 100), (100, 0), (100, 0)], &Settings::default()).len(), 0);
    }
}
