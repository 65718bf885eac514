//! The container runtime: an instance of containerd of our own, never the machine's.
//!
//! Root, state, socket, log and CNI settings are under `DIR/containerd` and `DIR/cni`. It runs in a
//! session of its own and is never stopped when Berth ends: one that is alive is taken up as it is,
//! one that dies while we run is started again at once (its containers do not notice).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use berth_daemon::{Backoff, Tasks};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::json;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::cri::Cri;
use crate::{Config, descriptor, network, tool};

/// From the start of the process until it answers; 0.3 s on an idle machine.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// One that is alive but silent gets this long before it is replaced.
const SILENT_DEADLINE: Duration = Duration::from_secs(10);
/// A log beyond this size is moved aside.
const LOG_LIMIT_BYTES: u64 = 10 << 20;
const LOG_LOOK: Duration = Duration::from_secs(60);
/// Longest path that fits a unix socket's address, less the `.ttrpc` of containerd's second socket.
pub(crate) const LONGEST_SOCKET: usize = 107 - ".ttrpc".len();

/// Why containerd could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    /// The program is not on this machine.
    #[error("{program} is missing (Debian package {package})")]
    Missing {
        /// The program looked for.
        program: &'static str,
        /// Where Debian has it.
        package: &'static str,
    },
    /// The data directory's path is too long for a unix socket.
    #[error("{path} is too long for a unix socket; choose a shorter data directory")]
    LongPath {
        /// The socket's path.
        path: PathBuf,
    },
    /// A file could not be written, or the program could not be started.
    #[error("cannot use {path}")]
    Io {
        /// The file or program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended before it answered.
    #[error("containerd ended at its start: {said}; see {log}")]
    Ended {
        /// The last line of its log.
        said: String,
        /// Its log.
        log: PathBuf,
    },
    /// It did not answer in time.
    #[error("containerd did not answer within {} s; see {log}", ANSWER_DEADLINE.as_secs())]
    Silent {
        /// Its log.
        log: PathBuf,
    },
}

/// Our containerd, answering when this value exists.
#[derive(Clone, Debug)]
pub struct Containerd {
    cri: Cri,
}

impl Containerd {
    /// Takes up the running instance or starts one, and keeps it running until `tasks` stop.
    ///
    /// # Errors
    /// When it is not installed, cannot be started, or does not answer.
    pub async fn start(config: &Config, tasks: &Tasks) -> Result<Self, ContainerdError> {
        let files = Files::of(config)?;
        let cri = Cri::new(&files.socket);
        let running = match files.running().await {
            Some(process) if answers(&cri, &process, SILENT_DEADLINE).await => process,
            Some(process) => {
                tracing::warn!(pid = process.pid, "containerd is silent, replacing it");
                process.kill();
                start_process(config, &files, &cri).await?
            }
            None => start_process(config, &files, &cri).await?,
        };
        let (config, kept) = (config.clone(), cri.clone());
        tasks.spawn_until_stop("containerd", async move {
            supervise(config, files, kept, running).await;
        });
        Ok(Self { cri })
    }

    /// A client of this instance.
    pub fn cri(&self) -> Cri {
        self.cri.clone()
    }
}

/// The paths of one instance.
#[derive(Debug)]
struct Files {
    dir: PathBuf,
    settings: PathBuf,
    socket: PathBuf,
    pid: PathBuf,
    log: PathBuf,
}

impl Files {
    fn of(config: &Config) -> Result<Self, ContainerdError> {
        let dir = config.containerd_dir();
        let socket = config.containerd_socket();
        if socket.as_os_str().len() > LONGEST_SOCKET {
            return Err(ContainerdError::LongPath { path: socket });
        }
        Ok(Self {
            settings: dir.join("config.toml"),
            pid: dir.join("containerd.pid"),
            log: dir.join("containerd.log"),
            socket,
            dir,
        })
    }

    /// Our containerd, when one is alive.
    async fn running(&self) -> Option<Process> {
        Process::adopt(find(&self.settings)?, &self.settings)
    }
}

/// The process id of the containerd that runs for `data_dir`.
///
/// Asked of /proc: the pid file is for people. It can be stale, or missing because we were killed,
/// or the disk was full, between the start and the writing; a second containerd on the same root
/// would wait for the first one's lock for ever.
pub(crate) fn running_pid(data_dir: &Path) -> Option<i32> {
    find(&data_dir.join("containerd/config.toml"))
}

fn find(settings: &Path) -> Option<i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid| is_ours(*pid, settings))
}

/// Whether the process `pid` was started with our settings file.
fn is_ours(pid: i32, settings: &Path) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|arguments| runs_containerd(&arguments, settings))
}

/// Whether a command line is containerd's with `settings`, and not an editor's that shows them.
fn runs_containerd(arguments: &[u8], settings: &Path) -> bool {
    let mut arguments = arguments.split(|byte| *byte == 0);
    let program = arguments.next().unwrap_or_default();
    program.rsplit(|byte| *byte == b'/').next() == Some(b"containerd")
        && arguments.next() == Some(b"--config")
        && arguments.next() == Some(settings.as_os_str().as_encoded_bytes())
}

/// A containerd process, ours or adopted: its end is seen through a pidfd either way.
#[derive(Debug)]
struct Process {
    pid: i32,
    end: AsyncFd<std::os::fd::OwnedFd>,
    /// Present when it is our child, which has to be waited for.
    child: Option<tokio::process::Child>,
}

impl Process {
    fn adopt(pid: i32, settings: &Path) -> Option<Self> {
        // The handle first: afterwards the number cannot come to mean another process unseen.
        let end = Self::handle(pid)?;
        is_ours(pid, settings).then_some(Self { pid, end, child: None })
    }

    fn handle(pid: i32) -> Option<AsyncFd<std::os::fd::OwnedFd>> {
        let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::NONBLOCK).ok()?;
        descriptor::readable(handle).ok()
    }

    async fn ended(&mut self) {
        // An error here means that the runtime is going down; then nothing is left to watch.
        let _ = self.end.readable().await;
        if let Some(child) = &mut self.child {
            let _ = child.wait().await;
        }
    }

    fn kill(&self) {
        // Gone already is what was wanted.
        let _ =
            rustix::process::pidfd_send_signal(self.end.get_ref(), rustix::process::Signal::KILL);
    }
}

/// Whether the runtime answers before `deadline` has passed or its process has ended.
async fn answers(cri: &Cri, process: &Process, deadline: Duration) -> bool {
    let until = Instant::now() + deadline;
    let mut wait = Duration::from_millis(10);
    loop {
        let asked = tokio::time::timeout(Duration::from_secs(2), cri.version()).await;
        if matches!(asked, Ok(Ok(_))) {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        tokio::select! {
            _ = process.end.readable() => return false,
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(Duration::from_millis(100)),
        }
    }
}

async fn start_process(
    config: &Config,
    files: &Files,
    cri: &Cri,
) -> Result<Process, ContainerdError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| ContainerdError::Io { path, source }
    };
    let missing = |program, package| ContainerdError::Missing { program, package };
    let program = tool::find("containerd").ok_or_else(|| missing("containerd", "containerd"))?;
    let plugins = network::plugin_dir()
        .ok_or_else(|| missing("the CNI plugin bridge", "containernetworking-plugins"))?;
    write_settings(config, files, &plugins)?;
    shorten(&files.log, 0).map_err(io(&files.log))?;
    let log = File::options().create(true).append(true).open(&files.log).map_err(io(&files.log))?;
    let errors = log.try_clone().map_err(io(&files.log))?;
    // setsid(1) becomes containerd in the same process, in a session of its own: neither Ctrl-C
    // nor the end of our terminal reaches it.
    let setsid = tool::find("setsid").ok_or_else(|| missing("setsid", "util-linux"))?;
    let mut child = tokio::process::Command::new(setsid)
        .arg(&program)
        .arg("--config")
        .arg(&files.settings)
        .current_dir("/")
        .env("PATH", search_path())
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .kill_on_drop(false)
        .spawn()
        .map_err(io(&program))?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
    let Some(end) = Process::handle(pid) else {
        let _ = child.wait().await;
        return Err(files.ended());
    };
    std::fs::write(&files.pid, pid.to_string()).map_err(io(&files.pid))?;
    let mut process = Process { pid, end, child: Some(child) };
    if answers(cri, &process, ANSWER_DEADLINE).await {
        return Ok(process);
    }
    if process.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_)))) {
        return Err(files.ended());
    }
    // Half started is worse than not started: the next try begins from nothing.
    process.kill();
    process.ended().await;
    Err(ContainerdError::Silent { log: files.log.clone() })
}

impl Files {
    fn ended(&self) -> ContainerdError {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let said = text.lines().last().unwrap_or("it left no word").to_owned();
        ContainerdError::Ended { said, log: self.log.clone() }
    }
}

/// containerd and its shims look for runc by name.
fn search_path() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin");
    path
}

/// Starts containerd again whenever it dies, until cancelled.
async fn supervise(config: Config, files: Files, cri: Cri, mut process: Process) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    let mut looks = tokio::time::interval(LOG_LOOK);
    loop {
        let since = Instant::now();
        loop {
            tokio::select! {
                () = process.ended() => break,
                _ = looks.tick() => {
                    if let Err(error) = shorten(&files.log, LOG_LIMIT_BYTES) {
                        tracing::warn!(%error, log = %files.log.display(), "cannot shorten");
                    }
                }
            }
        }
        tracing::warn!(pid = process.pid, "containerd ended, starting it again");
        if since.elapsed() > Duration::from_secs(60) {
            backoff.reset();
        }
        process = loop {
            match start_process(&config, &files, &cri).await {
                Ok(process) => break process,
                Err(error) => {
                    let delay = backoff.next_delay();
                    tracing::error!(%error, ?delay, "containerd does not start, trying again");
                    tokio::time::sleep(delay).await;
                }
            }
        };
        tracing::info!(pid = process.pid, "containerd runs again");
    }
}

/// Moves the log's content to `containerd.log.1` when it is longer than `limit`.
///
/// containerd keeps the file open for appending, so it is copied and emptied, never renamed.
fn shorten(log: &Path, limit: u64) -> io::Result<()> {
    let length = match log.metadata() {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if length <= limit {
        return Ok(());
    }
    std::fs::copy(log, log.with_extension("log.1"))?;
    File::options().write(true).open(log)?.set_len(0)
}

fn write_settings(config: &Config, files: &Files, plugins: &Path) -> Result<(), ContainerdError> {
    let hosts = files.dir.join("hosts");
    let registry = hosts.join(config.registry.to_string());
    for (dir, file, text) in [
        (&files.dir, "config.toml", settings(config, files, plugins)),
        (&registry, "hosts.toml", hosts_file(config)),
    ] {
        let path = dir.join(file);
        let error = |source| ContainerdError::Io { path: path.clone(), source };
        std::fs::create_dir_all(dir).map_err(error)?;
        std::fs::write(&path, text).map_err(error)?;
    }
    Ok(())
}

/// How containerd reaches our registry: plain HTTP, because it is on the loopback interface.
fn hosts_file(config: &Config) -> String {
    let server = format!("http://{}", config.registry);
    format!(
        "server = \"{server}\"\n\n[host.\"{server}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
    )
}

/// containerd's own settings; the reasons are in the comments of the text.
fn settings(config: &Config, files: &Files, plugins: &Path) -> String {
    let path = |path: PathBuf| json!(path).to_string();
    // JSON strings are TOML basic strings for every path and reference that can occur here.
    let dir = &files.dir;
    format!(
        r#"# Written by Berth at each start; changes are lost.
version = 2
root = {root}
state = {state}
# Not needed to run pods; each costs start time and memory.
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.native", "io.containerd.internal.v1.restart",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing", "io.containerd.nri.v1.nri",
]

[grpc]
  address = {socket}

[plugins."io.containerd.internal.v1.opt"]
  path = {opt}

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = {sandbox_image}
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  # Without CAP_SYS_RESOURCE a lower score than our own is refused and no sandbox starts.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  tolerate_missing_hugetlb_controller = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {plugins}
    conf_dir = {cni}

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        # Not among those of the machine's own containerd, so that it can be told apart.
        Root = {runc}

  [plugins."io.containerd.grpc.v1.cri".registry]
    # Ours first, then what the machine's owner set up for other registries.
    config_path = {hosts}
"#,
        root = path(dir.join("root")),
        state = path(dir.join("state")),
        socket = path(files.socket.clone()),
        opt = path(dir.join("opt")),
        runc = path(dir.join("runc")),
        sandbox_image = json!(config.sandbox_image),
        plugins = path(plugins.to_owned()),
        cni = path(config.cni_dir()),
        hosts = json!(format!("{}:/etc/containerd/certs.d", dir.join("hosts").display())),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_editor_that_shows_the_settings_is_not_taken_for_containerd() {
        let settings = Path::new("/d/containerd/config.toml");
        for (line, ours) in [
            ("/usr/bin/containerd --config /d/containerd/config.toml ", true),
            ("vim /d/containerd/config.toml ", false),
            ("containerd --config /e/containerd/config.toml ", false),
            ("sh -c containerd --config /d/containerd/config.toml ", false),
        ] {
            let arguments = line.replace(' ', "\0");
            assert_eq!(runs_containerd(arguments.as_bytes(), settings), ours, "{line}");
        }
    }
}
