//! A priority level: seats, and queues in front of them.
//!
//! A flow is dealt a hand of queues by its hash and waits in the shortest, so that few flows share
//! all of theirs with a busy one. A seat that gets free goes to the queue that has the fewest, in
//! turn. A waiter that went away is passed over.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;

/// A quarter of the minute that clients wait, as Kubernetes has it.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// How a level queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queuing {
    queues: usize,
    hand: usize,
    length: usize,
}

impl Queuing {
    /// None refuses at once.
    pub(super) fn of(response: &Value) -> Option<Self> {
        if response["type"] != "Queue" {
            return None;
        }
        let number = |field: &str, default: u64| {
            let number = response["queuing"][field].as_u64().unwrap_or(default);
            usize::try_from(number).unwrap_or(1)
        };
        let queues = number("queues", 64).clamp(1, 4096);
        let hand = number("handSize", 8).clamp(1, queues.min(32));
        Some(Self { queues, hand, length: number("queueLengthLimit", 50) })
    }

    /// The distinct queues of a flow.
    fn deal(&self, mut hash: u64) -> impl Iterator<Item = usize> {
        let mut dealt = [0_usize; 32];
        for index in 0..self.hand {
            let left = (self.queues - index) as u64;
            let mut card = usize::try_from(hash % left).unwrap_or(0);
            hash = (hash / left)
                .wrapping_add(hash.rotate_left(29))
                .wrapping_mul(0x9E37_79B9_7F4A_7C15);
            // A card counts among those that are left: skip over the smaller ones dealt before.
            let sorted = &mut dealt[..index];
            sorted.sort_unstable();
            for before in sorted.iter() {
                if card >= *before {
                    card += 1;
                }
            }
            dealt[index] = card;
        }
        dealt.into_iter().take(self.hand)
    }
}

/// A level.
pub(super) struct Level {
    pub(super) name: String,
    pub(super) queuing: Option<Queuing>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// None for a level that is never limited.
    limit: Option<u32>,
    executing: u32,
    waiting: u32,
    queues: Vec<Queue>,
    /// The queue whose turn is next.
    turn: usize,
    dispatched: u64,
    full: u64,
    slow: u64,
}

#[derive(Default)]
struct Queue {
    waiters: VecDeque<oneshot::Sender<Seat>>,
    executing: u32,
}

/// What a level has done and does.
pub(super) struct Figures {
    pub(super) limit: u32,
    pub(super) executing: u32,
    pub(super) waiting: u32,
    pub(super) dispatched: u64,
    pub(super) full: u64,
    pub(super) slow: u64,
}

/// Why there is no seat.
pub(super) enum Refusal {
    Full,
    Slow,
}

/// A request under way; given back when dropped.
pub(super) struct Seat {
    /// None for one that nobody took.
    level: Option<Arc<Level>>,
    queue: Option<usize>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(level) = self.level.take() else { return };
        let mut state = level.state();
        state.leave(self.queue);
        Level::dispatch(&level, &mut state);
    }
}

impl State {
    fn leave(&mut self, queue: Option<usize>) {
        self.executing = self.executing.saturating_sub(1);
        if let Some(queue) = queue.and_then(|index| self.queues.get_mut(index)) {
            queue.executing = queue.executing.saturating_sub(1);
        }
    }

    fn enter(&mut self, queue: Option<usize>) {
        self.executing += 1;
        self.dispatched += 1;
        if let Some(queue) = queue.and_then(|index| self.queues.get_mut(index)) {
            queue.executing += 1;
        }
    }

    fn has_room(&self) -> bool {
        self.limit.is_none_or(|limit| self.executing < limit)
    }
}

impl Level {
    pub(super) fn new(name: String, queuing: Option<Queuing>) -> Self {
        let queues = queuing.map_or(0, |queuing| queuing.queues);
        let queues = (0..queues).map(|_| Queue::default()).collect();
        Self { name, queuing, state: Mutex::new(State { queues, ..State::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while holding it")
    }

    pub(super) fn set_limit(self: &Arc<Self>, limit: Option<u32>) {
        let mut state = self.state();
        state.limit = limit;
        Self::dispatch(self, &mut state);
    }

    pub(super) fn figures(&self) -> Figures {
        let state = self.state();
        Figures {
            limit: state.limit.unwrap_or(0),
            executing: state.executing,
            waiting: state.waiting,
            dispatched: state.dispatched,
            full: state.full,
            slow: state.slow,
        }
    }

    /// A seat now or in time.
    pub(super) async fn seat(self: &Arc<Self>, flow: u64) -> Result<Seat, Refusal> {
        let waiter = {
            let mut state = self.state();
            let queue = self.queuing.map(|queuing| {
                let load = |index: &usize| {
                    let queue = &state.queues[*index];
                    (queue.waiters.len(), queue.executing)
                };
                queuing.deal(flow).min_by_key(load).unwrap_or(0)
            });
            if state.waiting == 0 && state.has_room() {
                state.enter(queue);
                return Ok(Seat { level: Some(self.clone()), queue });
            }
            let Some((queuing, index)) = self.queuing.zip(queue) else {
                state.full += 1;
                return Err(Refusal::Full);
            };
            let waiters = &mut state.queues[index].waiters;
            if waiters.len() >= queuing.length {
                let before = waiters.len();
                waiters.retain(|waiter| !waiter.is_closed());
                let gone = u32::try_from(before - waiters.len()).unwrap_or(0);
                state.waiting = state.waiting.saturating_sub(gone);
            }
            if state.queues[index].waiters.len() >= queuing.length {
                state.full += 1;
                return Err(Refusal::Full);
            }
            let (sender, receiver) = oneshot::channel();
            state.queues[index].waiters.push_back(sender);
            state.waiting += 1;
            // Those before may all be gone.
            Self::dispatch(self, &mut state);
            receiver
        };
        match tokio::time::timeout(LONGEST_WAIT, waiter).await {
            Ok(Ok(seat)) => Ok(seat),
            _ => {
                self.state().slow += 1;
                Err(Refusal::Slow)
            }
        }
    }

    /// Gives free seats to those who wait.
    fn dispatch(level: &Arc<Self>, state: &mut State) {
        while state.waiting > 0 && state.has_room() {
            let count = state.queues.len();
            let turns = (0..count).map(|step| (state.turn + step) % count);
            let next = turns
                .filter(|index| !state.queues[*index].waiters.is_empty())
                .min_by_key(|index| state.queues[*index].executing);
            let Some(index) = next else {
                state.waiting = 0;
                return;
            };
            state.turn = (index + 1) % count;
            state.waiting -= 1;
            let Some(waiter) = state.queues[index].waiters.pop_front() else { continue };
            state.enter(Some(index));
            let seat = Seat { level: Some(level.clone()), queue: Some(index) };
            if let Err(mut seat) = waiter.send(seat) {
                // Nobody waits there any more; giving it back would take the lock that we hold.
                seat.level = None;
                state.leave(Some(index));
                state.dispatched -= 1;
            }
        }
    }
}
