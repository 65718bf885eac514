//! Where the kernel says what a container's tasks do, on version 1 and version 2 hierarchies.
//!
//! | | version 2 | version 1 |
//! | --- | --- | --- |
//! | tasks | `cgroup.threads`, then /proc | `tasks` of the cpu hierarchy, then /proc |
//! | bytes | `io.stat` | `/proc/PID/io` of its processes |
//! | operations | `io.stat` | `blkio.throttle.io_serviced_recursive`, where that counts |
//!
//! A [`Place`] of processes alone is read as on version 1: `/proc/PID/task`, `/proc/PID/io`.
//!
//! Version 1 charges what is written behind a program's back to nobody, and since Linux 6.10 its
//! blkio files count only where a device was given a limit; a process's own account has both.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cgroups::Layout;

/// More tasks of a container are not read at a look; of more, every so many-th stands for its
/// neighbours.
const MOST_TASKS: usize = 1_000;
/// Processes whose account is read.
const MOST_PROCESSES: usize = 1_000;
/// cgroups that a container made below its own.
const MOST_CGROUPS: usize = 64;

/// Where a container's tasks are found.
pub(crate) enum Place {
    /// Its cgroup, below a hierarchy's root.
    Cgroup(Arc<Layout>, PathBuf),
    /// Its processes, where the node's cgroups are out of sight.
    Processes(Vec<u32>),
}

impl Place {
    fn tasks(&self) -> Vec<u32> {
        match self {
            Self::Cgroup(layout, cgroup) => match &**layout {
                Layout::V2(root) => listed(&root.join(cgroup), "cgroup.threads"),
                Layout::V1(_) => hierarchy(layout, "cpu")
                    .map_or_else(Vec::new, |root| listed(&root.join(cgroup), "tasks")),
            },
            Self::Processes(pids) => pids.iter().flat_map(threads).collect(),
        }
    }
}

/// What was read and written, on disks, since the container runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Io {
    pub read_bytes: u64,
    pub written_bytes: u64,
    /// Read and write operations; none where the kernel does not count them.
    pub operations: Option<(u64, u64)>,
}

/// Tasks (threads, as people say) of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Runnable, or in a wait that a signal does not end.
    pub active: u64,
    pub all: u64,
}

/// The accounts of a container's processes, which go with them.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// What ended processes took along: a sum that falls lost somebody. A process that is waited
    /// for by another of the container is in that one's account and does not make it fall.
    gone: [u64; 2],
    last: [u64; 2],
}

impl Processes {
    /// The container's I/O until now.
    pub fn read(&mut self, place: &Place) -> Option<Io> {
        let (layout, cgroup) = match place {
            Place::Cgroup(layout, cgroup) => (layout, cgroup),
            Place::Processes(pids) => {
                let [read_bytes, written_bytes] = self.add(accounts(pids))?;
                return Some(Io { read_bytes, written_bytes, operations: None });
            }
        };
        match &**layout {
            Layout::V2(root) => {
                Some(io_stat(&std::fs::read_to_string(root.join(cgroup).join("io.stat")).ok()?))
            }
            Layout::V1(_) => {
                let dir = hierarchy(layout, "cpu")?.join(cgroup);
                let pids = listed(&dir, "cgroup.procs");
                let [read_bytes, written_bytes] = self.add(accounts(&pids))?;
                let file = "blkio.throttle.io_serviced_recursive";
                let operations = hierarchy(layout, "blkio")
                    .and_then(|root| std::fs::read_to_string(root.join(cgroup).join(file)).ok())
                    .and_then(|text| serviced(&text));
                Some(Io { read_bytes, written_bytes, operations })
            }
        }
    }

    /// None when nobody is there to be asked.
    fn add(&mut self, accounts: impl Iterator<Item = [u64; 2]>) -> Option<[u64; 2]> {
        let now = accounts.reduce(|[a, b], [c, d]| [a + c, b + d])?;
        let mut sums = [0; 2];
        for (index, now) in now.into_iter().enumerate() {
            self.gone[index] += self.last[index].saturating_sub(now);
            self.last[index] = now;
            sums[index] = self.gone[index] + now;
        }
        Some(sums)
    }
}

/// What the container's tasks do now.
pub(super) fn tally(place: &Place) -> Tally {
    let tids = place.tasks();
    let step = tids.len().div_ceil(MOST_TASKS).max(1);
    let read = tids.iter().step_by(step);
    let looked = read.len();
    // The thread's own file: the process's would sum up the times of all its threads.
    let is_active = |tid: &&u32| {
        let stat = std::fs::read(format!("/proc/{tid}/task/{tid}/stat")).unwrap_or_default();
        matches!(state(&stat), Some(b'R' | b'D'))
    };
    let active = read.filter(is_active).count();
    let active = (active * tids.len()).div_ceil(looked.max(1));
    Tally { active: active as u64, all: tids.len() as u64 }
}

fn hierarchy<'a>(layout: &'a Layout, controller: &str) -> Option<&'a Path> {
    let Layout::V1(hierarchies) = layout else { return None };
    let has = hierarchies.iter().find(|one| one.controllers.iter().any(|own| own == controller));
    has.map(|one| one.path.as_path())
}

/// The numbers in `file` of the cgroup `dir` and of those below it.
fn listed(dir: &Path, file: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    let mut open = vec![dir.to_owned()];
    for _ in 0..MOST_CGROUPS {
        let Some(next) = open.pop() else { break };
        let text = std::fs::read_to_string(next.join(file)).unwrap_or_default();
        numbers.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        open.extend(below(&next));
    }
    numbers
}

/// The numbers of a process's threads.
fn threads(pid: &u32) -> Vec<u32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn accounts(pids: &[u32]) -> impl Iterator<Item = [u64; 2]> {
    pids.iter()
        .take(MOST_PROCESSES)
        .filter_map(|pid| account(&std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?))
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).collect()
}

/// The state of /proc/PID/stat, behind a name that may hold anything.
fn state(stat: &[u8]) -> Option<u8> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    stat.get(end + 2).copied()
}

/// Version 2: `MAJOR:MINOR rbytes=1 wbytes=2 rios=3 wios=4 …`, a line for each device.
fn io_stat(text: &str) -> Io {
    let sum = |key: &str| {
        let words = text.split_whitespace();
        let values = words.filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok());
        values.fold(0, u64::saturating_add)
    };
    Io {
        read_bytes: sum("rbytes="),
        written_bytes: sum("wbytes="),
        operations: Some((sum("rios="), sum("wios="))),
    }
}

/// Version 1: `MAJOR:MINOR Read 1`; none where nothing at all was counted.
fn serviced(text: &str) -> Option<(u64, u64)> {
    let sum = |kind: &str| {
        let of = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            (words.next()? == kind).then(|| words.next()?.parse::<u64>().ok())?
        };
        text.lines().filter_map(of).fold(0, u64::saturating_add)
    };
    Some((sum("Read"), sum("Write"))).filter(|counted| *counted != (0, 0))
}

/// A process's account: bytes that it made the kernel read from and write to a disk.
fn account(text: &str) -> Option<[u64; 2]> {
    let of = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().parse::<u64>().ok()
    };
    Some([of("read_bytes:")?, of("write_bytes:")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_behind_names_that_hold_anything() {
        for (stat, expected) in [
            ("5922 (cat) R 5900 5900 1421 0 -1 4194304", Some(b'R')),
            ("7 (a) S) (x)) D 1 7 7 0 -1", Some(b'D')),
            ("12 (tokio-rt) worker) S 1", Some(b'S')),
            ("7 (cut", None),
            ("7 (cut)", None),
            ("", None),
        ] {
            assert_eq!(state(stat.as_bytes()), expected, "{stat}");
        }
    }

    #[test]
    fn processes_tell_of_all_their_threads() {
        let place = Place::Processes(vec![std::process::id()]);
        let before = Processes::default().read(&place).expect("an account");
        assert_eq!(before.operations, None);
        let (begin, begun) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            begin.send(()).expect("somebody waits");
            _ = ended.recv();
        });
        begun.recv().expect("it began");
        let tally = tally(&place);
        assert!(tally.all >= 2 && tally.active >= 1, "{tally:?}");
        drop(end);
        thread.join().expect("it ended");
        let gone = Place::Processes(Vec::new());
        assert_eq!(super::tally(&gone), Tally::default());
        assert_eq!(Processes::default().read(&gone), None);
    }

    #[test]
    fn version_2_counts_by_device() {
        let text = "253:0 rbytes=23035904 wbytes=8388608 rios=1206 wios=14 dbytes=4096 dios=1\n\
                    8:16 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n\
                    7:0 \n";
        let expected =
            Io { read_bytes: 23_040_000, written_bytes: 8_388_608, operations: Some((1207, 14)) };
        assert_eq!(io_stat(text), expected);
        assert_eq!(io_stat(""), Io { operations: Some((0, 0)), ..Io::default() });
    }

    #[test]
    fn version_1_counts_where_it_counts() {
        let text = "254:0 Read 1206\n254:0 Write 14\n254:0 Sync 1210\n254:0 Async 10\n\
                    254:0 Discard 0\n254:0 Total 1220\n8:0 Read 2\n8:0 Write 1\n8:0 Total 3\n\
                    Total 1223\n";
        assert_eq!(serviced(text), Some((1208, 15)));
        assert_eq!(serviced("Total 0\n"), None);
    }

    #[test]
    fn an_account_has_what_went_to_a_disk() {
        let text = "rchar: 6976\nwchar: 12\nsyscr: 10\nsyscw: 1\nread_bytes: 4096\n\
                    write_bytes: 8388608\ncancelled_write_bytes: 4096\n";
        assert_eq!(account(text), Some([4096, 8_388_608]));
        assert_eq!(account(""), None);
    }

    #[test]
    fn what_ended_processes_did_stays_counted() {
        let mut processes = Processes::default();
        let mut check = |accounts: &[[u64; 2]], expected: Option<[u64; 2]>| {
            assert_eq!(processes.add(accounts.iter().copied()), expected, "{accounts:?}");
        };
        check(&[[10, 100], [5, 50]], Some([15, 150]));
        // The second ended; the first goes on.
        check(&[[10, 110]], Some([15, 150]));
        check(&[[10, 130]], Some([15, 170]));
        // Nobody could be read.
        check(&[], None);
        // One that was waited for came into the account of the first.
        check(&[[12, 400]], Some([17, 440]));
    }
}
