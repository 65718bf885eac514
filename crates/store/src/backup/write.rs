//! Taking a snapshot.

use std::io::{self, Write};
use std::time::SystemTime;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use sha2::{Digest, Sha256};

use super::record::{push_entry, push_file};
use super::{BLOCK_BYTES, BackupError, Extra, Header, MAGIC, VERSION};
use crate::contract::{ReadError, Revision, Store};

/// Entries of one page: the store copies pointers under its read lock for as long.
const PAGE: usize = 500;
/// How often a snapshot is begun anew when the store forgot its revision half-way.
const ATTEMPTS: usize = 3;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// What the backup says of itself.
    pub header: Header,
    /// How long it is, in bytes.
    pub bytes: u64,
}

/// Writes a backup of `store` and `files` to what `fresh` makes.
///
/// `fresh` is called again, and must then start from nothing, when the store forgot the snapshot's
/// revision before all of it was read. The caller syncs what it made.
///
/// # Errors
/// `Store` with `Compacted` when that happened three times in a row.
pub async fn write<W: Write>(
    store: &dyn Store,
    files: &[Extra],
    mut fresh: impl FnMut() -> io::Result<W>,
) -> Result<(Summary, W), BackupError> {
    let mut attempt = 1;
    loop {
        let out = fresh().map_err(BackupError::Io)?;
        match snapshot(store, files, out).await {
            Err(BackupError::Store(ReadError::Compacted { .. })) if attempt < ATTEMPTS => {
                attempt += 1;
            }
            done => return done,
        }
    }
}

async fn snapshot<W: Write>(
    store: &dyn Store,
    files: &[Extra],
    out: W,
) -> Result<(Summary, W), BackupError> {
    let list = async |after: Option<&[u8]>, at: Option<Revision>| {
        store.list(b"", after, PAGE, at).await.map_err(BackupError::Store)
    };
    let mut page = list(None, None).await?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let header = Header {
        revision: page.revision,
        entries: page.entries.len() as u64 + page.remaining,
        created: now.map_or(0, |since| since.as_secs()),
        files: u32::try_from(files.len()).expect("an instance has a handful of files"),
    };
    let mut blocks = Blocks::begin(out, &header).map_err(BackupError::Io)?;
    for file in files {
        blocks.push(|block| push_file(block, file)).map_err(BackupError::Io)?;
    }
    loop {
        for entry in &page.entries {
            blocks.push(|block| push_entry(block, entry)).map_err(BackupError::Io)?;
        }
        let last = page.entries.last().map(|entry| entry.key.clone());
        let (Some(last), true) = (last, page.remaining > 0) else { break };
        page = list(Some(&last), Some(header.revision)).await?;
    }
    let (bytes, out) = blocks.end().map_err(BackupError::Io)?;
    Ok((Summary { header, bytes }, out))
}

struct Blocks<W> {
    out: W,
    digest: Sha256,
    bytes: u64,
    plain: Vec<u8>,
    packed: Vec<u8>,
    packer: Compress,
}

impl<W: Write> Blocks<W> {
    fn begin(out: W, header: &Header) -> io::Result<Blocks<W>> {
        let mut blocks = Blocks {
            out,
            digest: Sha256::new(),
            bytes: 0,
            plain: Vec::with_capacity(BLOCK_BYTES + 4096),
            packed: Vec::new(),
            packer: Compress::new(Compression::fast(), true),
        };
        let mut fields = Vec::new();
        fields.extend_from_slice(&header.revision.0.to_le_bytes());
        fields.extend_from_slice(&header.entries.to_le_bytes());
        fields.extend_from_slice(&header.created.to_le_bytes());
        fields.extend_from_slice(&header.files.to_le_bytes());
        blocks.emit(MAGIC)?;
        blocks.emit(&VERSION.to_le_bytes())?;
        blocks.emit(&fields)?;
        blocks.emit(&checksum(&fields).to_le_bytes())?;
        Ok(blocks)
    }

    fn emit(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn push(&mut self, record: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        record(&mut self.plain);
        if self.plain.len() >= BLOCK_BYTES { self.close_block() } else { Ok(()) }
    }

    fn close_block(&mut self) -> io::Result<()> {
        if self.plain.is_empty() {
            return Ok(());
        }
        self.packer.reset();
        self.packed.clear();
        // zlib's own bound: what cannot be compressed grows by a few bytes for every 16 KiB.
        self.packed.reserve(self.plain.len() + self.plain.len() / 1000 + 1024);
        let packed = self.packer.compress_vec(&self.plain, &mut self.packed, FlushCompress::Finish);
        if !matches!(packed, Ok(Status::StreamEnd)) {
            return Err(io::Error::other("a block could not be compressed"));
        }
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
        let mut head = Vec::with_capacity(12);
        head.extend_from_slice(&length(&self.packed)?.to_le_bytes());
        head.extend_from_slice(&length(&self.plain)?.to_le_bytes());
        head.extend_from_slice(&checksum(&self.packed).to_le_bytes());
        self.emit(&head)?;
        let packed = std::mem::take(&mut self.packed);
        self.emit(&packed)?;
        self.packed = packed;
        self.plain.clear();
        Ok(())
    }

    fn end(mut self) -> io::Result<(u64, W)> {
        self.close_block()?;
        self.emit(&[0; 4])?;
        let digest = self.digest.finalize();
        self.out.write_all(&digest)?;
        self.out.flush()?;
        Ok((self.bytes + digest.len() as u64, self.out))
    }
}

pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}
