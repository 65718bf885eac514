//! What every implementation reads from: the current entries and some history in memory, and
//! those who watch.
//!
//! Whoever feeds it (the embedded store's writer, etcd's mirror) shows a batch to readers first,
//! then to watchers. Readers hold the lock for as long as they copy pointers, the feeder for as long
//! as it moves them.

mod index;
mod sorted;
mod state;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

pub(crate) use self::state::{State, Window};
use crate::contract::{Change, Entry, Index, Page, ReadError, Revision};
use crate::watch::{Watch, Watchers};

#[derive(Debug)]
pub(crate) struct Memory {
    state: RwLock<State>,
    watchers: Arc<Watchers>,
    window: Window,
    closed: AtomicBool,
    close_told: Notify,
}

impl Memory {
    pub(crate) fn new(
        entries: Vec<Entry>,
        revision: Revision,
        window: Window,
        backlog: usize,
        progress_every: Duration,
    ) -> Memory {
        Memory {
            state: RwLock::new(State::new(entries, revision, window)),
            watchers: Watchers::new(revision, backlog, progress_every),
            window,
            closed: AtomicBool::new(false),
            close_told: Notify::new(),
        }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_state(&self) -> Result<RwLockReadGuard<'_, State>, ReadError> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(ReadError::Closed),
            false => Ok(self.read()),
        }
    }

    pub(crate) fn revision(&self) -> Result<Revision, ReadError> {
        Ok(self.open_state()?.revision())
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<(Option<Entry>, Revision), ReadError> {
        let state = self.open_state()?;
        Ok((state.get(key).cloned(), state.revision()))
    }

    pub(crate) fn list(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, ReadError> {
        self.open_state()?.list(prefix, after, limit, at)
    }

    pub(crate) fn index(&self, index: Index) {
        self.write().index(index);
    }

    pub(crate) fn list_by(
        &self,
        index: &str,
        term: &[u8],
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Option<Page>, ReadError> {
        Ok(self.open_state()?.list_by(index, term, prefix, after, limit))
    }

    pub(crate) fn watch(&self, prefix: Bytes, after: Revision) -> Result<Watch, ReadError> {
        // The guard is held until the watcher is registered, so no batch falls between.
        let state = self.open_state()?;
        let replay = state.replay(&prefix, after)?;
        let revision = state.revision();
        self.watchers.add(prefix, replay, revision).ok_or(ReadError::Closed)
    }

    pub(crate) fn compact(&self, floor: Revision) -> Result<(), ReadError> {
        drop(self.open_state()?);
        self.write().compact(floor)
    }

    /// Shows a batch that is durable to readers, then to watchers.
    pub(crate) fn publish(&self, changes: &[Arc<Change>]) {
        let Some(last) = changes.last() else { return };
        self.write().apply(changes);
        self.watchers.publish(changes, last.revision());
    }

    /// Nothing more will come up to `revision`.
    pub(crate) fn advance(&self, revision: Revision) {
        self.write().advance(revision);
        self.watchers.publish(&[], revision);
    }

    /// Starts anew, without history: every watch ends, and whoever held one lists again.
    pub(crate) fn replace(&self, entries: Vec<Entry>, revision: Revision) {
        let mut state = self.write();
        let indexes = state.indexes();
        *state = State::new(entries, revision, self.window);
        indexes.into_iter().for_each(|index| state.index(index));
        // Under the lock, so that no watch of the new state is ended with the old ones.
        self.watchers.restart(revision);
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.watchers.close();
        self.close_told.notify_waiters();
    }

    /// Resolves when the store has been closed.
    pub(crate) async fn closed(&self) {
        let mut told = std::pin::pin!(self.close_told.notified());
        // Registered before the look, so that a close in between is not missed.
        told.as_mut().enable();
        if !self.closed.load(Ordering::Acquire) {
            told.await;
        }
    }
}
