//! The [`Store`] trait and the words it speaks.
//!
//! Every implementation passes `tests/battery.rs`; what a caller may rely on is said here.
//!
//! # Source
//! etcd's data model (revisions, compaction, watch from a revision), narrowed to what
//! an API server asks of it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;

use crate::watch::Watch;

/// A point in the history of the whole store. An empty store is at 1; each write adds one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of an empty store.
    pub const FIRST: Revision = Revision(1);

    /// The revision that the next write takes.
    pub fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key, its value, and when it was created and last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// 1 to 65,534 bytes.
    pub key: Bytes,
    /// Any bytes; the store never looks inside.
    pub value: Bytes,
    /// The write that brought the key into being; a delete in between starts anew.
    pub created: Revision,
    /// The last write.
    pub modified: Revision,
}

/// What must hold for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing; a delete still needs the key to exist.
    Anything,
    /// The key does not exist.
    Absent,
    /// The key exists and was last written at this revision.
    Modified(Revision),
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In key order.
    pub entries: Vec<Entry>,
    /// The revision that the page shows: pass it as `at` for the pages that follow.
    pub revision: Revision,
    /// How many entries come after this page at that revision.
    pub remaining: u64,
}

/// A way to find entries by what is in their values, kept in memory in step with the writes.
#[derive(Clone, Copy, Debug)]
pub struct Index {
    /// How it is asked for.
    pub name: &'static str,
    /// Of which keys.
    pub prefix: &'static [u8],
    /// Under which terms a value is found. It runs for each write, between the disk and the
    /// readers, so it has to be quick.
    pub terms: fn(&[u8]) -> Vec<&[u8]>,
}

/// One write, as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key was created (`previous` is none) or written again.
    Put {
        /// As it is now; its `modified` is the revision of the change.
        entry: Entry,
        /// As it was before.
        previous: Option<Entry>,
    },
    /// The key was removed.
    Delete {
        /// As it was before.
        previous: Entry,
        /// The revision of the removal.
        revision: Revision,
    },
}

impl Change {
    /// The revision that the write took.
    pub fn revision(&self) -> Revision {
        match self {
            Change::Put { entry, .. } => entry.modified,
            Change::Delete { revision, .. } => *revision,
        }
    }

    /// The key that was written or removed.
    pub fn key(&self) -> &Bytes {
        match self {
            Change::Put { entry, .. } => &entry.key,
            Change::Delete { previous, .. } => &previous.key,
        }
    }

    /// The entry before the change.
    pub fn previous(&self) -> Option<&Entry> {
        match self {
            Change::Put { previous, .. } => previous.as_ref(),
            Change::Delete { previous, .. } => Some(previous),
        }
    }
}

impl Entry {
    /// An entry whose key and value lie in one piece of memory of exactly their size: it is held
    /// for long, and what came may have room to spare or be a part of something larger.
    pub(crate) fn packed(key: &[u8], value: &[u8], created: Revision, modified: Revision) -> Entry {
        let (key, value) = packed(key, value);
        Entry { key, value, created, modified }
    }
}

/// Copies of key and value in one piece of memory.
pub(crate) fn packed(key: &[u8], value: &[u8]) -> (Bytes, Bytes) {
    let mut both = Vec::with_capacity(key.len() + value.len());
    both.extend_from_slice(key);
    both.extend_from_slice(value);
    let mut own = Bytes::from(both);
    let value = own.split_off(key.len());
    (own, value)
}

/// Why something could not be read or watched.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// History of that revision is gone; list anew.
    #[error("that revision is compacted: history starts at {floor}")]
    Compacted {
        /// The oldest revision that can still be read, and watched from.
        floor: Revision,
    },
    /// That revision has not happened yet.
    #[error("that revision is in the future: the store is at {current}")]
    Future {
        /// Where the store is.
        current: Revision,
    },
    /// The store was closed, or stopped after a failed write to disk.
    #[error("the store is closed")]
    Closed,
    /// The store could not be reached or read.
    #[error("cannot read the store")]
    Io(#[source] io::Error),
}

/// Why something was not written. Nothing of a refused write is visible, now or later.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The expectation does not hold.
    #[error("the key is not as expected")]
    Conflict {
        /// What is there instead.
        current: Option<Entry>,
    },
    /// The key to delete does not exist.
    #[error("no such key")]
    NotFound,
    /// The disk is full. Reads go on; writes too, as soon as there is room.
    #[error("the disk is full")]
    Full,
    /// The store was closed, or stopped after a failed write to disk. A write that was under way
    /// may or may not have happened.
    #[error("the store is closed")]
    Closed,
    /// The write is not one the store can hold, or the store could not be reached.
    #[error("cannot write to the store")]
    Io(#[source] io::Error),
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another part of this one, has it open.
    #[error("the store in {} is in use by another process", dir.display())]
    Locked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// A newer version of this program wrote it.
    #[error("the store has format {found}, this version knows formats up to {known}")]
    NewerFormat {
        /// The format on disk.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// What is on disk cannot be what this program wrote.
    #[error("the store in {} is damaged: {what}", dir.display())]
    Damaged {
        /// The store's directory.
        dir: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The server that keeps the store cannot be used.
    #[error("cannot use the store at {endpoints}")]
    Unreachable {
        /// Where it was looked for.
        endpoints: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The directory could not be made, read or written.
    #[error("cannot open the store in {}", dir.display())]
    Io {
        /// The store's directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A revisioned, watchable map from key to bytes.
///
/// # Guarantees
/// - A write is answered, and shown to readers and watchers, only after it is on disk.
/// - Writes are linear: each has its own revision, and a read or a write that starts after
///   another was answered sees it.
/// - A watcher gets each change of its prefix once, in order of revision, with none left out,
///   until [`Watch::next`] gives none.
/// - A revision never goes back, not across a crash either.
///
/// A caller that drops the future of a write does not know whether the write happened.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The revision of the last write.
    async fn revision(&self) -> Result<Revision, ReadError>;

    /// The entry of `key`, and the revision at which it was looked up.
    async fn get(&self, key: &[u8]) -> Result<(Option<Entry>, Revision), ReadError>;

    /// Entries whose key begins with `prefix`, in key order.
    ///
    /// `after` is the last key of the previous page, `limit` 0 means all, `at` reads an older
    /// revision.
    ///
    /// # Errors
    /// `Compacted` when `at` is below the floor, `Future` when it has not happened.
    async fn list(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, ReadError>;

    /// Keeps an index from now on; one of the same name is kept already.
    fn index(&self, index: Index);

    /// As [`Store::list`] at the current revision, narrowed to the entries that an index has under
    /// a term. None when there is no such index.
    async fn list_by(
        &self,
        index: &str,
        term: &[u8],
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Option<Page>, ReadError>;

    /// Writes `value` under `key` if `expect` holds; the entry as it is then.
    async fn put(&self, key: Bytes, value: Bytes, expect: Expect) -> Result<Entry, WriteError>;

    /// Removes `key` if `expect` holds; the entry that was removed, and the removal's revision.
    async fn delete(&self, key: &[u8], expect: Expect) -> Result<(Entry, Revision), WriteError>;

    /// Changes of keys that begin with `prefix` and have a revision greater than `after`.
    ///
    /// # Errors
    /// `Compacted` when `after` is below the floor, `Future` when it has not happened.
    async fn watch(&self, prefix: Bytes, after: Revision) -> Result<Watch, ReadError>;

    /// Forgets history below `floor`; the entries themselves stay. A floor that is already lower
    /// than the present one changes nothing.
    ///
    /// # Errors
    /// `Future` when `floor` has not happened.
    async fn compact(&self, floor: Revision) -> Result<(), ReadError>;
}
