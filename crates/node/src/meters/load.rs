//! How many tasks want a processor or wait for a disk, averaged as the kernel averages a machine's.

use std::time::Duration;

/// 1, 5 and 15 minutes, in seconds.
const OVER: [f64; 3] = [60.0, 300.0, 900.0];

/// Exponentially decaying means over 1, 5 and 15 minutes.
///
/// Tasks above a CPU limit wait for a processor and count: a load above the limit's cores says that
/// the limit is felt.
///
/// # Source
/// `calc_load` of Linux's kernel/sched/loadavg.c, with e^(-seconds/60) where that has a number for
/// five seconds alone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Load(pub [f64; 3]);

impl Load {
    /// Takes in that `active` tasks were found `since` the last time.
    pub fn count(&mut self, active: u64, since: Duration) {
        for (mean, over) in self.0.iter_mut().zip(OVER) {
            let kept = (-since.as_secs_f64() / over).exp();
            *mean = *mean * kept + active as f64 * (1.0 - kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE: Duration = Duration::from_secs(5);

    fn after(active: u64, minutes: u32) -> [f64; 3] {
        let mut load = Load::default();
        (0..minutes * 12).for_each(|_| load.count(active, FIVE));
        load.0
    }

    #[test]
    fn a_load_comes_as_the_kernel_lets_it_come() {
        // The kernel's numbers for five seconds, in 2048ths.
        let mut load = Load::default();
        load.count(1, FIVE);
        for (mean, kept) in load.0.iter().zip([1884.0, 2014.0, 2037.0]) {
            assert!((1.0 - mean - kept / 2048.0).abs() < 0.001, "{mean}");
        }
        let within = |found: f64, wanted: f64| {
            assert!((found - wanted).abs() < 0.001, "{found}, {wanted} wanted");
        };
        // One minute is one time constant: 1 - 1/e.
        within(after(2, 1)[0], 2.0 * 0.6321);
        within(after(1, 5)[1], 0.6321);
        within(after(1, 15)[2], 0.6321);
    }

    #[test]
    fn a_load_goes_when_nothing_is_to_be_done() {
        let mut load = Load([4.0; 3]);
        (0..12).for_each(|_| load.count(0, FIVE));
        let [one, five, fifteen] = load.0;
        assert!(one < 1.5 && one < five && five < fifteen && fifteen < 4.0, "{load:?}");
    }

    #[test]
    fn a_late_look_counts_as_much_as_those_that_were_missed() {
        let (mut late, mut regular) = (Load::default(), Load::default());
        late.count(3, FIVE * 4);
        (0..4).for_each(|_| regular.count(3, FIVE));
        for (a, b) in late.0.iter().zip(regular.0) {
            assert!((a - b).abs() < 1e-9);
        }
    }
}
