//! The files of one attempt's log: what was rotated away, oldest first, then the one in use.

use std::path::{Path, PathBuf};

/// Rotated files beside `path` in the order they were written, without `path` itself.
pub(crate) fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    // The suffix is a time of fixed width: the order of names is the order of writing.
    found.sort();
    found
}

/// The name that `path` gets when it is rotated away at `now`.
pub(crate) fn rotated_name(path: &Path, now: jiff::Timestamp) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{:015}", now.as_millisecond()));
    PathBuf::from(name)
}

/// The attempt that a file of a container's log directory belongs to: `3` for `3.log` and `3.log.…`.
pub(super) fn attempt(file_name: &str) -> Option<u32> {
    let (number, rest) = file_name.split_once(".log")?;
    if rest.is_empty() || rest.starts_with('.') { number.parse().ok() } else { None }
}
