//! Who may use a volume: a pod's `fsGroup`.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

/// An emptyDir is everybody's, whatever the process's umask says.
pub(crate) fn open_to_all(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))
}

/// Gives `path` and all below it to `group`. Directories hand the group on to what is made in them.
pub(super) fn give(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.gid() != group {
        lchown(path, None, Some(group))?;
    }
    if meta.is_symlink() {
        return Ok(());
    }
    let mut added = if read_only { 0o440 } else { 0o660 };
    if meta.is_dir() {
        added |= 0o2110;
    }
    let mode = meta.permissions().mode() & 0o7777;
    // lchown takes the set-group bit of files away, so the mode comes second.
    fs::set_permissions(path, fs::Permissions::from_mode(mode | added))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}
