//! What was collected of one App: a log in pieces, the oldest of which go first.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use crate::logs::{rotated, rotated_name};

/// A quota is filled by so many pieces; the oldest goes as a whole.
const PIECES: u64 = 8;
const LARGEST_PIECE: u64 = 64 << 20;
/// Longer lines are collected as several.
pub(super) const LONGEST: usize = 64 << 10;
const BUFFER: usize = 256 << 10;

/// The log that lines are added to. Nothing of what is added counts before [`Store::commit`].
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    file: File,
    /// The file's length, and what of it counts.
    length: u64,
    committed: u64,
    waiting: Vec<u8>,
    piece: u64,
}

impl Store {
    /// Opens the log at `path`; all of it may take `room` bytes.
    pub fn open(path: &Path, room: u64) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let length = file.metadata()?.len();
        let piece = (room / PIECES).clamp(1, LARGEST_PIECE);
        let waiting = Vec::new();
        Ok(Self { path: path.to_owned(), file, length, committed: length, waiting, piece })
    }

    /// How large a piece gets, bytes.
    pub fn piece(&self) -> u64 {
        self.piece
    }

    /// Whether so much waits that it should be committed now.
    pub fn is_full(&self) -> bool {
        self.length + self.waiting.len() as u64 - self.committed >= self.piece
    }

    /// One line of one file. `text` has no line end.
    pub fn add(&mut self, now: &str, label: &str, text: &[u8]) -> io::Result<()> {
        self.waiting.extend_from_slice(now.as_bytes());
        self.waiting.extend_from_slice(b" stdout F ");
        self.waiting.extend_from_slice(label.as_bytes());
        self.waiting.push(b' ');
        self.waiting.extend_from_slice(text);
        self.waiting.push(b'\n');
        if self.waiting.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.waiting)?;
        self.length += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// Writes what waits; `noted` then remembers that it was written.
    ///
    /// # Errors
    /// When the disk is full, for instance. See [`Store::take_back`].
    pub fn commit(&mut self, noted: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.flush()?;
        noted()?;
        self.committed = self.length;
        if self.length >= self.piece { self.rotate() } else { Ok(()) }
    }

    /// Forgets what was added since the last commit: half a record would spoil the next one, and
    /// what was not noted comes again.
    pub fn take_back(&mut self) {
        self.waiting.clear();
        if self.file.set_len(self.committed).is_ok() {
            self.length = self.committed;
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut aside = rotated_name(&self.path, Timestamp::now());
        while aside.exists() {
            aside = rotated_name(&self.path, Timestamp::now());
        }
        std::fs::rename(&self.path, aside)?;
        self.file = File::options().create(true).append(true).open(&self.path)?;
        (self.length, self.committed) = (0, 0);
        Ok(())
    }
}

/// Removes the pieces of the log at `path` that are older than `keep`, and the oldest beyond `room`
/// bytes. Whether anything is left.
pub(super) fn shrink(path: &Path, room: u64, keep: Duration, now: SystemTime) -> io::Result<bool> {
    let age = |path: &Path| -> Option<(u64, Duration)> {
        let meta = std::fs::metadata(path).ok()?;
        let age = now.duration_since(meta.modified().ok()?).unwrap_or_default();
        Some((meta.len(), age))
    };
    let mut total = 0;
    let mut left = false;
    let newest_first = std::iter::once(path.to_owned()).chain(rotated(path).into_iter().rev());
    for piece in newest_first {
        let Some((length, age)) = age(&piece) else { continue };
        total += length;
        if age > keep || total > room {
            std::fs::remove_file(&piece)?;
        } else {
            left = true;
        }
    }
    // A quiet App's piece would never be full, and what is old in it never go.
    if let Ok(meta) = std::fs::metadata(path)
        && meta.len() > 0
        && let Ok(made) = meta.created()
        && now.duration_since(made).unwrap_or_default() > keep / 8
    {
        std::fs::rename(path, rotated_name(path, Timestamp::now()))?;
    }
    Ok(left)
}
