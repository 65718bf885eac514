//! Keeps an App's log files within the quota, and no longer than it says.
//!
//! What a container may have open is never removed under it: the part that was collected is given
//! back to the disk by making a hole of it, which changes neither length nor offsets, so the writer
//! does not notice. What nobody has open is removed.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{FallocateFlags, fallocate};

use super::walk::{Seen, Volume};

/// More files of one App than this are too many: those that were written longest ago go.
pub(super) const FILES: usize = 2_000;
/// What even an empty file costs: its name and its inode.
const EACH: u64 = 4 << 10;
/// Holes are made of whole pages.
const PAGE: u64 = 4 << 10;
/// Left of a file that was not collected when even that has to go.
const TAIL: u64 = 1 << 20;

/// One file on the disk.
pub(super) struct Held<'a> {
    pub volume: &'a Volume,
    pub seen: &'a Seen,
    /// Its pod is gone, so nobody writes it.
    pub is_over: bool,
    /// How much of it was collected.
    pub read: u64,
    pub pod: &'a Path,
    pub label: String,
}

/// What went without having been collected.
#[derive(Debug)]
pub(super) struct Lost {
    pub pod: PathBuf,
    pub key: String,
    pub label: String,
    pub bytes: u64,
    /// Where reading goes on.
    pub read: u64,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub lost: Vec<Lost>,
}

impl Held<'_> {
    fn cost(&self) -> u64 {
        self.seen.taken + EACH
    }

    fn remove(&self) -> u64 {
        match self.volume.remove(self.seen) {
            Ok(()) => self.cost(),
            Err(_) => 0,
        }
    }

    /// Gives the disk back what lies before `end`; how much that is at most.
    fn punch(&self, end: u64) -> u64 {
        let end = end / PAGE * PAGE;
        if end == 0 || self.seen.taken == 0 {
            return 0;
        }
        let punched = self.volume.file(self.seen, true).and_then(|file| hole(&file, end));
        if punched.is_ok() { self.seen.taken.min(end) } else { 0 }
    }
}

/// Removes or empties what is older than `keep` (when `old` is looked for) and what is beyond `room`
/// bytes or [`FILES`].
pub(super) fn keep(
    mut held: Vec<Held<'_>>,
    room: u64,
    keep: Duration,
    old: bool,
    now: Timestamp,
) -> Done {
    let mut done = Done::default();
    let mut used: u64 = held.iter().map(Held::cost).sum();
    let surplus = held.len().saturating_sub(FILES);
    if !old && used <= room && surplus == 0 {
        return done;
    }
    // Of pods that are gone first, then by age.
    held.sort_by_key(|file| (!file.is_over, file.seen.written));
    let open = std::cell::OnceCell::new();
    let is_open = |file: &Held<'_>| {
        !file.is_over
            && open.get_or_init(open_files).contains(file.seen.key.split('.').next().unwrap_or(""))
    };
    let before = now.as_second().saturating_sub(i64::try_from(keep.as_secs()).unwrap_or(i64::MAX));
    let mut removed = 0;
    let mut rest = Vec::new();
    for file in held {
        let too_old = old && file.seen.written < before;
        let too_much = used > room && file.read >= file.seen.size;
        let too_many = removed < surplus;
        if (too_old || too_many || (too_much && file.is_over)) && !is_open(&file) {
            used -= file.remove();
            removed += 1;
            continue;
        }
        if (too_old || too_much) && file.seen.taken > PAGE {
            used -= file.punch(file.read);
        }
        rest.push(file);
    }
    if used > room {
        for file in &rest {
            used -= file.punch(file.read).min(used);
        }
    }
    // Still too much: it was written faster than it can be read.
    for file in rest {
        if used <= room {
            break;
        }
        let end = file.seen.size.saturating_sub(TAIL).max(file.read) / PAGE * PAGE;
        if end > file.read {
            used -= file.punch(end).min(used);
            done.lost.push(Lost {
                pod: file.pod.to_owned(),
                key: file.seen.key.clone(),
                bytes: end - file.read,
                label: file.label,
                read: end,
            });
        }
    }
    done
}

fn hole(file: &File, end: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, flags, 0, end)?)
}

/// The numbers of all files that any process has open.
fn open_files() -> HashSet<String> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbered = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    processes
        .filter(|process| numbered(&process.file_name()))
        .filter_map(|process| std::fs::read_dir(process.path().join("fd")).ok())
        .flat_map(|open| open.flatten())
        // What stands behind the link, also when it has no name any more.
        .filter_map(|open| std::fs::metadata(open.path()).ok())
        .filter(std::fs::Metadata::is_file)
        .map(|meta| meta.ino().to_string())
        .collect()
}
