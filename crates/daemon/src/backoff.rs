//! Waiting longer after each failure, with jitter, so that retries never come in step.

use std::time::Duration;

/// Doubles from `first` to `most`; each wait is shortened by up to a quarter at random.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first`, never waits longer than `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The next wait; the one after is twice as long.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.most);
        delay - delay.mul_f64(jitter() / 4.0)
    }

    /// Begins anew after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// In 0.0..1.0, from the standard library's per-instance hash seed: no generator to carry.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, Hasher};
    let bits = std::hash::RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_most_and_start_anew_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for upper in [1, 2, 4, 5, 5] {
            let delay = backoff.next_delay();
            assert!(delay <= Duration::from_secs(upper), "{delay:?} over {upper}s");
            assert!(delay >= Duration::from_secs(upper).mul_f64(0.75), "{delay:?} of {upper}s");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_secs(1));
    }
}
