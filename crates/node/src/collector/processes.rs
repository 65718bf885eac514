//! The processes of containers, whatever the runtime; of the first, its variables and its file tree.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// A container's variables take no more than this, bytes: what is behind is not looked at.
const ENVIRONMENT: u64 = 1 << 20;

/// A process that was there when it was looked for. What is read of it later is its own or an
/// error, never another's that got its number.
#[derive(Debug)]
pub(super) struct Process {
    dir: OwnedFd,
    started: u64,
}

impl Process {
    fn open(number: &str) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(format!("/proc/{number}"), flags, Mode::empty())?;
        let mut process = Self { dir, started: 0 };
        let stat = process.read("stat")?;
        process.started = started(&stat).ok_or(io::ErrorKind::InvalidData)?;
        Ok(process)
    }

    fn read(&self, name: &str) -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, name, flags, Mode::empty())?;
        let mut bytes = Vec::new();
        File::from(file).take(ENVIRONMENT).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// What `name` was when the process began.
    ///
    /// # Errors
    /// When it has ended, or may not be looked at.
    pub fn variable(&self, name: &str) -> io::Result<Option<String>> {
        let all = self.read("environ")?;
        let value = all.split('\0').find_map(|one| one.strip_prefix(name)?.strip_prefix('='));
        Ok(value.map(str::to_owned))
    }

    /// The root of its file tree. `node` are the node's own mounts, as /proc names them.
    ///
    /// # Errors
    /// When it has ended, or has the node's own tree: a runtime's process that is not in its
    /// container yet.
    pub fn root(&self, node: &CStr) -> io::Result<OwnedFd> {
        let own = rustix::fs::readlinkat(&self.dir, "ns/mnt", Vec::new())?;
        if own.as_c_str() == node {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.dir, "root", flags, Mode::empty())?)
    }
}

/// Opens the directory at an absolute path below `root`: by no link, and on no other volume.
///
/// # Errors
/// `NotFound` while it is not made; others when it is no such directory.
pub(super) fn directory(root: &OwnedFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let below = Path::new(path.trim_start_matches('/'));
    rustix::fs::openat2(root, below, flags, Mode::empty(), resolve)
}

/// The first process of each container of `ids` that has one.
pub(super) fn of(ids: &HashSet<String>) -> HashMap<String, Process> {
    let mut found: HashMap<String, Process> = HashMap::new();
    each(ids, |id, _, process| {
        // A command that somebody runs in it came later.
        if found.get(id).is_none_or(|known| process.started < known.started) {
            found.insert(id.to_owned(), process);
        }
    });
    found
}

/// The numbers of all processes of each container of `ids` that has any.
pub(super) fn numbers(ids: &HashSet<String>) -> HashMap<String, Vec<u32>> {
    let mut found: HashMap<String, Vec<u32>> = HashMap::new();
    each(ids, |id, number, _| found.entry(id.to_owned()).or_default().push(number));
    found
}

fn each(ids: &HashSet<String>, mut take: impl FnMut(&str, u32, Process)) {
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let Ok(number) = name.parse() else { continue };
        let Ok(process) = Process::open(name) else { continue };
        let Ok(groups) = process.read("cgroup") else { continue };
        if let Some(id) = container(&groups, ids) {
            take(id, number, process);
        }
    }
}

/// Which of `ids` a `/proc/PID/cgroup` names: as a directory, or in one (`cri-containerd-ID.scope`).
fn container<'a>(groups: &str, ids: &'a HashSet<String>) -> Option<&'a str> {
    let words = groups.split(['/', '\n', '-', '.', ':']);
    words.filter(|word| word.len() >= 32).find_map(|word| ids.get(word)).map(String::as_str)
}

/// When it began, in ticks since the machine did: field 22 of `/proc/PID/stat`. The second, its
/// name, may hold anything.
fn started(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_processes_are_known_by_their_control_groups() {
        let id = "74709dbac223cb69d7e22d7f53915958b494d30c943c6639cc61134d6c5137bd";
        let ids = HashSet::from([id.to_owned()]);
        for groups in [
            format!("0::/k8s.io/{id}\n"),
            format!("5:memory:/kubepods/burstable/pod9-8/{id}\n0::/x\n"),
            format!("0::/../../kubepods-pod9.slice/cri-containerd-{id}.scope\n"),
            format!("0::/kubepods.slice/docker-{id}.scope"),
            format!("0::/kubepods.slice/crio-{id}.scope/container"),
            format!("0::/system.slice/k3s.service/kubepods/pod1:cri-containerd:{id}"),
        ] {
            assert_eq!(container(&groups, &ids), Some(id), "{groups}");
        }
        assert_eq!(container("0::/user.slice/74709dbac223\n", &ids), None);
    }

    #[test]
    fn the_beginning_is_read_behind_whatever_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4 5 6 7 8 9 10 11 12 20 0 1 0 4711 99 1";
        assert_eq!(started(stat), Some(4711));
        assert_eq!(started(""), None);
    }

    #[test]
    fn a_process_tells_its_variables_but_not_the_nodes_tree() {
        let own = Process::open("self").expect("this process");
        assert_eq!(own.variable("BERTH_NO_SUCH").expect("read"), None);
        let node = rustix::fs::readlink("/proc/self/ns/mnt", Vec::new()).expect("its mounts");
        assert!(own.root(&node).is_err(), "a process of the node is in no container");
        assert!(own.root(c"mnt:[0]").is_ok());
    }
}
