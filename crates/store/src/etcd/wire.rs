//! etcd's words turned into ours: keys, revisions, errors.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Error, KeyValue, ResponseHeader};

use crate::contract::{Entry, ReadError, Revision, WriteError};

/// Where our keys stand in etcd, and how its revisions become ours.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// What stands before the key of an entry.
    pub(super) entries: Vec<u8>,
    /// The key of the offset.
    pub(super) offset_key: Vec<u8>,
    /// What is added to etcd's revisions. A restore sets it, so that ours never go back when the
    /// etcd is a new one that counts from 1.
    pub(super) offset: u64,
}

impl Place {
    pub(super) fn new(prefix: &str) -> Place {
        Place {
            entries: format!("{prefix}/entries/").into_bytes(),
            offset_key: format!("{prefix}/offset").into_bytes(),
            offset: 0,
        }
    }

    pub(super) fn key(&self, key: &[u8]) -> Vec<u8> {
        [&self.entries, key].concat()
    }

    /// The first key after all entries.
    pub(super) fn end(&self) -> Vec<u8> {
        let mut end = self.entries.clone();
        if let Some(last) = end.last_mut() {
            *last += 1; // A slash, so it does not overflow.
        }
        end
    }

    pub(super) fn revision(&self, theirs: i64) -> Revision {
        Revision(theirs.unsigned_abs() + self.offset)
    }

    /// None for a revision before our time, which etcd cannot have.
    pub(super) fn theirs(&self, revision: Revision) -> Option<i64> {
        i64::try_from(revision.0.checked_sub(self.offset)?).ok()
    }

    pub(super) fn of_header(&self, header: Option<&ResponseHeader>) -> Revision {
        self.revision(header.map_or(0, ResponseHeader::revision))
    }

    /// The entry that `kv` holds; none when it is not one of ours.
    pub(super) fn entry(&self, kv: KeyValue) -> Option<Entry> {
        let created = self.revision(kv.create_revision());
        let modified = self.revision(kv.mod_revision());
        let (key, value) = kv.into_key_value();
        let key = Bytes::copy_from_slice(key.strip_prefix(&self.entries[..])?);
        // A boxed slice has no room to spare, which a vector from the wire may have.
        Some(Entry { key, value: value.into_boxed_slice().into(), created, modified })
    }
}

/// Waits for etcd's answer for as long as `patience`.
pub(super) async fn answer<T>(
    patience: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(patience, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::IoError(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("etcd did not answer within {} s", patience.as_secs()),
        ))),
    }
}

pub(super) fn io_error(error: Error) -> io::Error {
    match error {
        Error::IoError(error) => error,
        Error::GRpcStatus(status) => io::Error::other(status.message().to_owned()),
        other => io::Error::other(other),
    }
}

/// True when what was asked for is compacted.
pub(super) fn is_compacted(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.message().contains("has been compacted"))
}

pub(super) fn read_error(error: Error) -> ReadError {
    ReadError::Io(io_error(error))
}

/// `bytes` is the size of what was written.
pub(super) fn write_error(error: Error, bytes: usize) -> WriteError {
    let said = match &error {
        Error::GRpcStatus(status) => status.message(),
        _ => "",
    };
    if said.contains("database space exceeded") {
        return WriteError::Full;
    }
    if said.contains("request is too large") || said.contains("larger than max") {
        let what = format!(
            "{bytes} bytes are more than this etcd takes in one request (its --max-request-bytes)"
        );
        return WriteError::Io(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    WriteError::Io(io_error(error))
}
