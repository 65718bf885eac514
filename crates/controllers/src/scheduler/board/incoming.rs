//! How many pods came to each part of the queue, and what brought them there.

use super::Hint;

/// A part of the queue, as kube-scheduler calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Can be tried.
    Active,
    /// Must wait some time.
    Backoff,
    /// Waits for a change.
    Unschedulable,
}

/// What brings a pod to a part of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was made, or is ours from now on.
    Came,
    /// It asks for something else.
    Changed,
    /// It was tried, in vain.
    Failed,
    /// Its time came,
    Waited,
    /// even without a change that could help.
    WaitedLong,
    /// A change that could help.
    Hint(Hint),
}

const QUEUES: [&str; 3] = ["active", "backoff", "unschedulable"];
/// As kube-scheduler calls them, where it knows them.
const EVENTS: [&str; 9] = [
    "PodAdd",
    "UnscheduledPodUpdate",
    "ScheduleAttemptFailure",
    "BackoffComplete",
    "UnschedulableTimeout",
    "WildCardEvent",
    "AssignedPodDelete",
    "AssignedPodAdd",
    "PersistentVolumeClaimAdd",
];

/// Counts since the begin. Cheap to copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incoming([[u64; EVENTS.len()]; QUEUES.len()]);

impl Incoming {
    pub(super) fn count(&mut self, queue: Queue, event: Event) {
        let queue = match queue {
            Queue::Active => 0,
            Queue::Backoff => 1,
            Queue::Unschedulable => 2,
        };
        let event = match event {
            Event::Came => 0,
            Event::Changed => 1,
            Event::Failed => 2,
            Event::Waited => 3,
            Event::WaitedLong => 4,
            Event::Hint(Hint::Anything) => 5,
            Event::Hint(Hint::PodGone) => 6,
            Event::Hint(Hint::PodCame) => 7,
            Event::Hint(Hint::Volumes) => 8,
        };
        self.0[queue][event] += 1;
    }

    /// Queue, event and count of all that occurred.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        QUEUES.iter().zip(&self.0).flat_map(|(queue, counts)| {
            let all = EVENTS.iter().zip(counts).filter(|(_, count)| **count > 0);
            all.map(|(event, count)| (*queue, *event, *count))
        })
    }
}
