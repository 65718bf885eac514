//! Under what a run measured: figures without this mean little.

use std::fmt;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

/// The machine and the code of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Conditions {
    cores: usize,
    memory_mib: u64,
    kernel: String,
    load: String,
    commit: String,
}

/// Reads them.
///
/// # Errors
/// When /proc does not tell.
pub fn now() -> Result<Conditions> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
    let memory = read("/proc/meminfo")?;
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let memory = memory.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let commit = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let commit = commit.map(|ran| String::from_utf8_lossy(&ran.stdout).trim().to_owned());
    Ok(Conditions {
        cores: std::thread::available_parallelism()?.get(),
        memory_mib: memory.unwrap_or_default() / 1024,
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        load: read("/proc/loadavg")?.split(' ').take(3).collect::<Vec<_>>().join(" "),
        commit: commit.unwrap_or_default(),
    })
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, memory_mib, kernel, load, commit } = self;
        write!(
            f,
            "conditions: {cores} cores, {memory_mib} MiB, kernel {kernel}, load {load} before, \
             release build of {commit}, 127.0.0.1"
        )
    }
}
