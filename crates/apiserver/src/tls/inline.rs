//! Answers that need no waiting, made where their request was read.
//!
//! hyper spawns a task for every stream of HTTP/2. Most requests of a cluster are answered from
//! memory: for these the task costs as much as the answer, and each wakes its connection for
//! itself, which then writes them out one by one. Here a stream's future is polled once before it
//! becomes a task; what is ready by then goes out in one write with its neighbours. Requests that
//! take a while to work on let go of that first turn by themselves (`Core::handle`), so that one
//! connection's work is still shared by all processors.

use std::future::Future;
use std::task::{Context, Poll, Waker};

use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;

/// Polls once, spawns what waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inline;

impl<F> Executor<F> for Inline
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        let mut future = Box::pin(future);
        // Being woken through this one is no loss: a task polls anew when it starts.
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(_) => {}
            Poll::Pending => TokioExecutor::new().execute(future),
        }
    }
}
