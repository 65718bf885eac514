//! Is this machine able to run pods? Asked before anything is started, so that nothing is half
//! started.

use std::io;
use std::path::PathBuf;

use crate::network::NetworkError;
use crate::{Config, cgroups, machine, network, tool};

/// Below this an image can hardly be unpacked, and the store may not be able to sync.
const LEAST_DISK_BYTES: u64 = 512 << 20;

/// What each tool is for, and where Debian has it.
const TOOLS: [(&str, &str); 5] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("setsid", "util-linux"),
];

/// Why this machine cannot run pods. One line each, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// Not started by root.
    #[error("berth up needs root: it makes network interfaces, mounts and cgroups")]
    NotRoot,
    /// A program is missing.
    #[error("{tool} is missing")]
    Missing {
        /// The program.
        tool: &'static str,
        /// The package that has it.
        package: &'static str,
    },
    /// No cgroups are mounted.
    #[error("no cgroups are mounted below /sys/fs/cgroup: pods cannot be limited or ended")]
    NoCgroups,
    /// The kernel refuses nftables.
    #[error("nftables do not work on this kernel: {said}")]
    NoNftables {
        /// What `nft` said.
        said: String,
    },
    /// The disk has no room.
    #[error("only {available} MiB are free on the disk of {path}; {least} MiB are needed", available = .available_bytes >> 20, least = LEAST_DISK_BYTES >> 20)]
    DiskFull {
        /// The data directory.
        path: PathBuf,
        /// What is free.
        available_bytes: u64,
    },
    /// The data directory cannot be written.
    #[error("the data directory {path} cannot be written: {source}")]
    DataDir {
        /// The data directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The data directory's path is too long.
    #[error(
        "the data directory's path is too long for containerd's socket: at most {most} characters fit"
    )]
    LongPath {
        /// Characters that fit.
        most: usize,
    },
    /// The pod range is another network's.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

impl PreflightError {
    /// Whether something else holds what was asked for; other settings would do.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Network(NetworkError::Overlap { .. }))
    }

    /// What to do about it; empty when the message says it already.
    pub fn hint(&self) -> String {
        match self {
            Self::NotRoot => "run it with sudo, or as root".to_owned(),
            Self::Missing { package, .. } => format!("on Debian: apt-get install {package}"),
            Self::NoCgroups => "mount cgroup2 on /sys/fs/cgroup".to_owned(),
            Self::NoNftables { .. } => {
                "use a kernel with nf_tables, and not a container without CAP_NET_ADMIN".to_owned()
            }
            Self::DiskFull { .. } => "make room, or choose another --data-dir".to_owned(),
            Self::DataDir { .. } | Self::LongPath { .. } => "choose another --data-dir".to_owned(),
            Self::Network(NetworkError::Overlap { .. }) => {
                "choose another range with --pod-range".to_owned()
            }
            Self::Network(_) => String::new(),
        }
    }
}

/// Checks everything that the node needs from the machine. Changes nothing but making the data
/// directory.
///
/// # Errors
/// The first thing that is missing.
pub fn check(config: &Config) -> Result<(), PreflightError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(PreflightError::NotRoot);
    }
    for (tool, package) in TOOLS {
        if tool::find(tool).is_none() {
            return Err(PreflightError::Missing { tool, package });
        }
    }
    if network::plugin_dir().is_none() {
        let (tool, package) = ("the CNI plugin bridge", "containernetworking-plugins");
        return Err(PreflightError::Missing { tool, package });
    }
    if cgroups::Layout::detect().is_none() {
        return Err(PreflightError::NoCgroups);
    }
    if let Err(error) = tool::run_here("nft", &["list", "tables"]) {
        return Err(PreflightError::NoNftables { said: error.to_string() });
    }
    check_dir(config)?;
    network::check_range(config)?;
    Ok(())
}

fn check_dir(config: &Config) -> Result<(), PreflightError> {
    let path = &config.data_dir;
    let overhead = config.containerd_socket().as_os_str().len() - path.as_os_str().len();
    let most = crate::containerd::LONGEST_SOCKET - overhead;
    if path.as_os_str().len() > most {
        return Err(PreflightError::LongPath { most });
    }
    let error = |source| PreflightError::DataDir { path: path.clone(), source };
    std::fs::create_dir_all(path).map_err(error)?;
    let probe = path.join(".writable");
    std::fs::write(&probe, "").map_err(error)?;
    std::fs::remove_file(&probe).map_err(error)?;
    match machine::disk(path) {
        Some(disk) if disk.available_bytes < LEAST_DISK_BYTES => Err(PreflightError::DiskFull {
            path: path.clone(),
            available_bytes: disk.available_bytes,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        check_dir(&crate::sample::config(dir.path())).expect("it can be used");
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("a file");
        let error = check_dir(&crate::sample::config(&file)).expect_err("a file is no directory");
        assert!(error.to_string().contains("file"), "{error}");
        let long = dir.path().join("x".repeat(120));
        let error = check_dir(&crate::sample::config(&long)).expect_err("too long");
        assert!(matches!(error, PreflightError::LongPath { .. }), "{error}");
    }
}
