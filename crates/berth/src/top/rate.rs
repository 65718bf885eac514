//! What comes in a second, of what is counted since the beginning.

use jiff::Timestamp;

use super::kubelet::{Counted, Sample};

/// The rates of one container, as last known: kubelets count every ten seconds or so, and a look in
/// between tells nothing new.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// Cores.
    pub cpu: Rate<1>,
    /// Bytes read and written.
    pub bytes: Rate<2>,
    /// Reads and writes.
    pub operations: Rate<2>,
}

impl Rates {
    /// Takes in what was counted until now.
    pub fn take(&mut self, sample: &Sample) {
        let nanos = sample.cpu_nanos.as_ref();
        self.cpu.take(nanos.map(|nanos| nanos.map(|[count]| [count / 1e9])));
        self.bytes.take(sample.bytes.clone());
        self.operations.take(sample.operations.clone());
    }
}

/// `N` counters that are counted together.
#[derive(Clone, Debug, PartialEq)]
pub struct Rate<const N: usize> {
    last: Option<Counted<N>>,
    /// A second.
    pub now: Option<[f64; N]>,
}

impl<const N: usize> Default for Rate<N> {
    fn default() -> Self {
        Self { last: None, now: None }
    }
}

impl<const N: usize> Rate<N> {
    fn take(&mut self, counted: Option<Counted<N>>) {
        let Some(counted) = counted else {
            *self = Self::default();
            return;
        };
        if let Some(last) = &self.last {
            let seconds = seconds(last.at, counted.at);
            if seconds <= 0.0 {
                return;
            }
            // A container that was started anew counts from nothing.
            let grew = counted.counts.iter().zip(last.counts).all(|(now, before)| *now >= before);
            let rate = |index| (counted.counts[index] - last.counts[index]) / seconds;
            self.now = grew.then(|| std::array::from_fn(rate));
        }
        self.last = Some(counted);
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64, counts: [f64; 2]) -> Option<Counted<2>> {
        Some(Counted { at: Timestamp::from_second(second).unwrap(), counts })
    }

    #[test]
    fn a_rate_takes_two_counts_and_stays_until_the_next() {
        let mut rate = Rate::default();
        let mut check = |counted, expected: Option<[f64; 2]>| {
            rate.take(counted);
            assert_eq!(rate.now, expected);
        };
        check(at(0, [10.0, 0.0]), None);
        check(at(10, [110.0, 5.0]), Some([10.0, 0.5]));
        // The kubelet has not counted again.
        check(at(10, [110.0, 5.0]), Some([10.0, 0.5]));
        check(at(20, [110.0, 5.0]), Some([0.0, 0.0]));
        // Started anew.
        check(at(30, [1.0, 5.0]), None);
        check(at(31, [3.0, 5.0]), Some([2.0, 0.0]));
        check(None, None);
        check(at(40, [9.0, 9.0]), None);
    }
}
