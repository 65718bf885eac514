//! A cgroup for each pod, `/INSTANCE/podUID`, on version 1 and version 2 hierarchies.
//!
//! The runtime puts each container's own cgroup below; here are the limits of the pod as a whole,
//! and the removal, which CRI leaves to us. What the numbers mean is Kubernetes' word: shares are
//! the sum of requests, a limit holds only when every container has one.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::Config;
use crate::quantity;

/// Hierarchies whose limits are set for a pod; the runtime makes the others by itself.
const LIMITED: [&str; 4] = ["cpu", "memory", "pids", "hugetlb"];

/// A pod that forks without end must not take the machine's last process id with it.
const MOST_PIDS: u64 = 16_384;

/// The kernel takes a moment to notice that the last process of a cgroup is gone.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(5);

/// Why a cgroup could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The machine has no cgroups mounted.
    #[error("no cgroup hierarchy is mounted below /sys/fs/cgroup")]
    None,
    /// A file of a cgroup could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A cgroup still has processes.
    #[error("cgroup {path} still has processes")]
    Busy {
        /// The directory.
        path: PathBuf,
    },
}

/// Where the kernel's cgroups are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One unified hierarchy that has the controllers.
    V2(PathBuf),
    /// One directory a controller (or a pair of them), and perhaps a unified one beside them.
    V1(Vec<Hierarchy>),
}

/// One version 1 hierarchy, or the unified one of a hybrid mount (without controllers here).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub path: PathBuf,
    /// Its controllers, `cpu` and `cpuacct` for instance.
    pub controllers: Vec<String>,
}

impl Layout {
    /// Reads the mounts of this process; `None` when no cgroups are mounted.
    pub fn detect() -> Option<Self> {
        Self::read(&std::fs::read_to_string("/proc/self/mountinfo").ok()?)
    }

    fn read(mounts: &str) -> Option<Self> {
        let mut v1 = Vec::new();
        let mut v2 = Vec::new();
        for line in mounts.lines() {
            let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
            let Some(path) = mount.split_whitespace().nth(4).map(PathBuf::from) else { continue };
            let mut filesystem = filesystem.split_whitespace();
            match filesystem.next() {
                Some("cgroup") => {
                    let options = filesystem.nth(1).unwrap_or_default();
                    let controllers = options
                        .split(',')
                        .filter(|option| !matches!(*option, "rw" | "ro"))
                        .map(str::to_owned)
                        .collect();
                    v1.push(Hierarchy { path, controllers });
                }
                Some("cgroup2") => v2.push(path),
                _ => {}
            }
        }
        let has_memory = v1.iter().any(|h| h.controllers.iter().any(|c| c == "memory"));
        if has_memory {
            v1.extend(v2.into_iter().map(|path| Hierarchy { path, controllers: Vec::new() }));
            return Some(Self::V1(v1));
        }
        v2.into_iter().next().map(Self::V2)
    }

    fn roots(&self) -> Vec<&Path> {
        match self {
            Self::V2(root) => vec![root],
            Self::V1(hierarchies) => hierarchies.iter().map(|h| h.path.as_path()).collect(),
        }
    }
}

/// The limits of a pod as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Share of the CPU under contention, 2..=262144.
    pub cpu_shares: u64,
    /// CPU time in thousandths of a core; none when a container is unlimited.
    pub cpu_milli: Option<u64>,
    /// Memory; none when a container is unlimited.
    pub memory_bytes: Option<u64>,
}

/// What the containers of `pod` sum up to.
///
/// Ordinary containers and sidecars run together; init containers one after the other, so the
/// largest of them counts, together with the sidecars that started before it.
pub fn limits(pod: &Pod) -> Limits {
    let Some(spec) = &pod.spec else { return Limits { cpu_shares: 2, ..Limits::default() } };
    let request = Sum::of(spec.containers.iter(), spec.init_containers.iter().flatten());
    let overhead = |name: &str| {
        let quantity = spec.overhead.as_ref().and_then(|o| o.get(name));
        quantity.map(|q| if name == "cpu" { quantity::milli(q) } else { quantity::bytes(q) })
    };
    let cpu = request.cpu_milli + overhead("cpu").unwrap_or(0);
    Limits {
        cpu_shares: shares(cpu),
        cpu_milli: request.cpu_limit.map(|limit| limit + overhead("cpu").unwrap_or(0)),
        memory_bytes: request.memory_limit.map(|limit| limit + overhead("memory").unwrap_or(0)),
    }
}

/// 1024 shares a core, never under the kernel's least nor over its most.
fn shares(milli: u64) -> u64 {
    (milli * 1024 / 1000).clamp(2, 262_144)
}

/// Version 2 has weights 1..=10000 where version 1 has shares 2..=262144.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

#[derive(Clone, Copy, Debug)]
struct Sum {
    cpu_milli: u64,
    cpu_limit: Option<u64>,
    memory_limit: Option<u64>,
}

impl Sum {
    fn of<'a>(
        containers: impl Iterator<Item = &'a Container>,
        init: impl Iterator<Item = &'a Container>,
    ) -> Self {
        let mut running = Self { cpu_milli: 0, cpu_limit: Some(0), memory_limit: Some(0) };
        for container in containers {
            running = running.plus(Self::one(container));
        }
        let mut sidecars = Self { cpu_milli: 0, cpu_limit: Some(0), memory_limit: Some(0) };
        let mut starting = sidecars;
        for container in init {
            let together = sidecars.plus(Self::one(container));
            if container.restart_policy.as_deref() == Some("Always") {
                sidecars = together;
            }
            starting = starting.max(together);
        }
        running.plus(sidecars).max(starting)
    }

    fn one(container: &Container) -> Self {
        let resources = container.resources.as_ref();
        let limit = |name: &str| resources.and_then(|r| r.limits.as_ref()?.get(name));
        let request = |name: &str| resources.and_then(|r| r.requests.as_ref()?.get(name));
        Self {
            cpu_milli: request("cpu").or(limit("cpu")).map_or(0, quantity::milli),
            cpu_limit: limit("cpu").map(quantity::milli),
            memory_limit: limit("memory").map(quantity::bytes),
        }
    }

    fn plus(self, other: Self) -> Self {
        let both = |a: Option<u64>, b: Option<u64>| Some(a?.saturating_add(b?));
        Self {
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            cpu_limit: both(self.cpu_limit, other.cpu_limit),
            memory_limit: both(self.memory_limit, other.memory_limit),
        }
    }

    fn max(self, other: Self) -> Self {
        let larger = |a: Option<u64>, b: Option<u64>| Some(a?.max(b?));
        Self {
            cpu_milli: self.cpu_milli.max(other.cpu_milli),
            cpu_limit: larger(self.cpu_limit, other.cpu_limit),
            memory_limit: larger(self.memory_limit, other.memory_limit),
        }
    }
}

/// Makes the cgroup of `pod` with its limits, and gives the `cgroup_parent` for its sandbox.
///
/// # Errors
/// When a directory or a limit cannot be written.
pub fn create_pod(config: &Config, pod: &Pod) -> Result<String, CgroupError> {
    let layout = Layout::detect().ok_or(CgroupError::None)?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let limits = limits(pod);
    let pod = format!("pod{uid}");
    match &layout {
        Layout::V2(root) => {
            let parent = root.join(&config.instance);
            delegate(root)?;
            make(&parent)?;
            delegate(&parent)?;
            let dir = parent.join(&pod);
            make(&dir)?;
            delegate(&dir)?;
            for (file, value) in v2_files(limits) {
                put(&dir.join(file), &value)?;
            }
        }
        Layout::V1(hierarchies) => {
            for hierarchy in hierarchies {
                let has = |name: &str| hierarchy.controllers.iter().any(|c| c == name);
                if !LIMITED.iter().any(|name| has(name)) {
                    continue;
                }
                let dir = hierarchy.path.join(&config.instance).join(&pod);
                make(&dir)?;
                for (controller, file, value) in v1_files(limits) {
                    if has(controller) {
                        put(&dir.join(file), &value)?;
                    }
                }
            }
        }
    }
    Ok(format!("/{}/{pod}", config.instance))
}

fn v1_files(limits: Limits) -> Vec<(&'static str, &'static str, String)> {
    let mut files = vec![
        ("cpu", "cpu.shares", limits.cpu_shares.to_string()),
        ("pids", "pids.max", MOST_PIDS.to_string()),
    ];
    if let Some(milli) = limits.cpu_milli {
        files.push(("cpu", "cpu.cfs_period_us", "100000".to_owned()));
        // Less than a millisecond in a period is refused by the kernel.
        files.push(("cpu", "cpu.cfs_quota_us", (milli * 100).max(1000).to_string()));
    }
    if let Some(bytes) = limits.memory_bytes {
        files.push(("memory", "memory.limit_in_bytes", bytes.to_string()));
    }
    files
}

fn v2_files(limits: Limits) -> Vec<(&'static str, String)> {
    let mut files = vec![
        ("cpu.weight", weight(limits.cpu_shares).to_string()),
        ("pids.max", MOST_PIDS.to_string()),
    ];
    if let Some(milli) = limits.cpu_milli {
        files.push(("cpu.max", format!("{} 100000", (milli * 100).max(1000))));
    }
    if let Some(bytes) = limits.memory_bytes {
        files.push(("memory.max", bytes.to_string()));
    }
    files
}

/// Lets children of `dir` have the controllers that `dir` has (version 2).
fn delegate(dir: &Path) -> Result<(), CgroupError> {
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
    let (has, gives) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    let missing: Vec<String> = has
        .split_whitespace()
        .filter(|name| !gives.split_whitespace().any(|given| given == *name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    put(&dir.join("cgroup.subtree_control"), &missing.join(" "))
}

fn make(dir: &Path) -> Result<(), CgroupError> {
    std::fs::create_dir_all(dir)
        .map_err(|source| CgroupError::Write { path: dir.to_owned(), source })
}

fn put(path: &Path, value: &str) -> Result<(), CgroupError> {
    std::fs::write(path, value)
        .map_err(|source| CgroupError::Write { path: path.to_owned(), source })
}

/// Removes the cgroup of the pod `uid` in every hierarchy; one that is gone already is fine.
///
/// # Errors
/// `Busy` when processes are left in it after the sandbox's end.
pub async fn remove_pod(config: &Config, uid: &str) -> Result<(), CgroupError> {
    remove(&Path::new(&config.instance).join(format!("pod{uid}"))).await
}

/// Removes the cgroup `relative` with everything below it, in every hierarchy.
pub(crate) async fn remove(relative: &Path) -> Result<(), CgroupError> {
    let Some(layout) = Layout::detect() else { return Ok(()) };
    let mut wait = Duration::from_millis(5);
    let started = tokio::time::Instant::now();
    for root in layout.roots() {
        let dir = root.join(relative);
        // A cgroup cannot say when its last process is reaped in version 1, so this asks again.
        while let Err(source) = remove_tree(&dir) {
            if source.raw_os_error() != Some(nix::errno::Errno::EBUSY as i32) {
                return Err(CgroupError::Write { path: dir, source });
            }
            if started.elapsed() > REMOVAL_DEADLINE {
                return Err(CgroupError::Busy { path: dir });
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(200));
        }
    }
    Ok(())
}

/// Every process in the cgroup `relative` or below it, in any hierarchy.
pub(crate) fn processes(relative: &Path) -> Vec<i32> {
    let Some(layout) = Layout::detect() else { return Vec::new() };
    let mut pids: Vec<i32> = layout
        .roots()
        .into_iter()
        .flat_map(|root| tree(&root.join(relative)))
        .flat_map(|dir| {
            let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>()
        })
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// `dir` and every directory below it, parents first.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        if let Ok(entries) = std::fs::read_dir(&next) {
            open.extend(
                entries
                    .flatten()
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
            found.push(next);
        }
    }
    found
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    for dir in tree(dir).iter().rev() {
        match std::fs::remove_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_tell_the_layout() {
        let v2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
        assert_eq!(Layout::read(v2), Some(Layout::V2("/sys/fs/cgroup".into())));
        let v1 = "30 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                  31 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  32 23 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let Some(Layout::V1(hierarchies)) = Layout::read(v1) else { panic!("version 1") };
        assert_eq!(hierarchies.len(), 3);
        assert_eq!(hierarchies[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(Layout::read("1 0 0:1 / / rw - ext4 /dev/vda rw\n"), None);
    }

    #[test]
    fn shares_become_weights_within_the_kernels_bounds() {
        for (milli, expected) in
            [(0, 2), (1, 2), (500, 512), (1000, 1024), (u64::MAX / 2048, 262_144)]
        {
            assert_eq!(shares(milli), expected, "{milli}");
        }
        for (shares, expected) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn a_pod_is_limited_only_when_every_container_is() {
        let check = |spec: serde_json::Value, expected: Limits| {
            let pod: Pod =
                serde_json::from_value(serde_json::json!({ "spec": spec })).expect("a pod");
            assert_eq!(limits(&pod), expected, "{spec}");
        };
        check(
            serde_json::json!({ "containers": [
                { "name": "a", "resources": { "requests": { "cpu": "250m" }, "limits": { "cpu": "500m", "memory": "64Mi" } } },
                { "name": "b", "resources": { "limits": { "cpu": "1", "memory": "64Mi" } } },
            ]}),
            Limits { cpu_shares: 1280, cpu_milli: Some(1500), memory_bytes: Some(128 << 20) },
        );
        check(
            serde_json::json!({ "containers": [
                { "name": "a", "resources": { "limits": { "memory": "64Mi" } } },
                { "name": "b" },
            ]}),
            Limits { cpu_shares: 2, cpu_milli: None, memory_bytes: None },
        );
        check(
            serde_json::json!({
                "initContainers": [{ "name": "i", "resources": { "requests": { "cpu": "2" }, "limits": { "cpu": "2", "memory": "1Gi" } } }],
                "containers": [{ "name": "a", "resources": { "limits": { "cpu": "1", "memory": "64Mi" } } }],
            }),
            Limits { cpu_shares: 2048, cpu_milli: Some(2000), memory_bytes: Some(1 << 30) },
        );
    }
}
