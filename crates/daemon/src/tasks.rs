//! The group that all tasks of a process belong to.
//!
//! A bare `tokio::spawn` is banned by clippy.toml: a task outside the group survives the drain, and
//! its panic goes unseen. Here a task that panics stops the whole process.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A group of tasks that are stopped together. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    token: CancellationToken,
    tracker: TaskTracker,
    panicked: Arc<AtomicBool>,
}

/// How a group ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Every task returned before the deadline.
    Drained,
    /// Some were still running at the deadline; the runtime aborts them when it is dropped.
    Aborted,
}

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `task` until it returns; it is expected to watch [`Tasks::stopping`].
    ///
    /// A panic in it stops the group: half a process is worse than none.
    #[allow(clippy::disallowed_methods)] // the one place that may
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let watched = PanicStops { name, group: self.clone(), finished: false };
        self.tracker.spawn(async move {
            let mut watched = watched;
            task.await;
            watched.finished = true;
        });
    }

    /// Runs `task` until it returns or the group is told to stop, whichever is first.
    pub fn spawn_until_stop<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.token.clone();
        self.spawn(name, async move {
            token.run_until_cancelled(task).await;
        });
    }

    /// A group within this one: stopped with it, or alone.
    pub fn child(&self) -> Self {
        Self {
            token: self.token.child_token(),
            tracker: self.tracker.clone(),
            panicked: self.panicked.clone(),
        }
    }

    /// Resolves when the group has been told to stop.
    pub async fn stopping(&self) {
        self.token.cancelled().await;
    }

    /// Whether the group has been told to stop.
    pub fn is_stopping(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Whether a task of the group panicked.
    pub fn has_panicked(&self) -> bool {
        self.panicked.load(Ordering::Relaxed)
    }

    /// Tells every task to stop, without waiting.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Tells every task to stop and waits for them, at most until `deadline` has passed.
    pub async fn stop(&self, deadline: Duration) -> Stopped {
        self.token.cancel();
        self.tracker.close();
        match tokio::time::timeout(deadline, self.tracker.wait()).await {
            Ok(()) => Stopped::Drained,
            Err(_) => Stopped::Aborted,
        }
    }
}

struct PanicStops {
    name: &'static str,
    group: Tasks,
    finished: bool,
}

impl Drop for PanicStops {
    fn drop(&mut self) {
        if !self.finished && std::thread::panicking() {
            tracing::error!(task = self.name, "task panicked, stopping the process");
            self.group.panicked.store(true, Ordering::Relaxed);
            self.group.token.cancel();
        }
    }
}

/// A flag that a part raises when it can do its work. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ready(tokio::sync::watch::Sender<bool>);

impl Default for Ready {
    fn default() -> Self {
        Self(tokio::sync::watch::Sender::new(false))
    }
}

impl Ready {
    /// Raises or lowers the flag.
    pub fn set(&self, ready: bool) {
        self.0.send_replace(ready);
    }

    /// Whether the flag is up now.
    pub fn is_ready(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves when the flag is up.
    pub async fn wait(&self) {
        let mut seen = self.0.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = seen.wait_for(|ready| *ready).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stopping_waits_for_tasks_to_drain() {
        let tasks = Tasks::new();
        let inner = tasks.clone();
        tasks.spawn("drains", async move {
            inner.stopping().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        assert_eq!(tasks.stop(Duration::from_secs(5)).await, Stopped::Drained);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_the_stop_is_given_up_at_the_deadline() {
        let tasks = Tasks::new();
        tasks.spawn("stubborn", std::future::pending());
        assert_eq!(tasks.stop(Duration::from_secs(5)).await, Stopped::Aborted);
    }

    #[tokio::test]
    async fn a_panicking_task_stops_the_group() {
        let tasks = Tasks::new();
        tasks.spawn("panics", async { panic!("on purpose") });
        tasks.stopping().await;
        assert!(tasks.has_panicked());
    }
}
