//! What is mounted below a directory, and how it is taken away.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

/// A mount that would not go away.
#[derive(Debug, thiserror::Error)]
#[error("cannot unmount {path}")]
pub struct UnmountError {
    /// The mount point.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Mount points at or below `dir`, the newest first.
pub fn below(dir: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> =
        text.lines().filter_map(mount_point).filter(|path| path.starts_with(dir)).collect();
    found.reverse();
    found
}

/// Whether something is mounted on `path` itself.
pub fn is_mounted(path: &Path) -> bool {
    below(path).iter().any(|mount| mount == path)
}

/// Unmounts everything at or below `dir`. Who still uses a mount keeps it until they let go.
///
/// # Errors
/// Names the first mount that stayed: what is below `dir` must then not be removed.
pub fn unmount_below(dir: &Path) -> Result<(), UnmountError> {
    for path in below(dir) {
        match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // EINVAL: no mount any more, it went away together with another.
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(errno) => return Err(UnmountError { path, source: errno.into() }),
        }
    }
    match below(dir).into_iter().next() {
        None => Ok(()),
        Some(path) => {
            let source = io::Error::other("it is mounted again");
            Err(UnmountError { path, source })
        }
    }
}

/// The fifth field of a line of mountinfo; the kernel writes blanks in octal.
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split_ascii_whitespace().nth(4)?.as_bytes();
    let mut path = Vec::with_capacity(field.len());
    let mut at = 0;
    while let Some(byte) = field.get(at) {
        let octal = field
            .get(at + 1..at + 4)
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match (byte, octal) {
            (b'\\', Some(escaped)) => {
                path.push(escaped);
                at += 4;
            }
            _ => {
                path.push(*byte);
                at += 1;
            }
        }
    }
    Some(PathBuf::from(OsString::from_vec(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_in_mount_points_are_read() {
        let line = "36 35 98:0 /mnt1 /mnt\\040two/x rw,noatime - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some(PathBuf::from("/mnt two/x")));
        assert!(is_mounted(Path::new("/proc")));
        assert!(!is_mounted(Path::new("/proc/self")));
    }
}
