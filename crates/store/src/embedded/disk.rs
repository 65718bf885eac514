//! The files: a lock, the format's number, and fjall's database.
//!
//! ```text
//! DIR/lock     held while the store is open
//! DIR/format   a number
//! DIR/db/      fjall, one keyspace: r → revision, k KEY → created, modified, value
//! ```
//!
//! One batch is one fjall batch with one sync; the revision goes into the same batch. It is one
//! keyspace because fjall keeps a journal until every keyspace in it has been flushed, and one that
//! holds nothing but the revision would hardly ever be.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::journal;
use crate::contract::{Change, Entry, OpenError, Revision};

/// The format that this version writes.
const FORMAT: u32 = 1;
/// The key of the revision.
const REVISION: &[u8] = b"r";
/// What comes before the key of an entry.
const ENTRY: u8 = b'k';
/// `created` and `modified`, eight bytes each, little-endian, before the value.
const HEADER: usize = 16;
/// Everything is read from memory, so fjall's block cache serves only its own merging.
const CACHE_BYTES: u64 = 2 << 20;
/// A table is written when this much is in memory: small, because the entries are there already.
const MEMTABLE_BYTES: u64 = 8 << 20;

/// Bytes of one batch while a backup is put back.
const FILL_BYTES: usize = 4 << 20;

pub(super) struct Disk {
    // Fields are dropped in this order: the lock goes last.
    keyspace: Keyspace,
    database: Database,
    dir: PathBuf,
    _lock: File,
}

/// What was on disk.
pub(super) struct Loaded {
    pub(super) disk: Disk,
    pub(super) entries: Vec<Entry>,
    pub(super) revision: Revision,
}

impl Disk {
    /// Opens or makes the files in `dir` and reads everything. Blocks.
    pub(super) fn open(dir: &Path) -> Result<Loaded, OpenError> {
        let io = |source| OpenError::Io { dir: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(io)?;
        let lock = File::create(dir.join("lock")).map_err(io)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::Locked { dir: dir.to_owned() },
            TryLockError::Error(source) => io(source),
        })?;
        check_format(dir)?;

        let fjall = |error| from_fjall(dir, error);
        let path = dir.join("db");
        let database = match open_database(&path) {
            Err(fjall::Error::JournalRecovery(_))
                if journal::cut_torn_batch(&path).map_err(io)? =>
            {
                open_database(&path)
            }
            opened => opened,
        };
        let database = database.map_err(fjall)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let keyspace = database.keyspace("store", options).map_err(fjall)?;
        let disk = Disk { keyspace, database, dir: dir.to_owned(), _lock: lock };
        let (entries, revision) = disk.load()?;
        Ok(Loaded { disk, entries, revision })
    }

    fn load(&self) -> Result<(Vec<Entry>, Revision), OpenError> {
        let fjall = |error| from_fjall(&self.dir, error);
        let damaged = |what: String| OpenError::Damaged { dir: self.dir.clone(), what };
        let revision = match self.keyspace.get(REVISION).map_err(fjall)? {
            None => Revision::FIRST,
            Some(value) => {
                let value = value[..].try_into().map_err(|_| {
                    damaged(format!("the revision has {} bytes, not 8", value.len()))
                })?;
                Revision(u64::from_le_bytes(value))
            }
        };
        let mut entries = Vec::new();
        for guard in self.keyspace.prefix([ENTRY]) {
            let (key, value) = guard.into_inner().map_err(fjall)?;
            let entry = decode(&key[1..], &value)
                .filter(|entry| entry.modified <= revision)
                .ok_or_else(|| damaged(format!("the entry of {key:?} is not whole")))?;
            entries.push(entry);
        }
        Ok((entries, revision))
    }

    /// Writes a batch and syncs it. After an error nothing is known about what is on disk.
    pub(super) fn commit(&self, changes: &[Arc<Change>]) -> Result<(), fjall::Error> {
        let Some(last) = changes.last() else { return Ok(()) };
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        // fjall copies what it is given: one place serves all.
        let mut value = Vec::new();
        for change in changes {
            match &**change {
                Change::Put { entry, .. } => {
                    encode(&mut value, entry);
                    batch.insert(&self.keyspace, stored_key(&entry.key), &value[..]);
                }
                Change::Delete { previous, .. } => {
                    batch.remove(&self.keyspace, stored_key(&previous.key))
                }
            }
        }
        batch.insert(&self.keyspace, REVISION, last.revision().0.to_le_bytes());
        batch.commit()
    }

    /// Writes entries as they are, and `revision` last, with the only sync.
    pub(super) fn fill(
        &self,
        revision: Revision,
        entries: impl Iterator<Item = io::Result<Entry>>,
    ) -> Result<(), OpenError> {
        let fjall = |error| from_fjall(&self.dir, error);
        let (mut batch, mut bytes, mut value) = (self.database.batch(), 0, Vec::new());
        for entry in entries {
            let entry = entry.map_err(|source| OpenError::Io { dir: self.dir.clone(), source })?;
            if entry.modified > revision {
                let what = format!("{:?} is newer than the whole", entry.key);
                return Err(OpenError::Damaged { dir: self.dir.clone(), what });
            }
            bytes += entry.key.len() + entry.value.len();
            encode(&mut value, &entry);
            batch.insert(&self.keyspace, stored_key(&entry.key), &value[..]);
            if bytes > FILL_BYTES {
                std::mem::replace(&mut batch, self.database.batch()).commit().map_err(fjall)?;
                bytes = 0;
            }
        }
        batch.insert(&self.keyspace, REVISION, revision.0.to_le_bytes());
        batch.durability(Some(PersistMode::SyncAll)).commit().map_err(fjall)
    }

    /// Bytes that may still be written to the file system.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(&self.dir)?;
        Ok(stat.blocks_available() * stat.fragment_size())
    }
}

fn open_database(path: &Path) -> Result<Database, fjall::Error> {
    Database::builder(path)
        .cache_size(CACHE_BYTES)
        .manual_journal_persist(true)
        .worker_threads(1)
        .open()
}

fn stored_key(key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + key.len());
    stored.push(ENTRY);
    stored.extend_from_slice(key);
    stored
}

/// Puts into `value` what is stored of an entry.
fn encode(value: &mut Vec<u8>, entry: &Entry) {
    value.clear();
    value.reserve(HEADER + entry.value.len());
    value.extend_from_slice(&entry.created.0.to_le_bytes());
    value.extend_from_slice(&entry.modified.0.to_le_bytes());
    value.extend_from_slice(&entry.value);
}

fn decode(key: &[u8], stored: &[u8]) -> Option<Entry> {
    let (created, rest) = stored.split_first_chunk::<8>()?;
    let (modified, value) = rest.split_first_chunk::<8>()?;
    let at = |bytes: &[u8; 8]| Revision(u64::from_le_bytes(*bytes));
    Some(Entry::packed(key, value, at(created), at(modified)))
}

/// Refuses a newer format; writes down ours when the directory is new.
fn check_format(dir: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { dir: dir.to_owned(), source };
    let path = dir.join("format");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let found: u32 = text.trim().parse().map_err(|_| OpenError::Damaged {
                dir: dir.to_owned(),
                what: format!("the format is not a number: {text:?}"),
            })?;
            if found > FORMAT {
                return Err(OpenError::NewerFormat { found, known: FORMAT });
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_durably(dir, "format", format!("{FORMAT}\n").as_bytes()).map_err(io)
        }
        Err(error) => Err(io(error)),
    }
}

fn write_durably(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

fn from_fjall(dir: &Path, error: fjall::Error) -> OpenError {
    let dir = dir.to_owned();
    match error {
        fjall::Error::Io(source) => OpenError::Io { dir, source },
        fjall::Error::Locked => OpenError::Locked { dir },
        other => OpenError::Damaged { dir, what: other.to_string() },
    }
}
