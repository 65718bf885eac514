//! What this machine has, read from the kernel, and what of it pods may use.

use std::path::Path;

use crate::Config;

/// CPU time kept for the system and Berth itself, in thousandths of a core.
const RESERVED_CPU_MILLI: u64 = 100;
/// Berth's own 120 MiB, containerd and the system, on a small machine.
const RESERVED_MEMORY_BYTES: u64 = 256 << 20;
/// A twentieth of the disk stays free for images being unpacked and for logs.
const RESERVED_DISK_PARTS: u64 = 20;

/// Amounts of the four things that pods are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amounts {
    /// CPU time in thousandths of a core.
    pub cpu_milli: u64,
    /// Memory.
    pub memory_bytes: u64,
    /// The file system of the data directory.
    pub disk_bytes: u64,
    /// Number of pods.
    pub pods: u64,
}

/// All of the machine.
pub fn capacity(config: &Config) -> Amounts {
    Amounts {
        cpu_milli: cpus() * 1000,
        memory_bytes: memory(),
        disk_bytes: disk(&config.data_dir).map_or(0, |disk| disk.total_bytes),
        pods: u64::from(config.max_pods),
    }
}

/// What pods may use of it.
pub fn allocatable(config: &Config) -> Amounts {
    let all = capacity(config);
    Amounts {
        cpu_milli: all.cpu_milli.saturating_sub(RESERVED_CPU_MILLI),
        memory_bytes: all.memory_bytes.saturating_sub(RESERVED_MEMORY_BYTES),
        disk_bytes: all.disk_bytes - all.disk_bytes / RESERVED_DISK_PARTS,
        pods: all.pods,
    }
}

fn cpus() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let count = text
        .lines()
        .filter_map(|line| line.strip_prefix("cpu"))
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        .count();
    (count as u64).max(1)
}

/// Physical memory, or the limit of the outermost cgroup when that is lower.
fn memory() -> u64 {
    let total = meminfo("MemTotal").unwrap_or(0);
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok())
        .fold(total, u64::min)
}

/// Memory that can be had without swapping.
pub fn memory_available() -> u64 {
    meminfo("MemAvailable").unwrap_or(0)
}

fn meminfo(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Room on one file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its size.
    pub total_bytes: u64,
    /// What an ordinary user may still write.
    pub available_bytes: u64,
    /// Files it can hold; 0 when it does not count them.
    pub total_inodes: u64,
    /// Files that can still be made.
    pub free_inodes: u64,
}

/// The file system of `path`, or of its nearest parent that exists.
pub fn disk(path: &Path) -> Option<Disk> {
    let existing = path.ancestors().find(|dir| dir.exists())?;
    let fs = nix::sys::statvfs::statvfs(existing).ok()?;
    Some(Disk {
        total_bytes: fs.blocks() * fs.fragment_size(),
        available_bytes: fs.blocks_available() * fs.fragment_size(),
        total_inodes: fs.files(),
        free_inodes: fs.files_available(),
    })
}

/// Processes and threads that exist, and the most the kernel numbers.
pub fn pids() -> (u64, u64) {
    let threads = std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok());
    let most = std::fs::read_to_string("/proc/sys/kernel/pid_max")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    (threads.unwrap_or(0), most.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something_of_everything() {
        assert!(cpus() >= 1);
        assert!(memory() > 64 << 20);
        assert!(memory_available() <= memory() || memory() < meminfo("MemTotal").unwrap_or(0));
        let disk = disk(Path::new("/does/not/exist")).expect("the root directory exists");
        assert!(disk.total_bytes >= disk.available_bytes);
        let (now, most) = pids();
        assert!(now > 0 && now < most);
    }
}
