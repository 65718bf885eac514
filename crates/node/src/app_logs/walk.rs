//! The files below a log directory, without following a link anywhere.
//!
//! The container owns the directory and may change it at any moment. So every step is taken from an
//! open directory, and a file is opened by the kernel's own word that no link was passed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, StatxFlags};

/// Directories below the volume's own.
const DEPTH: usize = 6;
/// More entries of one volume than this are not looked at in one look.
pub(super) const ENTRIES: usize = 20_000;

/// One file, as it is now.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Below the volume.
    pub path: PathBuf,
    /// The same file under any name: its number and when it was made.
    pub key: String,
    /// Its length, bytes.
    pub size: u64,
    /// What it takes of the disk, bytes.
    pub taken: u64,
    /// When it was last written, seconds since 1970.
    pub written: i64,
}

/// All regular files below a directory.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub files: Vec<Seen>,
    /// Whether nothing was left out.
    pub whole: bool,
}

/// A log directory.
#[derive(Debug)]
pub(super) struct Volume(OwnedFd);

impl Volume {
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Opens a file that was seen. Links on the way, and what is no regular file, are refused.
    pub fn file(&self, seen: &Seen, write: bool) -> io::Result<File> {
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        // A pipe that took the file's place must not hold us up.
        let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let file = rustix::fs::openat2(&self.0, &seen.path, flags, Mode::empty(), resolve)?;
        let is = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(is.st_mode) != FileType::RegularFile {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        Ok(File::from(file))
    }

    /// Removes a file that was seen; its directory is reached without links.
    pub fn remove(&self, seen: &Seen) -> io::Result<()> {
        let (Some(parent), Some(name)) = (seen.path.parent(), seen.path.file_name()) else {
            return Ok(());
        };
        if parent.as_os_str().is_empty() {
            return Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let parent = rustix::fs::openat2(&self.0, parent, flags, Mode::empty(), resolve)?;
        Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?)
    }

    /// What is there now.
    pub fn walk(&self) -> io::Result<Walk> {
        let mut walk = Walk { files: Vec::new(), whole: true };
        let mut left = ENTRIES;
        below(self.0.as_fd(), Path::new(""), DEPTH, &mut left, &mut walk)?;
        Ok(walk)
    }
}

fn below(
    dir: std::os::fd::BorrowedFd<'_>,
    at: &Path,
    depth: usize,
    left: &mut usize,
    walk: &mut Walk,
) -> io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if *left == 0 {
            walk.whole = false;
            return Ok(());
        }
        *left -= 1;
        let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        // Gone between the listing and now.
        let Ok(is) = rustix::fs::statx(dir, name, flags, mask) else { continue };
        let path = at.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        match FileType::from_raw_mode(is.stx_mode.into()) {
            FileType::RegularFile => walk.files.push(Seen {
                path,
                key: format!("{}.{}.{:09}", is.stx_ino, is.stx_btime.tv_sec, is.stx_btime.tv_nsec),
                size: is.stx_size,
                taken: is.stx_blocks.saturating_mul(512),
                written: is.stx_mtime.tv_sec,
            }),
            FileType::Directory if depth > 0 => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let Ok(inner) = rustix::fs::openat(dir, name, flags, Mode::empty()) else {
                    continue;
                };
                below(inner.as_fd(), &path, depth - 1, left, walk)?;
            }
            FileType::Directory => walk.whole = false,
            _ => {}
        }
    }
    Ok(())
}
