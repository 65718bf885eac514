//! A server that is measured: a process of one thread's work, pinned to the servers' processor.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use berth_tests::until;

use crate::group_api::side::{Place, pin};

/// A million names take a while to be read.
const START: Duration = Duration::from_secs(60);

/// Ended when dropped.
pub struct Server {
    /// Who it is.
    pub name: &'static str,
    /// Where it listens on loopback.
    pub port: u16,
    process: Child,
}

impl Server {
    /// Starts a peer's `program`; `None` where it is not installed.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn installed(
        name: &'static str,
        program: &str,
        words: &[String],
        port: u16,
        answers: fn(u16) -> bool,
    ) -> Result<Option<Self>> {
        let path = Path::new(program);
        if !path.exists() {
            eprintln!("{name} is not installed: no figure beside it");
            return Ok(None);
        }
        Self::start(name, path, words, port, answers).map(Some)
    }

    /// Starts one of our examples.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn example(
        name: &'static str,
        program: &str,
        words: &[String],
        port: u16,
        answers: fn(u16) -> bool,
    ) -> Result<Self> {
        let path = std::env::current_exe()?.with_file_name("examples").join(program);
        Self::start(name, &path, words, port, answers)
    }

    /// Starts `program` and waits until it `answers` at `port`.
    ///
    /// # Errors
    /// When it cannot be started, or does not answer.
    fn start(
        name: &'static str,
        program: &Path,
        words: &[String],
        port: u16,
        answers: fn(u16) -> bool,
    ) -> Result<Self> {
        let process = Command::new(program)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let server = Self { name, port, process };
        until(&format!("{name} answers"), START, || answers(port))?;
        for pid in server.pids() {
            pin(pid, Place::Server)?;
        }
        Ok(server)
    }

    /// Processor time used so far by all threads of it and of the processes it began.
    pub fn cpu(&self) -> Duration {
        Duration::from_nanos(self.pids().into_iter().map(spent).sum())
    }

    /// Resident memory in MiB.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident(&self) -> Result<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.process.id()))?;
        let pages: f64 = text.split(' ').nth(1).context("no resident pages")?.parse()?;
        Ok(pages * 4.0 / 1024.0)
    }

    /// Its process, and those that it began: NSD answers in a child.
    fn pids(&self) -> Vec<i32> {
        let mut all = vec![i32::try_from(self.process.id()).unwrap_or_default()];
        let mut at = 0;
        while let Some(pid) = all.get(at) {
            let path = format!("/proc/{pid}/task/{pid}/children");
            let children = std::fs::read_to_string(path).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
            at += 1;
        }
        all
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // NSD's children end with it when it is asked to, not when it is killed.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).unwrap_or_default());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let ended = until("it ends", Duration::from_secs(5), || {
            self.process.try_wait().is_ok_and(|ended| ended.is_some())
        });
        if ended.is_err() {
            drop(self.process.kill());
            drop(self.process.wait());
        }
    }
}

/// Nanoseconds on a processor, of all threads of `pid`.
pub fn spent(pid: i32) -> u64 {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let of = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    threads.flatten().filter_map(of).sum()
}
