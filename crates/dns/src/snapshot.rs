//! The last known names on disk, for a start while the API server is away.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::zone::Records;

/// What was known last; `None` when there is nothing, or nothing that can be read.
pub fn read(path: &Path) -> Option<Records> {
    let bytes = fs::read(path).ok()?;
    serde_json::from_slice(&bytes)
        .inspect_err(|error| tracing::warn!(%error, ?path, "the snapshot of names is unreadable"))
        .ok()
}

/// Writes it so that a reader finds the old one or the new one, never half of it.
///
/// # Errors
/// When the disk does not take it.
pub fn write(path: &Path, records: &Records) -> std::io::Result<()> {
    let part = path.with_extension("part");
    let mut file = fs::File::create(&part)?;
    file.write_all(&serde_json::to_vec(records)?)?;
    file.sync_all()?;
    fs::rename(&part, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_rubbish_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names");
        assert_eq!(read(&path), None);
        write(&path, &Records::default()).unwrap();
        assert_eq!(read(&path), Some(Records::default()));
        fs::write(&path, b"{").unwrap();
        assert_eq!(read(&path), None);
    }
}
