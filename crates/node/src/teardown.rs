//! Takes everything away that the node put into the kernel: `berth down`.
//!
//! Works with or without a running containerd, after any crash, and again: what is gone already is
//! fine. Images, logs and pods' directories stay under the data directory. What another instance or
//! the machine's own containerd has is never touched: all is found by our paths and our name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::cri::{Cri, CriError};
use crate::network::SysctlError;
use crate::tool::{self, ToolError};
use crate::{cgroups, containerd, descriptor, mounts, network};

/// For processes to end by themselves before they are killed.
const GRACE: Duration = Duration::from_secs(5);
/// containerd ends in well under a second.
const CONTAINERD_END: Duration = Duration::from_secs(10);
const AT_ONCE: usize = 16;

/// What could not be taken away. The other steps were done all the same.
#[derive(Debug, thiserror::Error)]
pub enum TeardownError {
    /// A tool of the machine failed.
    #[error("cannot remove the network of {instance}")]
    Network {
        /// The instance.
        instance: String,
        /// Why.
        #[source]
        source: ToolError,
    },
    /// A mount stayed.
    #[error(transparent)]
    Mount(#[from] mounts::UnmountError),
    /// A cgroup stayed.
    #[error(transparent)]
    Cgroup(#[from] cgroups::CgroupError),
    /// A kernel parameter was not put back.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

/// Ends every container of `instance`, its containerd and its shims, and removes its mounts,
/// interfaces, cgroups and rules.
///
/// # Errors
/// The first thing that stayed; everything else is gone.
pub async fn teardown(data_dir: &Path, instance: &str) -> Result<(), TeardownError> {
    let socket = data_dir.join("containerd/containerd.sock");
    if let Some(pid) = containerd::running_pid(data_dir) {
        if let Err(error) = end_pods(&Cri::new(&socket)).await {
            tracing::warn!(%error, "containerd does not end its pods, they are killed");
        }
        end_process(pid, Signal::TERM, CONTAINERD_END).await;
    }
    // Shims first, or they would say goodbye to a containerd that is gone.
    for pid in shims(&socket) {
        end_process(pid, Signal::KILL, GRACE).await;
    }
    let group = Path::new(instance);
    for pid in cgroups::processes(group) {
        end_process(pid, Signal::KILL, GRACE).await;
    }
    forget_shims(data_dir);
    let steps: [Result<(), TeardownError>; 4] = [
        mounts::unmount_below(data_dir).map_err(Into::into),
        remove_network(data_dir, instance).await,
        cgroups::remove(group).await.map_err(Into::into),
        network::restore_sysctls(data_dir, instance).map_err(Into::into),
    ];
    steps.into_iter().collect()
}

/// Ends containers with a little grace, then their sandboxes, which gives back their addresses.
async fn end_pods(cri: &Cri) -> Result<(), CriError> {
    let containers = cri.list_containers(&[]).await?;
    let sandboxes = cri.list_pod_sandbox(&[]).await?;
    tracing::info!(containers = containers.len(), pods = sandboxes.len(), "ending pods");
    let ended = futures::stream::iter(containers)
        .map(|container| async move { cri.stop_container(&container.id, GRACE).await })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    let removed = futures::stream::iter(sandboxes)
        .map(|sandbox| async move {
            cri.stop_pod_sandbox(&sandbox.id).await?;
            cri.remove_pod_sandbox(&sandbox.id).await
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    ended.into_iter().chain(removed).collect()
}

/// Sends `signal`, waits at most `patience`, kills what is still there.
async fn end_process(pid: i32, signal: Signal, patience: Duration) {
    let handle = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK).ok());
    let Some(handle) = handle.and_then(|handle| descriptor::readable(handle).ok()) else { return };
    // Gone already is what is wanted.
    let _ = pidfd_send_signal(handle.get_ref(), signal);
    if tokio::time::timeout(patience, handle.readable()).await.is_err() {
        let _ = pidfd_send_signal(handle.get_ref(), Signal::KILL);
        // A process that even this does not end is stuck in the kernel.
        let _ = tokio::time::timeout(patience, handle.readable()).await;
    }
}

/// The shims that report to the containerd at `socket`.
fn shims(socket: &Path) -> Vec<i32> {
    let socket = socket.as_os_str().as_encoded_bytes();
    let is_ours = |arguments: &[u8]| {
        let mut arguments = arguments.split(|byte| *byte == 0);
        let program = arguments.next().unwrap_or_default();
        let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        name.starts_with(b"containerd-shim") && arguments.any(|argument| argument == socket)
    };
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|a| is_ours(&a)))
        .collect()
}

/// Removes the sockets of shims that were killed; each notes its own beside its container.
fn forget_shims(data_dir: &Path) {
    let tasks = data_dir.join("containerd/state/io.containerd.runtime.v2.task/k8s.io");
    for task in std::fs::read_dir(tasks).into_iter().flatten().flatten() {
        let noted = std::fs::read_to_string(task.path().join("address")).unwrap_or_default();
        if let Some(socket) = noted.trim().strip_prefix("unix://") {
            // A shim that ended in order has removed it itself.
            let _ = std::fs::remove_file(socket);
        }
    }
}

async fn remove_network(data_dir: &Path, instance: &str) -> Result<(), TeardownError> {
    let error = |source| TeardownError::Network { instance: instance.to_owned(), source };
    if Path::new("/sys/class/net").join(instance).exists() {
        for port in bridge_ports(instance) {
            // It goes by itself when its pod's namespace ends at this very moment.
            let _ = tool::run("ip", &["link", "delete", "dev", &port]).await;
        }
        tool::run("ip", &["link", "delete", "dev", instance]).await.map_err(error)?;
    }
    let table = network::table(instance);
    let rules = format!("add table ip {table}\ndelete table ip {table}\n");
    tool::run_with_input("nft", &["-f", "-"], &rules).await.map_err(error)?;
    // No pod is left that holds an address, and no result of a plugin that anybody asks for.
    let _ = std::fs::remove_dir_all(data_dir.join("cni/ipam"));
    for result in results(Path::new("/var/lib/cni/results"), instance) {
        let _ = std::fs::remove_file(result);
    }
    Ok(())
}

/// The host's ends of the pods' interfaces.
fn bridge_ports(bridge: &str) -> Vec<String> {
    std::fs::read_dir(Path::new("/sys/class/net").join(bridge).join("brif"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// What the CNI library noted for our network, `NETWORK-CONTAINER-INTERFACE`.
fn results(dir: &Path, instance: &str) -> Vec<PathBuf> {
    let prefix = format!("{instance}-");
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect()
}
