//! Everything at one revision in one file, which can be told whole from torn or altered.
//!
//! ```text
//! magic, version       "berth backup\n", u32
//! header               revision, count of entries, time (s since 1970), count of files; CRC-32
//! block …              compressed length, plain length, CRC-32 of what follows; zlib
//!     record …         kind, length of key, length of value, created, modified, CRC-32; key, value
//! end                  a block of length 0; SHA-256 of all before it
//! ```
//!
//! Integers are little-endian. A record is an entry of the store or a file beside it (keys and
//! options, which an instance cannot be rebuilt without); files come first.
//!
//! A snapshot is taken in pages of one revision, through the trait: writes go on meanwhile, and it
//! works on every implementation. Reading refuses what is not exactly what was written, and says
//! at which byte of the file.

mod read;
mod record;
mod write;

use std::io;
use std::path::PathBuf;

pub use self::read::{Reader, check};
pub use self::write::{Summary, write};
use crate::contract::{ReadError, Revision};

/// How far revisions jump in a restored store: more writes than there can have been since the
/// backup was taken (50,000/s for a day), so that no revision means two things.
pub const REVISION_JUMP: u64 = 1 << 32;

const MAGIC: &[u8; 13] = b"berth backup\n";
const VERSION: u32 = 1;
/// Plain bytes after which a block is closed; one record may make it longer.
const BLOCK_BYTES: usize = 256 << 10;
/// No block is longer: what says otherwise is not ours.
const BLOCK_BYTES_MAX: usize = 64 << 20;

/// A file that belongs to the instance, beside its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extra {
    /// Relative to the data directory, in plain components.
    pub path: String,
    /// What is in it.
    pub content: Vec<u8>,
}

/// What a backup says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The one revision of all entries.
    pub revision: Revision,
    /// How many entries there are.
    pub entries: u64,
    /// When it was begun, in seconds since 1970.
    pub created: u64,
    /// How many files there are.
    pub files: u32,
}

/// Why a backup was not made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store could not be read, or forgot the revision before all of it was read.
    #[error("cannot read the store for a backup")]
    Store(#[source] ReadError),
    /// The backup could not be written.
    #[error("cannot write the backup")]
    Io(#[source] io::Error),
}

/// Why a backup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It does not begin as one does.
    #[error("this is no backup of berth")]
    NotABackup,
    /// A newer version wrote it.
    #[error("the backup has format {found}, this version knows formats up to {VERSION}")]
    NewerVersion {
        /// The format of the file.
        found: u32,
    },
    /// It ends too early.
    #[error("the backup is torn: it ends at byte {at}, in the middle of {what}")]
    Torn {
        /// How long it is.
        at: u64,
        /// What was being read.
        what: &'static str,
    },
    /// Its content is not what was written.
    #[error("the backup is altered: {what} at byte {at} is not what was written")]
    Altered {
        /// Where the altered part begins.
        at: u64,
        /// Which part it is.
        what: &'static str,
    },
    /// It could not be read.
    #[error("cannot read the backup")]
    Io(#[source] io::Error),
    /// The file could not be opened.
    #[error("cannot open the backup {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}
