//! Where the kubelet keeps the volumes of pods, as it need not be /var/lib/kubelet.
//!
//! A collector's own pod has files of the kubelet's directory mounted (`/etc/hosts`,
//! `/dev/termination-log`), and the kernel tells which file of which file system they are; a process
//! of the node tells where that file system is mounted. Which one is of the node is seen by the
//! collector's own pod being there.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use berth_api::names;
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Files that a kubelet mounts into every container from its own directory.
const MOUNTED: [&str; 2] = ["/etc/hosts", "/dev/termination-log"];

/// The `pods` directory of the kubelet, held open.
#[derive(Debug)]
pub(super) struct Volumes {
    pods: PathBuf,
    dir: OwnedFd,
    /// The node's own mounts, as /proc names them.
    node: CString,
}

impl Volumes {
    /// Finds it from what is mounted in this very container.
    ///
    /// # Errors
    /// When this is no pod of a kubelet, or may not look at the node's processes.
    pub fn find() -> io::Result<Self> {
        let missing = |text: &str| io::Error::new(io::ErrorKind::NotFound, text.to_owned());
        let own = std::fs::read_to_string("/proc/self/mountinfo")?;
        if mounted(&own).next().is_none() {
            return Err(missing("no file of a kubelet is mounted here"));
        }
        // The first process is of the node, but not everywhere it may be looked at.
        let mut numbers: Vec<u32> = std::fs::read_dir("/proc")?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        numbers.sort_unstable();
        let of = |number: u32| Self::of(number, &own);
        numbers.into_iter().find_map(of).ok_or_else(|| {
            missing("no process shows the kubelet's files: hostPID and SYS_PTRACE are needed")
        })
    }

    /// As one process sees it; `None` when that is not the node's own view.
    fn of(number: u32, own: &str) -> Option<Self> {
        let place = format!("/proc/{number}");
        let mounts = std::fs::read_to_string(format!("{place}/mountinfo")).ok()?;
        let (pods, pod) = pods_dir(own, &mounts)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = format!("{place}/root{}", pods.display());
        let dir = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        rustix::fs::openat(&dir, pod, flags | OFlags::NOFOLLOW, Mode::empty()).ok()?;
        let node = rustix::fs::readlink(format!("{place}/ns/mnt"), Vec::new()).ok()?;
        Some(Self { pods, dir, node })
    }

    /// The node's own mounts, as /proc names them: whoever has these is in no container.
    pub fn node(&self) -> &CString {
        &self.node
    }

    /// Where it is on the node.
    pub fn path(&self) -> &Path {
        &self.pods
    }

    /// Opens an `emptyDir` of a pod. Its pod may change what is in it, not the way there.
    ///
    /// # Errors
    /// `NotFound` as long as the kubelet has not made it, and for what can be no volume's name.
    pub fn open(&self, uid: &str, volume: &str) -> io::Result<OwnedFd> {
        let plain = names::dns_label(volume).is_ok()
            && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !plain || uid.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let path = format!("{uid}/volumes/kubernetes.io~empty-dir/{volume}");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        Ok(rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), resolve)?)
    }
}

/// One line of a `mountinfo`: proc(5).
struct Mount<'a> {
    device: &'a str,
    /// What of the file system is mounted.
    root: &'a str,
    /// Where.
    at: &'a str,
}

fn mounts(text: &str) -> impl DoubleEndedIterator<Item = Mount<'_>> {
    text.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(2);
        Some(Mount { device: words.next()?, root: words.next()?, at: words.next()? })
    })
}

/// What a kubelet mounted into a container: device, its `pods` on that, the pod.
fn mounted(own: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    mounts(own).filter(|mount| MOUNTED.contains(&mount.at)).filter_map(|mount| {
        let (before, behind) = mount.root.rsplit_once("/pods/")?;
        let (pod, _) = behind.split_once('/')?;
        Some((mount.device, &mount.root[..before.len() + "/pods".len()], pod))
    })
}

/// The kubelet's `pods`, and this pod in it, from the mounts of its container and those of its node.
/// `None` where no file is below one, or the node does not show it.
fn pods_dir<'a>(own: &'a str, nodes: &str) -> Option<(PathBuf, &'a str)> {
    mounted(own).find_map(|(device, pods, pod)| {
        let there = |other: &Mount<'_>| {
            let rest = pods.strip_prefix(other.root.trim_end_matches('/'))?;
            let whole = other.device == device && rest.starts_with('/');
            whole.then(|| PathBuf::from(format!("{}{rest}", other.at.trim_end_matches('/'))))
        };
        // The last mount of several is the one that is seen.
        let found = mounts(nodes).rev().find_map(|other| there(&other))?;
        Some((found, pod))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_is_found_wherever_it_keeps_its_files() {
        let check = |own: &str, nodes: &str, expected: Option<&str>| {
            let expected = expected.map(|path| (PathBuf::from(path), "u-1"));
            assert_eq!(pods_dir(own, nodes), expected, "{own} | {nodes}");
        };
        let root = "27 1 254:0 / / rw - ext4 /dev/vda rw";
        let hosts = |root: &str, device: &str| {
            format!(
                "1 0 0:50 / / rw - overlay o rw\n704 688 {device} {root} /etc/hosts rw - ext4 x rw"
            )
        };
        let usual = hosts("/var/lib/kubelet/pods/u-1/etc-hosts", "254:0");
        check(&usual, root, Some("/var/lib/kubelet/pods"));
        // A disk of its own, mounted at the kubelet's directory.
        let own_disk = hosts("/pods/u-1/etc-hosts", "8:1");
        let nodes = format!("{root}\n30 27 8:1 / /var/lib/kubelet rw - xfs /dev/sda1 rw");
        check(&own_disk, &nodes, Some("/var/lib/kubelet/pods"));
        // A part of a file system.
        let nodes = "27 1 0:30 /@ / rw - btrfs x rw\n30 27 0:30 /@var /var rw - btrfs x rw";
        let part = hosts("/@var/lib/kubelet/pods/u-1/etc-hosts", "0:30");
        check(&part, nodes, Some("/var/lib/kubelet/pods"));
        check(&hosts("/etc/hosts", "254:0"), root, None);
        check(&usual, "27 1 8:9 / / rw - ext4 /dev/vda rw", None);
        check("", root, None);
    }

    #[test]
    fn what_is_no_volume_of_a_pod_is_not_opened() {
        let scratch = tempfile::tempdir().expect("a directory");
        let inside = scratch.path().join("u-1/volumes/kubernetes.io~empty-dir/logs-0");
        std::fs::create_dir_all(&inside).expect("made");
        let link = inside.with_file_name("logs-1");
        std::os::unix::fs::symlink("/etc", link).expect("linked");
        let dir = rustix::fs::open(scratch.path(), OFlags::PATH, Mode::empty()).expect("opened");
        let volumes = Volumes { pods: scratch.path().into(), dir, node: CString::default() };
        assert!(volumes.open("u-1", "logs-0").is_ok());
        for (uid, volume) in
            [("u-1", "logs-1"), ("u-1", "../.."), ("..", "logs-0"), ("", "x"), ("u-2", "logs-0")]
        {
            assert!(volumes.open(uid, volume).is_err(), "{uid} {volume}");
        }
    }
}
