//! Container logs: read as `kubectl logs` wants them, kept small.
//!
//! containerd writes one line a record: `TIME STREAM TAG TEXT`, TAG `F` for a whole line and `P` for
//! a part of one. `N.log` is attempt N of a container; what was rotated away is `N.log.TIME` beside
//! it, and reading goes through all of them.

mod files;
mod line;
mod reader;
mod rotation;
mod tail;

use std::path::Path;

use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;

use crate::Config;

pub(crate) use files::{rotated, rotated_name};
pub use reader::LogReader;
pub use rotation::start_rotating;

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Wait for more until the container ends.
    pub follow: bool,
    /// Only this many lines from the end.
    pub tail_lines: Option<u64>,
    /// Only lines written at this time or later.
    pub since: Option<Timestamp>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// At most this many bytes.
    pub limit_bytes: Option<u64>,
    /// Only one of `stdout` and `stderr`.
    pub stream: Option<&'static str>,
}

/// The log in chunks. `running` says whether the container may still write; it is asked at the end
/// of the file when following.
pub fn stream(
    reader: LogReader,
    running: impl Fn() -> bool + Send + Sync + 'static,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    futures::stream::unfold(Some((reader, running)), |state| async move {
        let (mut reader, running) = state?;
        match reader.next(&running).await {
            Ok(Some(chunk)) => Some((Ok(chunk), Some((reader, running)))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
}

/// Removes the logs of a pod that is no more; fine when they are gone already.
///
/// # Errors
/// When the directory cannot be removed.
pub fn remove(config: &Config, namespace: &str, name: &str, uid: &str) -> std::io::Result<()> {
    remove_dir(&config.pod_logs_dir(namespace, name, uid))
}

fn remove_dir(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
