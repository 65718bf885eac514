//! `subPath`: one file or directory of a volume, without a way out of it.
//!
//! The kernel resolves the path below the volume (`RESOLVE_BENEATH`), so a link that a container
//! planted there cannot lead elsewhere, also when it changes the volume at this very moment. What
//! was opened is bound to a place that no container can write, and that place is mounted.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

use super::VolumeError;

/// Binds `sub_path` of the volume at `root` to `target`, and gives `target`.
///
/// A directory that is missing is made. What is bound there already is replaced: a container that
/// is made anew sees the volume as it is now.
pub(super) fn bind(
    volume: &str,
    root: &Path,
    sub_path: &str,
    target: &Path,
) -> Result<PathBuf, VolumeError> {
    let path = Path::new(sub_path);
    let plain = path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(VolumeError::Path { volume: volume.to_owned(), path: sub_path.to_owned() });
    }
    let source =
        open_beneath(root, path).map_err(VolumeError::io(volume, "open", &root.join(path)))?;
    bind_descriptor(&source, target).map_err(VolumeError::io(volume, "mount", target))?;
    Ok(target.to_owned())
}

fn open_beneath(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let root = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    match resolve(&root, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_directories(&root, path)?;
            resolve(&root, path)
        }
        other => other,
    }
}

fn resolve(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(root, path, how)?)
}

/// Makes what is missing of `path`, one component after the other, each in its opened parent.
fn make_directories(root: &OwnedFd, path: &Path) -> io::Result<()> {
    let mut done = PathBuf::new();
    let mut parent = root.try_clone()?;
    for component in path.components() {
        done.push(component);
        parent = match resolve(root, &done) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                mkdirat(
                    &parent,
                    Path::new(component.as_os_str()),
                    Mode::from_bits_truncate(0o750),
                )?;
                resolve(root, &done)?
            }
            Err(error) => return Err(error),
        };
    }
    Ok(())
}

fn bind_descriptor(source: &OwnedFd, target: &Path) -> io::Result<()> {
    let is_dir =
        SFlag::from_bits_truncate(fstat(source)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
    // An earlier container's mount; containers that still run have their own copy of it.
    let _ = umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let exists = fs::symlink_metadata(target);
    if exists.as_ref().is_ok_and(|meta| meta.is_dir() != is_dir) {
        if is_dir { fs::remove_file(target)? } else { fs::remove_dir(target)? }
    }
    if is_dir {
        fs::create_dir_all(target)?;
    } else {
        fs::File::create(target)?;
    }
    let opened = format!("/proc/self/fd/{}", source.as_raw_fd());
    mount(Some(opened.as_str()), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_that_lead_out_are_refused_and_inner_ones_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("volume");
        fs::create_dir_all(root.join("real")).expect("a directory");
        fs::write(dir.path().join("secret"), "no").expect("a file");
        symlink("../secret", root.join("out")).expect("a link");
        symlink("/etc", root.join("absolute")).expect("a link");
        symlink("real", root.join("inner")).expect("a link");
        assert!(open_beneath(&root, Path::new("inner")).is_ok());
        assert!(open_beneath(&root, Path::new("new/deep")).is_ok());
        assert!(root.join("new/deep").is_dir());
        for path in ["out", "absolute", "absolute/passwd", "inner/../../secret"] {
            assert!(open_beneath(&root, Path::new(path)).is_err(), "{path}");
        }
    }
}
