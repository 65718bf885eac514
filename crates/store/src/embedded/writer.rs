//! The one thread that writes: group commit.
//!
//! ```text
//! callers ─▶ queue ─▶ plan ─▶ one fjall batch, one sync ─▶ readers, watchers ─▶ answers
//! ```
//!
//! Whatever waits in the queue becomes one batch. A refusal can rest on an earlier write of the
//! same batch, so no answer of a batch is given before the batch is on disk.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::Options;
use super::disk::Disk;
use crate::contract::{Change, Entry, Expect, Revision, WriteError};
use crate::memory::{Memory, State};

/// A write that someone waits for.
pub(super) enum Request {
    Put { key: Bytes, value: Bytes, expect: Expect, answer: oneshot::Sender<PutAnswer> },
    Delete { key: Bytes, expect: Expect, answer: oneshot::Sender<DeleteAnswer> },
}

pub(super) type PutAnswer = Result<Entry, WriteError>;
pub(super) type DeleteAnswer = Result<(Entry, Revision), WriteError>;

impl Request {
    fn bytes(&self) -> u64 {
        let bytes = match self {
            Request::Put { key, value, .. } => key.len() + value.len(),
            Request::Delete { key, .. } => key.len(),
        };
        bytes as u64
    }
}

enum Answer {
    Put(oneshot::Sender<PutAnswer>, PutAnswer),
    Delete(oneshot::Sender<DeleteAnswer>, DeleteAnswer),
}

/// Closes the store however the thread ends.
struct CloseOnExit(Arc<Memory>);

impl Drop for CloseOnExit {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Serves the queue until all senders are gone or a write fails.
pub(super) fn run(
    mut queue: mpsc::Receiver<Request>,
    disk: &Disk,
    memory: &Arc<Memory>,
    options: &Options,
) {
    let _closer = CloseOnExit(memory.clone());
    let mut was_full = false;
    while let Some(first) = queue.blocking_recv() {
        let mut bytes = first.bytes();
        let mut requests = vec![first];
        while requests.len() < options.batch_changes.max(1) && bytes < options.batch_bytes {
            let Ok(request) = queue.try_recv() else { break };
            bytes += request.bytes();
            requests.push(request);
        }
        let room = room(disk, bytes, options.reserve_bytes);
        report_room(&mut was_full, room);
        let (changes, answers) = plan(&memory.read(), requests, room);
        if let Err(error) = disk.commit(&changes) {
            // The kernel may have thrown the pages away: a second sync proves nothing. The
            // waiting callers see their answer dropped, which reads as closed.
            tracing::error!(%error, "a write to disk failed; the store stops");
            return;
        }
        memory.publish(&changes);
        for answer in answers {
            // A caller that no longer waits is no error.
            match answer {
                Answer::Put(to, answer) => drop(to.send(answer)),
                Answer::Delete(to, answer) => drop(to.send(answer)),
            }
        }
    }
}

/// What the disk has room for. Deletes may use half of the reserve: they make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    puts: bool,
    deletes: bool,
}

fn room(disk: &Disk, batch_bytes: u64, reserve_bytes: u64) -> Room {
    match disk.free_bytes() {
        // A batch is written to the journal, and again to a table.
        Ok(free) => Room {
            puts: free >= reserve_bytes + 2 * batch_bytes,
            deletes: free >= reserve_bytes / 2 + 2 * batch_bytes,
        },
        Err(error) => {
            tracing::warn!(%error, "cannot ask for the free space of the store's disk");
            Room { puts: true, deletes: true }
        }
    }
}

fn report_room(was_full: &mut bool, room: Room) {
    if *was_full == room.puts {
        match room.puts {
            true => tracing::info!("the store's disk has room again"),
            false => tracing::error!("the store's disk is full: writes are refused"),
        }
        *was_full = !room.puts;
    }
}

/// Decides a batch: the changes to write, in order, and what each caller is told afterwards.
fn plan(state: &State, requests: Vec<Request>, room: Room) -> (Vec<Arc<Change>>, Vec<Answer>) {
    let mut batch = Batch { state, written: HashMap::new(), changes: Vec::new() };
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        answers.push(match request {
            Request::Put { answer, .. } if !room.puts => Answer::Put(answer, Err(WriteError::Full)),
            Request::Delete { answer, .. } if !room.deletes => {
                Answer::Delete(answer, Err(WriteError::Full))
            }
            Request::Put { key, value, expect, answer } => {
                Answer::Put(answer, batch.put(key, value, expect))
            }
            Request::Delete { key, expect, answer } => {
                Answer::Delete(answer, batch.delete(&key, expect))
            }
        });
    }
    (batch.changes, answers)
}

struct Batch<'a> {
    state: &'a State,
    /// What this batch did so far; none is a removal.
    written: HashMap<Bytes, Option<Entry>>,
    changes: Vec<Arc<Change>>,
}

impl Batch<'_> {
    fn current(&self, key: &[u8]) -> Option<Entry> {
        match self.written.get(key) {
            Some(written) => written.clone(),
            None => self.state.get(key).cloned(),
        }
    }

    fn next_revision(&self) -> Revision {
        let last = self.changes.last().map_or(self.state.revision(), |change| change.revision());
        last.next()
    }

    fn put(&mut self, key: Bytes, value: Bytes, expect: Expect) -> PutAnswer {
        let previous = self.current(&key);
        let holds = match expect {
            Expect::Anything => true,
            Expect::Absent => previous.is_none(),
            Expect::Modified(at) => previous.as_ref().is_some_and(|entry| entry.modified == at),
        };
        if !holds {
            return Err(WriteError::Conflict { current: previous });
        }
        let modified = self.next_revision();
        let created = previous.as_ref().map_or(modified, |entry| entry.created);
        let entry = Entry { key: key.clone(), value, created, modified };
        self.written.insert(key, Some(entry.clone()));
        self.changes.push(Arc::new(Change::Put { entry: entry.clone(), previous }));
        Ok(entry)
    }

    fn delete(&mut self, key: &Bytes, expect: Expect) -> DeleteAnswer {
        let Some(previous) = self.current(key) else { return Err(WriteError::NotFound) };
        let holds = match expect {
            Expect::Anything => true,
            Expect::Absent => false,
            Expect::Modified(at) => previous.modified == at,
        };
        if !holds {
            return Err(WriteError::Conflict { current: Some(previous) });
        }
        let revision = self.next_revision();
        self.written.insert(key.clone(), None);
        self.changes.push(Arc::new(Change::Delete { previous: previous.clone(), revision }));
        Ok((previous, revision))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Window;

    const ROOM: Room = Room { puts: true, deletes: true };

    fn put(key: &'static str, expect: Expect) -> Request {
        let (answer, _) = oneshot::channel();
        Request::Put { key: key.into(), value: "v".into(), expect, answer }
    }

    fn delete(key: &'static str, expect: Expect) -> Request {
        let (answer, _) = oneshot::channel();
        Request::Delete { key: key.into(), expect, answer }
    }

    fn outcome(answer: &Answer) -> String {
        let refusal = |error: &WriteError| match error {
            WriteError::Conflict { current: None } => "conflict with nothing".to_owned(),
            WriteError::Conflict { current: Some(e) } => format!("conflict with {}", e.modified),
            other => other.to_string(),
        };
        match answer {
            Answer::Put(_, Ok(entry)) => format!("put {} {}", entry.created, entry.modified),
            Answer::Delete(_, Ok((_, revision))) => format!("deleted {revision}"),
            Answer::Put(_, Err(error)) | Answer::Delete(_, Err(error)) => refusal(error),
        }
    }

    fn check(room: Room, requests: Vec<Request>, expected: &[&str]) {
        let window = Window { changes: 10, bytes: 1000 };
        let state = State::new(Vec::new(), Revision(1), window);
        let (changes, answers) = plan(&state, requests, room);
        assert_eq!(answers.iter().map(outcome).collect::<Vec<_>>(), expected);
        let revisions: Vec<_> = changes.iter().map(|c| c.revision().0).collect();
        assert_eq!(revisions, (2..2 + changes.len() as u64).collect::<Vec<_>>());
    }

    #[test]
    fn later_write_of_a_batch_sees_the_earlier_one() {
        check(
            ROOM,
            vec![
                put("a", Expect::Absent),
                put("a", Expect::Absent),
                put("a", Expect::Modified(Revision(2))),
                put("a", Expect::Modified(Revision(2))),
                delete("a", Expect::Modified(Revision(2))),
                delete("a", Expect::Absent),
                delete("a", Expect::Anything),
                delete("a", Expect::Anything),
                put("a", Expect::Modified(Revision(3))),
                put("a", Expect::Anything),
            ],
            &[
                "put 2 2",
                "conflict with 2",
                "put 2 3",
                "conflict with 3",
                "conflict with 3",
                "conflict with 3",
                "deleted 4",
                "no such key",
                "conflict with nothing",
                "put 5 5",
            ],
        );
    }

    #[test]
    fn full_disk_refuses_puts_before_deletes() {
        let both = || vec![put("a", Expect::Anything), delete("a", Expect::Anything)];
        let half = Room { puts: false, deletes: true };
        check(half, both(), &["the disk is full", "no such key"]);
        let none = Room { puts: false, deletes: false };
        check(none, both(), &["the disk is full", "the disk is full"]);
    }
}
