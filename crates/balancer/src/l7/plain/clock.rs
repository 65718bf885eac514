//! One timer for a connection, whatever is waited for.
//!
//! A timer for each read and each write is entered into the runtime's wheel and taken out again, four
//! times a request. This one stays where it is while what is waited for is later: it goes off too
//! early once in a while, and is put right then.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

#[derive(Debug)]
pub(super) struct Clock(Pin<Box<Sleep>>);

/// It took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Late;

impl Clock {
    pub(super) fn new(limit: Duration) -> Self {
        Self(Box::pin(sleep(limit)))
    }

    /// What `future` gives, if it does so within `limit`.
    pub(super) async fn within<T>(
        &mut self,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> Result<T, Late> {
        let mut future = pin!(future);
        let mut until = None;
        poll_fn(|context| {
            if let Poll::Ready(done) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(done));
            }
            // What is ready at once does not ask for the time.
            let until = *until.get_or_insert_with(|| Instant::now() + limit);
            if until < self.0.deadline() {
                self.0.as_mut().reset(until);
            }
            while self.0.as_mut().poll(context).is_ready() {
                if Instant::now() >= until {
                    return Poll::Ready(Err(Late));
                }
                self.0.as_mut().reset(until);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_wait_has_its_own_limit() {
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(60));
        let mut clock = Clock::new(short);
        let pause = || tokio::time::sleep(3 * short);
        // The timer of the first limit goes off in the second wait, which goes on.
        assert_eq!(clock.within(long, pause()).await, Ok(()));
        assert_eq!(clock.within(short, std::future::pending::<()>()).await, Err(Late));
        assert_eq!(clock.within(long, pause()).await, Ok(()));
        assert_eq!(clock.within(Duration::ZERO, async { 7 }).await, Ok(7));
        assert_eq!(clock.within(Duration::ZERO, std::future::pending::<()>()).await, Err(Late));
    }
}
