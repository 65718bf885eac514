//! Weights of the sites (clusters) of a route, and how they move.
//!
//! New weights take effect at once, or in steps: each step moves every weight by the same part of
//! its way. A site whose endpoints fail loses its share by itself: with fewer than five usable
//! endpoints in seven it loses in proportion, with none it gets nothing. (Envoy's
//! overprovisioning factor; CreditEase moved two sites behind one nginx by hand.)

use std::time::Duration;

/// A site keeps its whole share while this part of its endpoints, in thousandths, is usable.
const ENOUGH: u64 = 714;

/// How weights move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Of the way, at each step; 0 or 100 is all at once.
    pub(crate) step_percent: u32,
    /// Between two steps; the first is taken at once.
    pub(crate) every: Duration,
}

/// Weights on their way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moving {
    from: Vec<u32>,
    to: Vec<u32>,
    begun_us: u64,
    pace: Pace,
}

impl Moving {
    /// From `from`, where a site that was not there had nothing, to `to`.
    pub(crate) fn new(from: Vec<u32>, to: Vec<u32>, pace: Pace, begun_us: u64) -> Self {
        let from = if from.len() == to.len() { from } else { to.clone() };
        Self { from, to, begun_us, pace }
    }

    pub(crate) fn towards(&self) -> (&[u32], Pace) {
        (&self.to, self.pace)
    }

    /// The weight of site `index`.
    pub(crate) fn at(&self, index: usize, now_us: u64) -> u32 {
        let (from, to) = (u64::from(self.from[index]), u64::from(self.to[index]));
        let done = self.done_percent(now_us);
        u32::try_from((from * (100 - done) + to * done) / 100).unwrap_or(u32::MAX)
    }

    fn done_percent(&self, now_us: u64) -> u64 {
        let step = u64::from(self.pace.step_percent);
        let every = u64::try_from(self.pace.every.as_micros()).unwrap_or(u64::MAX);
        if step == 0 || every == 0 {
            return 100;
        }
        let steps = now_us.saturating_sub(self.begun_us) / every + 1;
        steps.saturating_mul(step).min(100)
    }
}

/// What a site of this weight counts with `usable` of `total` endpoints, in thousandths.
pub(crate) fn effective(weight: u32, usable: usize, total: usize) -> u64 {
    if usable == 0 || total == 0 {
        return 0;
    }
    let part = (usable as u64 * 1000 / total as u64).max(1);
    u64::from(weight) * (part * 1000 / ENOUGH).min(1000)
}

/// Which of `weights` a draw falls on; `None` when all are 0.
pub(crate) fn draw(weights: impl Iterator<Item = u64> + Clone, random: u64) -> Option<usize> {
    let total: u64 = weights.clone().sum();
    if total == 0 {
        return None;
    }
    let mut left = random % total;
    weights.enumerate().find_map(|(index, weight)| {
        if left < weight {
            return Some(index);
        }
        left -= weight;
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_move_in_steps_or_at_once() {
        let pace = Pace { step_percent: 25, every: Duration::from_secs(60) };
        let moving = Moving::new(vec![100, 0], vec![20, 80], pace, 1_000_000);
        let at =
            |s: u64| [moving.at(0, 1_000_000 + s * 1_000_000), moving.at(1, (s + 1) * 1_000_000)];
        for (second, expected) in
            [(0, [80, 20]), (59, [80, 20]), (60, [60, 40]), (120, [40, 60]), (180, [20, 80])]
        {
            assert_eq!(at(second), expected, "{second} s");
        }
        assert_eq!(at(100_000), [20, 80]);
        let at_once = Moving::new(vec![100, 0], vec![0, 100], Pace::default(), 5);
        assert_eq!([at_once.at(0, 5), at_once.at(1, 5)], [0, 100]);
    }

    #[test]
    fn a_failing_site_loses_its_share() {
        for (usable, total, expected) in [
            (10, 10, 100_000),
            (8, 10, 100_000),
            (5, 10, 70_000),
            (1, 10, 14_000),
            (0, 10, 0),
            (0, 0, 0),
        ] {
            assert_eq!(effective(100, usable, total), expected, "{usable}/{total}");
        }
    }

    #[test]
    fn draws_follow_the_weights() {
        let mut counts = [0; 3];
        for random in 0..1000 {
            counts[draw([70, 0, 30].into_iter(), random).unwrap()] += 1;
        }
        assert_eq!(counts, [700, 0, 300]);
        assert_eq!(draw([0, 0].into_iter(), 7), None);
    }
}
