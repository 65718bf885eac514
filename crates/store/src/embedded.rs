//! The store of one machine: fjall on disk, everything readable in memory.
//!
//! ```text
//! put, delete ─▶ writer thread ─▶ disk (fjall, synced) ─▶ state ─▶ watchers
//! get, list   ─────────────────────────────────────────▶ state
//! ```
//!
//! Reads come from memory under a read lock that the writer takes only to move pointers, never
//! while it writes to disk. History is a window in memory: after a reopen it starts at the
//! current revision.
//!
//! It refuses to share its directory, to read a newer format, and to go on after a failed sync.

mod disk;
mod journal;
mod writer;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use self::disk::{Disk, Loaded};
use self::writer::Request;
use crate::contract::{
    Entry, Expect, Index, OpenError, Page, ReadError, Revision, Store, WriteError, packed,
};
use crate::memory::{Memory, Window};
use crate::watch::Watch;

/// fjall's limit less the byte that we put before a key; more than any key of ours needs.
const KEY_BYTES_MAX: usize = u16::MAX as usize - 1;

/// The bounds of an [`Embedded`] store.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many changes of history are kept.
    pub history_changes: usize,
    /// How many bytes of replaced entries history may retain.
    pub history_bytes: u64,
    /// How many writes may wait; more wait to get into the queue.
    pub queue: usize,
    /// How many writes share one sync at most.
    pub batch_changes: usize,
    /// No further write joins a batch of this size.
    pub batch_bytes: u64,
    /// How many changes a watcher may lag before it is dropped.
    pub watch_backlog: usize,
    /// How often a quiet watcher hears of progress.
    pub progress_every: Duration,
    /// Writes are refused while the disk has less free space than this, so that what fjall does
    /// in the background never meets a full disk: a failed write there would stop the store.
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            history_changes: 50_000,
            history_bytes: 32 << 20,
            queue: 1024,
            batch_changes: 512,
            batch_bytes: 4 << 20,
            watch_backlog: 8192,
            progress_every: Duration::from_secs(5),
            reserve_bytes: 64 << 20,
        }
    }
}

/// The store of one machine. Closed when it is dropped: what is queued is still written.
#[derive(Debug)]
pub struct Embedded {
    memory: Arc<Memory>,
    queue: Option<mpsc::Sender<Request>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Embedded {
    /// Opens the store in `dir`, which is made when it is not there.
    ///
    /// # Errors
    /// `Locked` when it is open already, `NewerFormat` when a newer version wrote it.
    pub async fn open(dir: &Path, options: Options) -> Result<Embedded, OpenError> {
        let owned = dir.to_owned();
        let io = |source| OpenError::Io { dir: dir.to_owned(), source };
        tokio::task::spawn_blocking(move || Disk::open(&owned))
            .await
            .map_err(|error| io(io::Error::other(error)))?
            .and_then(|loaded| Embedded::start(loaded, options).map_err(io))
    }

    fn start(loaded: Loaded, options: Options) -> io::Result<Embedded> {
        let Loaded { disk, entries, revision } = loaded;
        let window = Window { changes: options.history_changes, bytes: options.history_bytes };
        let backlog = options.watch_backlog.max(options.batch_changes);
        let memory =
            Arc::new(Memory::new(entries, revision, window, backlog, options.progress_every));
        let (queue, requests) = mpsc::channel(options.queue.max(1));
        let for_writer = memory.clone();
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer::run(requests, &disk, &for_writer, &options))?;
        Ok(Embedded { memory, queue: Some(queue), writer: Mutex::new(Some(writer)) })
    }

    /// Resolves when the store takes no more requests: it was dropped, or a write to disk failed.
    ///
    /// After a failed write nothing is known of what is on disk, so the process should end; the
    /// next opening reads what is there.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let memory = self.memory.clone();
        async move { memory.closed().await }
    }

    /// Puts a backup into a new store in `dir`; the revision of the store is then `revision`, which
    /// is none of an entry's. Blocks.
    ///
    /// Not durable as a whole until it returns: what fails half-way leaves a directory to remove.
    ///
    /// # Errors
    /// `Damaged` when something is there, or an entry is newer than `revision`.
    pub fn fill(
        dir: &Path,
        revision: Revision,
        entries: impl Iterator<Item = io::Result<Entry>>,
    ) -> Result<(), OpenError> {
        let Loaded { disk, entries: found, revision: at } = Disk::open(dir)?;
        if at != Revision::FIRST || !found.is_empty() {
            let what = format!("{} entries stand there already", found.len());
            return Err(OpenError::Damaged { dir: dir.to_owned(), what });
        }
        disk.fill(revision, entries)
    }

    async fn submit<T>(
        &self,
        request: Request,
        answer: oneshot::Receiver<Result<T, WriteError>>,
    ) -> Result<T, WriteError> {
        let queue = self.queue.as_ref().ok_or(WriteError::Closed)?;
        queue.send(request).await.map_err(|_| WriteError::Closed)?;
        answer.await.map_err(|_| WriteError::Closed)?
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.queue = None;
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // Once the thread is gone the directory can be opened again.
        if writer.is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the store's writer panicked");
        }
    }
}

#[async_trait]
impl Store for Embedded {
    async fn revision(&self) -> Result<Revision, ReadError> {
        self.memory.revision()
    }

    async fn get(&self, key: &[u8]) -> Result<(Option<Entry>, Revision), ReadError> {
        self.memory.get(key)
    }

    async fn list(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, ReadError> {
        self.memory.list(prefix, after, limit, at)
    }

    fn index(&self, index: Index) {
        self.memory.index(index);
    }

    async fn list_by(
        &self,
        index: &str,
        term: &[u8],
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Option<Page>, ReadError> {
        self.memory.list_by(index, term, prefix, after, limit)
    }

    async fn put(&self, key: Bytes, value: Bytes, expect: Expect) -> Result<Entry, WriteError> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            let what = format!("a key has 1 to {KEY_BYTES_MAX} bytes, not {}", key.len());
            return Err(WriteError::Io(io::Error::new(io::ErrorKind::InvalidInput, what)));
        }
        let (key, value) = packed(&key, &value);
        let (answer, answered) = oneshot::channel();
        self.submit(Request::Put { key, value, expect, answer }, answered).await
    }

    async fn delete(&self, key: &[u8], expect: Expect) -> Result<(Entry, Revision), WriteError> {
        let key = Bytes::copy_from_slice(key);
        let (answer, answered) = oneshot::channel();
        self.submit(Request::Delete { key, expect, answer }, answered).await
    }

    async fn watch(&self, prefix: Bytes, after: Revision) -> Result<Watch, ReadError> {
        self.memory.watch(prefix, after)
    }

    async fn compact(&self, floor: Revision) -> Result<(), ReadError> {
        self.memory.compact(floor)
    }
}
