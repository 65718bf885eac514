//! Files that change all at once, as Kubernetes' own agent lays them out.
//!
//! ```text
//!  VOLUME/key ─▶ ..data/key        one link a first path component
//!  VOLUME/..data ─▶ ..N            replaced by rename: readers see the old set or the new one
//!  VOLUME/..N/key                  the files
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use super::ownership;

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub content: Vec<u8>,
    pub mode: u32,
}

/// Relative path → file; a path has passed [`is_inside`].
pub(super) type Files = BTreeMap<PathBuf, File>;

const DATA: &str = "..data";

/// Whether `path` names a file inside a volume, and none of our own names.
pub(super) fn is_inside(path: &Path) -> bool {
    let mut components = path.components();
    let first = components.clone().next();
    components.all(|component| matches!(component, Component::Normal(_)))
        && first.is_some_and(|name| !name.as_os_str().to_string_lossy().starts_with(".."))
}

/// Makes the volume at `dir` hold exactly `files`. Nothing is touched when it does already.
pub(super) fn write(dir: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let data = dir.join(DATA);
    let old = fs::read_link(&data).ok();
    if old.as_ref().is_some_and(|old| holds(&dir.join(old), files, group)) {
        return Ok(());
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    let new = format!("..{}", jiff::Timestamp::now().as_nanosecond());
    let new_dir = dir.join(&new);
    fs::create_dir(&new_dir)?;
    fs::set_permissions(&new_dir, fs::Permissions::from_mode(0o755))?;
    for (path, file) in files {
        let path = new_dir.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.content)?;
        // The process's umask has no say in what a volume's files may.
        fs::set_permissions(&path, fs::Permissions::from_mode(mode(file, group)))?;
    }
    if let Some(group) = group {
        ownership::give(&new_dir, group, true)?;
    }
    let next = dir.join("..data_next");
    // Left behind by a process that was killed here.
    let _ = fs::remove_file(&next);
    symlink(&new, &next)?;
    fs::rename(&next, &data)?;
    link_names(dir, files)?;
    remove_old(dir, &new)
}

fn mode(file: &File, group: Option<u32>) -> u32 {
    // A group that cannot read its volume would be of no use.
    if group.is_some() { file.mode | 0o440 } else { file.mode }
}

/// Whether the directory holds these files, and no others.
fn holds(dir: &Path, files: &Files, group: Option<u32>) -> bool {
    let same = files.iter().all(|(path, file)| {
        let path = dir.join(path);
        fs::read(&path).is_ok_and(|content| content == file.content)
            && fs::metadata(&path)
                .is_ok_and(|meta| meta.permissions().mode() & 0o777 == mode(file, group))
    });
    same && count_files(dir) == files.len()
}

fn count_files(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return usize::MAX };
    entries.flatten().fold(0, |count, entry| {
        let below = if entry.path().is_dir() { count_files(&entry.path()) } else { 1 };
        count.saturating_add(below)
    })
}

/// One link for each first path component; links of names that are gone are removed.
fn link_names(dir: &Path, files: &Files) -> io::Result<()> {
    let names: BTreeSet<_> =
        files.keys().filter_map(|path| path.components().next()).map(|c| c.as_os_str()).collect();
    for name in &names {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = name.to_string_lossy().starts_with("..");
        if !ours && !names.contains(name.as_os_str()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn remove_old(dir: &Path, kept: &str) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_set = name.to_string_lossy().starts_with("..") && entry.file_type()?.is_dir();
        if is_set && name != kept {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(pairs: &[(&str, &str)]) -> Files {
        pairs
            .iter()
            .map(|(path, text)| {
                (PathBuf::from(path), File { content: text.as_bytes().to_vec(), mode: 0o640 })
            })
            .collect()
    }

    #[test]
    fn a_change_replaces_all_files_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        write(dir.path(), &files(&[("a", "1"), ("deep/b", "2")]), None).expect("written");
        assert_eq!(read("a").as_deref(), Some("1"));
        assert_eq!(read("deep/b").as_deref(), Some("2"));
        let mode = fs::metadata(dir.path().join("a")).expect("a").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);

        let before = fs::read_link(dir.path().join(DATA)).expect("a link");
        write(dir.path(), &files(&[("a", "1"), ("deep/b", "2")]), None).expect("written");
        assert_eq!(fs::read_link(dir.path().join(DATA)).expect("a link"), before, "no change");

        write(dir.path(), &files(&[("a", "new")]), None).expect("written");
        assert_eq!(read("a").as_deref(), Some("new"));
        assert_eq!(read("deep/b"), None);
        assert!(fs::symlink_metadata(dir.path().join("deep")).is_err(), "its link is gone too");
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 3, "no old sets");
    }

    #[test]
    fn paths_stay_inside_the_volume() {
        for (path, expected) in [
            ("a", true),
            ("a/b", true),
            ("..a", false),
            ("a/../b", false),
            ("/a", false),
            ("", false),
        ] {
            assert_eq!(is_inside(Path::new(path)), expected, "{path:?}");
        }
    }
}
