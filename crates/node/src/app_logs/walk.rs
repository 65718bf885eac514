//! The files below a log directory, without following a link anywhere.
//!
//! The container owns the directory and may change it at any moment. So every step is taken from an
//! open directory, and a file is opened by the kernel's own word that no link was passed.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};

/// Directories below the volume's own.
const DEPTH: usize = 6;
/// More entries of one volume than this are not looked at in one look.
pub(super) const ENTRIES: usize = 20_000;
/// A file is kept open for so long after it was written last, seconds.
const KEPT_OPEN: i64 = 60;
/// More files of one volume than this are not kept open.
const KEPT: usize = 64;
/// How directories and files below the volume are reached: by no link, and in no other file system
/// that somebody put there.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// One file, as it is now.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
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
    /// When it was made, seconds since 1970; where the disk does not tell, when it changed last.
    pub made: i64,
    /// It has no name any more: what stands at `path`, if anything does, is another file.
    pub nameless: bool,
}

/// All regular files below a directory.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub files: Vec<Seen>,
    /// Whether nothing was left out.
    pub whole: bool,
}

/// A log directory.
#[derive(Debug)]
pub(crate) struct Volume {
    dir: OwnedFd,
    /// Files that were made before, seconds since 1970, are none of the log.
    since: Option<i64>,
    /// What is read to its end even when it loses its name, by key. `None` for a directory that is
    /// ours: nobody removes what we have not read.
    kept: Option<Mutex<BTreeMap<String, (PathBuf, File)>>>,
}

impl Volume {
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { dir, since: None, kept: None })
    }

    /// A directory that is open, is not ours and may go at any moment; with `since` only files that
    /// were made then or later.
    pub fn of(dir: OwnedFd, since: Option<i64>) -> Self {
        Self { dir, since, kept: Some(Mutex::default()) }
    }

    /// Whether `other` is the same directory.
    pub fn is(&self, other: &OwnedFd) -> bool {
        let place = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|is| (is.st_dev, is.st_ino));
        place(&self.dir).is_ok_and(|own| place(other) == Ok(own))
    }

    /// Holds those of `files` that were written of late, so that they can be read to their end
    /// whatever becomes of their names; lets go of the others.
    pub fn keep_open(&self, files: &[Seen], now: i64) {
        let Some(kept) = &self.kept else { return };
        let mut fresh: Vec<&Seen> =
            files.iter().filter(|seen| now.saturating_sub(seen.written) <= KEPT_OPEN).collect();
        fresh.sort_by_key(|seen| std::cmp::Reverse(seen.written));
        fresh.truncate(KEPT);
        let keys: HashSet<&str> = fresh.iter().map(|seen| seen.key.as_str()).collect();
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|key, _| keys.contains(key.as_str()));
        for seen in fresh {
            if let Some((path, _)) = kept.get_mut(&seen.key) {
                path.clone_from(&seen.path);
            } else if let Ok(file) = self.named(seen, false)
                // Another file may have taken its name meanwhile.
                && Seen::at(&seen.path, &file).is_ok_and(|is| is.key == seen.key)
            {
                kept.insert(seen.key.clone(), (seen.path.clone(), file));
            }
        }
    }

    /// Opens a file that was seen. Links on the way, and what is no regular file, are refused.
    pub fn file(&self, seen: &Seen, write: bool) -> io::Result<File> {
        if let Some(kept) = self.kept.as_ref().filter(|_| !write) {
            let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, file)) = kept.get(&seen.key) {
                return file.try_clone();
            }
        }
        self.named(seen, write)
    }

    fn named(&self, seen: &Seen, write: bool) -> io::Result<File> {
        if seen.nameless {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        // A pipe that took the file's place must not hold us up.
        let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(&self.dir, &seen.path, flags, Mode::empty(), RESOLVE)?;
        let is = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(is.st_mode) != FileType::RegularFile {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        Ok(File::from(file))
    }

    /// Removes a file that was seen; its directory is reached without links.
    pub fn remove(&self, seen: &Seen) -> io::Result<()> {
        if seen.nameless {
            return Ok(());
        }
        let (Some(parent), Some(name)) = (seen.path.parent(), seen.path.file_name()) else {
            return Ok(());
        };
        if parent.as_os_str().is_empty() {
            return Ok(rustix::fs::unlinkat(&self.dir, name, AtFlags::empty())?);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::openat2(&self.dir, parent, flags, Mode::empty(), RESOLVE)?;
        Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?)
    }

    /// What is there now.
    pub fn walk(&self) -> io::Result<Walk> {
        let mut walk = Walk { files: Vec::new(), whole: true };
        let mut left = ENTRIES;
        let looked = below(self.dir.as_fd(), Path::new(""), DEPTH, &mut left, &mut walk);
        let Some(kept) = &self.kept else { return looked.map(|()| walk) };
        // A directory that was removed cannot be listed; what is held of it can be read.
        if let Some(since) = self.since {
            walk.files.retain(|seen| seen.made >= since);
        }
        let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let named: HashSet<&str> = walk.files.iter().map(|seen| seen.key.as_str()).collect();
        let nameless = kept.iter().filter(|(key, _)| !named.contains(key.as_str()));
        let nameless = nameless.filter_map(|(_, (path, file))| {
            let seen = Seen::at(path, file).ok()?;
            Some(Seen { nameless: true, ..seen })
        });
        let nameless: Vec<Seen> = nameless.collect();
        walk.files.extend(nameless);
        Ok(walk)
    }
}

const MASK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

impl Seen {
    /// An open file that stands, or stood, at `path`.
    fn at(path: &Path, file: &File) -> io::Result<Self> {
        let is = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, MASK)?;
        Ok(Self::of(path.to_owned(), &is))
    }

    fn of(path: PathBuf, is: &Statx) -> Self {
        let has_btime = is.stx_mask & StatxFlags::BTIME.bits() != 0;
        Self {
            path,
            key: format!("{}.{}.{:09}", is.stx_ino, is.stx_btime.tv_sec, is.stx_btime.tv_nsec),
            size: is.stx_size,
            taken: is.stx_blocks.saturating_mul(512),
            written: is.stx_mtime.tv_sec,
            made: if has_btime { is.stx_btime.tv_sec } else { is.stx_ctime.tv_sec },
            nameless: false,
        }
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
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        // Gone between the listing and now.
        let Ok(is) = rustix::fs::statx(dir, name, flags, MASK) else { continue };
        let path = at.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        match FileType::from_raw_mode(is.stx_mode.into()) {
            FileType::RegularFile => walk.files.push(Seen::of(path, &is)),
            FileType::Directory if depth > 0 => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = rustix::fs::openat2(dir, name, flags, Mode::empty(), RESOLVE);
                let Ok(inner) = inner else { continue };
                below(inner.as_fd(), &path, depth - 1, left, walk)?;
            }
            FileType::Directory => walk.whole = false,
            _ => {}
        }
    }
    Ok(())
}
