//! Reading a backup back, and refusing what is not exactly what was written.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::{Decompress, FlushDecompress, Status};
use sha2::{Digest, Sha256};

use super::record::{Record, take};
use super::write::checksum;
use super::{BLOCK_BYTES_MAX, Extra, Header, MAGIC, RestoreError, VERSION};
use crate::contract::Entry;

const HEADER_BYTES: usize = 8 + 8 + 8 + 4;
const DIGEST_BYTES: usize = 32;

/// Reads the whole of the file and throws it away: what comes back is that it can be restored.
///
/// # Errors
/// What is wrong, and at which byte.
pub fn check(path: &Path) -> Result<Header, RestoreError> {
    let mut reader = Reader::open(path)?;
    while reader.next_entry()?.is_some() {}
    Ok(reader.header())
}

/// A backup being read. Entries are known to be whole when they come; that the file is whole is
/// known when there is no further one, so [`check`] it first.
#[derive(Debug)]
pub struct Reader<R> {
    input: Input<R>,
    header: Header,
    files: Vec<Extra>,
    block: Vec<u8>,
    /// How much of the block has been taken.
    taken: usize,
    /// Where the block stands in the file.
    block_at: u64,
    entries: u64,
    ended: bool,
}

impl Reader<BufReader<File>> {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// When it cannot be opened, or its beginning or its files are not whole.
    pub fn open(path: &Path) -> Result<Self, RestoreError> {
        let open = |source| RestoreError::Open { path: path.to_owned(), source };
        Reader::new(BufReader::new(File::open(path).map_err(open)?))
    }
}

impl<R: Read> Reader<R> {
    /// Reads the header and the files.
    ///
    /// # Errors
    /// When they are not whole.
    pub fn new(input: R) -> Result<Self, RestoreError> {
        let mut input = Input { input, at: 0, digest: Sha256::new() };
        let header = read_header(&mut input)?;
        let mut reader = Reader {
            input,
            header,
            files: Vec::new(),
            block: Vec::new(),
            taken: 0,
            block_at: 0,
            entries: 0,
            ended: false,
        };
        for _ in 0..header.files {
            match reader.next_record()? {
                Some(Record::File(file)) if is_plain(&file.path) => reader.files.push(file),
                _ => return Err(reader.altered("a file")),
            }
        }
        Ok(reader)
    }

    /// What the backup says of itself.
    pub fn header(&self) -> Header {
        self.header
    }

    /// The files beside the store.
    pub fn files(&self) -> &[Extra] {
        &self.files
    }

    /// The next entry, in key order; none at the end, when all of the file has been found whole.
    ///
    /// # Errors
    /// What is wrong, and at which byte.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, RestoreError> {
        match self.next_record()? {
            Some(Record::Entry(entry)) => {
                self.entries += 1;
                Ok(Some(entry))
            }
            Some(Record::File(_)) => Err(self.altered("a file among entries")),
            None if self.entries == self.header.entries => Ok(None),
            None => Err(self.altered("the number of entries")),
        }
    }

    fn altered(&self, what: &'static str) -> RestoreError {
        RestoreError::Altered { at: self.block_at, what }
    }

    fn next_record(&mut self) -> Result<Option<Record>, RestoreError> {
        while self.taken == self.block.len() {
            if self.ended || !self.next_block()? {
                self.ended = true;
                return Ok(None);
            }
        }
        let mut rest = &self.block[self.taken..];
        let record = take(&mut rest).ok_or_else(|| self.altered("a record in the block"))?;
        self.taken = self.block.len() - rest.len();
        Ok(Some(record))
    }

    /// False at the end, whose digest has been compared.
    fn next_block(&mut self) -> Result<bool, RestoreError> {
        self.block_at = self.input.at;
        let packed = self.input.number("the length of a block")?;
        if packed == 0 {
            return self.end().map(|()| false);
        }
        let plain = self.input.number("the length of a block")?;
        let sum = self.input.number("the checksum of a block")?;
        let (packed, plain) = (packed as usize, plain as usize);
        if packed > BLOCK_BYTES_MAX || plain > BLOCK_BYTES_MAX {
            return Err(self.altered("the length of a block"));
        }
        let packed = self.input.bytes(packed, "a block")?;
        if checksum(&packed) != sum {
            return Err(self.altered("a block"));
        }
        self.block.clear();
        self.block.reserve_exact(plain);
        let mut unpacker = Decompress::new(true);
        let unpacked = unpacker.decompress_vec(&packed, &mut self.block, FlushDecompress::Finish);
        if !matches!(unpacked, Ok(Status::StreamEnd)) || self.block.len() != plain {
            return Err(self.altered("a block"));
        }
        self.taken = 0;
        Ok(true)
    }

    fn end(&mut self) -> Result<(), RestoreError> {
        let digest = self.input.digest.clone().finalize();
        let at = self.input.at;
        let found = self.input.bytes(DIGEST_BYTES, "the digest")?;
        if found[..] != digest[..] {
            return Err(RestoreError::Altered { at, what: "the digest" });
        }
        let mut one = [0];
        match self.input.input.read(&mut one) {
            Ok(0) => Ok(()),
            Ok(_) => Err(RestoreError::Altered { at: self.input.at, what: "what follows the end" }),
            Err(error) => Err(RestoreError::Io(error)),
        }
    }
}

/// A path is written below a data directory, so it may not lead out of it.
fn is_plain(path: &str) -> bool {
    let plain =
        |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    path.split('/').all(plain)
}

fn read_header<R: Read>(input: &mut Input<R>) -> Result<Header, RestoreError> {
    let magic = input.bytes(MAGIC.len(), "the beginning").map_err(|error| match error {
        RestoreError::Torn { .. } => RestoreError::NotABackup,
        other => other,
    })?;
    if magic != MAGIC {
        return Err(RestoreError::NotABackup);
    }
    let found = input.number("the version")?;
    if found != VERSION {
        return Err(RestoreError::NewerVersion { found });
    }
    let at = input.at;
    let fields = input.bytes(HEADER_BYTES, "the header")?;
    if input.number("the header")? != checksum(&fields) {
        return Err(RestoreError::Altered { at, what: "the header" });
    }
    let number = |at: usize| {
        u64::from_le_bytes(*fields[at..].first_chunk().expect("the header has all its fields"))
    };
    let files = u32::from_le_bytes(*fields[24..].first_chunk().expect("the last four bytes"));
    Ok(Header {
        revision: crate::contract::Revision(number(0)),
        entries: number(8),
        created: number(16),
        files,
    })
}

#[derive(Debug)]
struct Input<R> {
    input: R,
    at: u64,
    digest: Sha256,
}

impl<R: Read> Input<R> {
    fn bytes(&mut self, length: usize, what: &'static str) -> Result<Vec<u8>, RestoreError> {
        let mut bytes = Vec::new();
        let read = (&mut self.input).take(length as u64).read_to_end(&mut bytes);
        read.map_err(RestoreError::Io)?;
        self.at += bytes.len() as u64;
        if bytes.len() < length {
            return Err(RestoreError::Torn { at: self.at, what });
        }
        self.digest.update(&bytes);
        Ok(bytes)
    }

    fn number(&mut self, what: &'static str) -> Result<u32, RestoreError> {
        let bytes = self.bytes(4, what)?;
        Ok(u32::from_le_bytes(*bytes.first_chunk().expect("four bytes were asked for")))
    }
}
