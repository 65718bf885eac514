//! Who asks what another one is asking already waits for that answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use hickory_proto::op::Message;
use tokio::sync::OnceCell;

use super::Question;

/// An upstream's answer and for how many seconds it is kept; `None` where none gave one.
type Said = Option<(Message, u32)>;
type UnderWay = HashMap<Question, Arc<OnceCell<Said>>>;

/// Questions that upstreams are asked now: as many as there are clients that wait, at most.
#[derive(Debug, Default)]
pub(super) struct Joined(Mutex<UnderWay>);

impl Joined {
    /// What `ask` says, which one of those asks that want `question` answered at a time.
    pub(super) async fn ask(&self, question: &Question, ask: impl Future<Output = Said>) -> Said {
        let cell = Arc::clone(self.lock().entry(question.clone()).or_default());
        let waiter = Waiter { joined: self, question, cell };
        // Where the one that asks goes away, the next one does.
        waiter.cell.get_or_init(|| ask).await.clone()
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().expect("no holder of the lock panics")
    }
}

/// Takes the question away when it is answered, or nobody waits any longer.
struct Waiter<'a> {
    joined: &'a Joined,
    question: &'a Question,
    cell: Arc<OnceCell<Said>>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut under_way = self.joined.lock();
        let ours = |cell: &Arc<_>| Arc::ptr_eq(cell, &self.cell);
        // The table's own and this one's.
        let last = Arc::strong_count(&self.cell) == 2;
        if (last || self.cell.initialized()) && under_way.get(self.question).is_some_and(ours) {
            under_way.remove(self.question);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;
    use std::time::Duration;

    use hickory_proto::op::{MessageType, OpCode};

    use super::*;

    fn question() -> Question {
        Question { name: vec![1, b'a', 0], kind: 1, dnssec: false, checking_disabled: false }
    }

    fn said() -> Said {
        Some((Message::new(1, MessageType::Response, OpCode::Query), 30))
    }

    #[tokio::test(start_paused = true)]
    async fn one_asks_for_all_that_wait_and_the_next_asks_anew() {
        let (joined, asked, question) = (Joined::default(), Cell::new(0), question());
        let ask = async || {
            asked.set(asked.get() + 1);
            tokio::time::sleep(Duration::from_secs(1)).await;
            said()
        };
        let waits = || joined.ask(&question, ask());
        let (one, two, three) = tokio::join!(waits(), waits(), waits());
        assert!(one.is_some() && two.is_some() && three.is_some());
        assert_eq!(asked.get(), 1);
        assert!(joined.lock().is_empty());
        assert!(joined.ask(&question, ask()).await.is_some());
        assert_eq!(asked.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_asks_when_the_one_that_asked_has_gone() {
        let (joined, question) = (Joined::default(), question());
        let gone = tokio::time::timeout(Duration::from_secs(1), joined.ask(&question, pending()));
        let waits = joined.ask(&question, async { said() });
        let (gone, waited) = tokio::join!(gone, waits);
        assert!(gone.is_err() && waited.is_some());
        assert!(joined.lock().is_empty());
        let alone = joined.ask(&question, pending());
        assert!(tokio::time::timeout(Duration::from_secs(1), alone).await.is_err());
        assert!(joined.lock().is_empty(), "nothing is left of who gave up");
    }
}
