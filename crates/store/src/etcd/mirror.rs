//! Keeps the memory in step with etcd: one watch over all our keys, resumed where it broke off.
//!
//! The watch asks for no previous values: the entry that the memory holds when a change arrives is
//! the previous one, since changes arrive in order and none is left out.
//!
//! When etcd has compacted what the watch needed (it was cut off for long), everything is listed
//! anew and every watcher of ours ends, as the contract says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{
    Error, Event, EventType, GetOptions, KvClient, WatchClient, WatchOptions, WatchResponse,
};
use tokio::sync::watch;

use super::wire::{Place, answer, io_error, is_compacted};
use crate::contract::{Change, Entry, Revision};
use crate::memory::Memory;

/// How many entries one answer of a list carries; a value is 1.5 MiB at most by etcd's default.
const PAGE: i64 = 200;
/// Waits between attempts to reach etcd.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(2);

pub(super) struct Mirror {
    pub(super) memory: Arc<Memory>,
    pub(super) kv: KvClient,
    pub(super) watch: WatchClient,
    pub(super) place: Place,
    pub(super) applied: watch::Sender<Revision>,
    pub(super) patience: Duration,
}

/// Why a watch ended.
enum Ended {
    Compacted,
    Lost(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Ended {
        match is_compacted(&error) {
            true => Ended::Compacted,
            false => Ended::Lost(error),
        }
    }
}

impl Mirror {
    /// Follows etcd until it is aborted.
    pub(super) async fn run(mut self) {
        let mut delay = RETRY_FIRST;
        loop {
            let before = self.memory.read().revision();
            let ended = match self.follow().await {
                Ended::Compacted => self.reload().await.err(),
                Ended::Lost(error) => Some(error),
            };
            let Some(error) = ended else { continue };
            if self.memory.read().revision() > before {
                delay = RETRY_FIRST;
            }
            tracing::warn!(error = %io_error(error), "the watch on etcd broke off: trying again");
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RETRY_LAST);
        }
    }

    async fn follow(&mut self) -> Ended {
        match self.take_changes().await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn take_changes(&mut self) -> Result<std::convert::Infallible, Ended> {
        let after = self.memory.read().revision();
        let start = self.place.theirs(after.next()).unwrap_or(1);
        let options = WatchOptions::new()
            .with_range(self.place.end())
            .with_start_revision(start)
            .with_progress_notify()
            .with_fragment();
        let watching = self.watch.watch(self.place.entries.clone(), Some(options));
        let mut stream = answer(self.patience, watching).await?;
        // Keep-alive pings tell when the other end is gone, so a quiet stream needs no deadline.
        while let Some(response) = stream.message().await? {
            if response.canceled() {
                return Err(match response.compact_revision() {
                    0 => Ended::Lost(Error::WatchError(response.cancel_reason().to_owned())),
                    _ => Ended::Compacted,
                });
            }
            self.take(&response);
        }
        Err(Ended::Lost(Error::WatchError("etcd closed the watch".to_owned())))
    }

    fn take(&self, response: &WatchResponse) {
        if !response.events().is_empty() {
            self.memory.publish(&self.changes(response.events()));
        } else if !response.created() {
            // Progress: the header of the answer to the creation promises nothing yet.
            self.memory.advance(self.place.of_header(response.header()));
        }
        self.applied.send_replace(self.memory.read().revision());
    }

    fn changes(&self, events: &[Event]) -> Vec<Arc<Change>> {
        let state = self.memory.read();
        let mut written: BTreeMap<Bytes, Option<Entry>> = BTreeMap::new();
        let mut changes = Vec::with_capacity(events.len());
        for event in events {
            let kv = event.kv().cloned().and_then(|kv| self.place.entry(kv));
            let Some(entry) = kv else { continue };
            let previous = match written.get(&entry.key) {
                Some(written) => written.clone(),
                None => state.get(&entry.key).cloned(),
            };
            let (now, change) = match event.event_type() {
                EventType::Put => {
                    (Some(entry.clone()), Change::Put { entry: entry.clone(), previous })
                }
                EventType::Delete => {
                    // Nothing to tell of a key that nobody here has seen.
                    let Some(previous) = previous else { continue };
                    (None, Change::Delete { previous, revision: entry.modified })
                }
            };
            written.insert(entry.key, now);
            changes.push(Arc::new(change));
        }
        changes
    }

    async fn reload(&mut self) -> Result<(), Error> {
        let (entries, revision) = load(&mut self.kv, &self.place, self.patience).await?;
        tracing::warn!(%revision, "etcd has compacted what was missed: all was listed anew");
        self.memory.replace(entries, revision);
        self.applied.send_replace(revision);
        Ok(())
    }
}

/// Everything of ours at one revision.
pub(super) async fn load(
    kv: &mut KvClient,
    place: &Place,
    patience: Duration,
) -> Result<(Vec<Entry>, Revision), Error> {
    let mut entries = Vec::new();
    let mut from = place.entries.clone();
    let mut at = 0;
    loop {
        let options = GetOptions::new().with_range(place.end()).with_limit(PAGE).with_revision(at);
        let mut page = answer(patience, kv.get(from, Some(options))).await?;
        if at == 0 {
            at = page.header().map_or(0, |header| header.revision());
        }
        let more = page.more();
        let kvs = page.take_kvs();
        let last = kvs.last().map(|kv| kv.key().to_vec());
        entries.extend(kvs.into_iter().filter_map(|kv| place.entry(kv)));
        let (true, Some(mut last)) = (more, last) else {
            return Ok((entries, place.revision(at)));
        };
        last.push(0);
        from = last;
    }
}
