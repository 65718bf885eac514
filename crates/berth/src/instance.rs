//! One Berth on this machine: its options, checked, and the directory that holds all of it.

mod options;
mod words;

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ipnet::Ipv4Net;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::cli::Global;
use crate::failure::{Exit, Failure};
use crate::ports::Wanted;

pub use options::{ConsoleAt, Every, Options, StoreAt};

/// The format of the data directory that this binary writes.
const FORMAT: u32 = 1;
/// Longer than anybody who only looks holds the lock.
const LOOKED_AT: Duration = Duration::from_millis(200);
/// All that stands in the data directory; the lock goes last. Backups, and a store that was set
/// aside, are not among it: they outlive a purge.
const ENTRIES: [&str; 21] = [
    "store",
    "store.new",
    "backup.sock",
    "backup.json",
    "backup.part",
    "pki",
    "containerd",
    "cni",
    "console",
    "node",
    "volumes",
    "registry",
    "build",
    "logs",
    "notify.sock",
    "kubeconfig",
    "kubeconfig.part",
    "version",
    "config.json",
    "config.part",
    "berth.pid",
];
/// Where the default instance lives; only it is called `berth0`.
const DEFAULT_DATA_DIR: &str = "/var/lib/berth";

/// An instance whose options have been checked.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its directory, absolute.
    pub dir: PathBuf,
    /// Names its bridge, nftables table and cgroups: `berth0`, or `b` and 8 hex digits.
    pub name: String,
    /// The Node object's name.
    pub node_name: String,
    /// What was chosen.
    pub options: Options,
}

impl Instance {
    /// Checks `options` for the instance in `dir`.
    ///
    /// # Errors
    /// A value that cannot work, naming its option and what would be right.
    pub fn new(dir: &Path, options: Options) -> Result<Self> {
        let dir = std::path::absolute(dir)?;
        // AF_UNIX paths end at 107 bytes; the longest of ours is containerd's.
        let socket = dir.join("containerd/containerd.sock.ttrpc");
        if socket.as_os_str().len() > 107 {
            return Err(wrong("--data-dir", &dir.display(), "a path of at most 75 characters"));
        }
        let Options { pod_range, service_range, .. } = &options;
        if !(16..=28).contains(&pod_range.prefix_len()) || pod_range.trunc() != *pod_range {
            let right = "a network such as 10.42.0.0/24, of 16 to 28 bits";
            return Err(wrong("--pod-range", pod_range, right));
        }
        if !(8..=28).contains(&service_range.prefix_len())
            || service_range.trunc() != *service_range
        {
            let right = "a network such as 10.43.0.0/16, of 8 to 28 bits";
            return Err(wrong("--service-range", service_range, right));
        }
        if pod_range.contains(service_range) || service_range.contains(pod_range) {
            return Err(wrong("--service-range", service_range, "one apart from --pod-range"));
        }
        let node_name = match &options.node_name {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname()?.to_string_lossy().to_lowercase(),
        };
        let name = instance_name(&dir);
        Ok(Self { dir, name, node_name, options })
    }

    /// The instance that ran last in the directory that `global` names.
    ///
    /// # Errors
    /// [`Exit::NotRunning`] where none ever ran.
    pub fn of(global: &Global) -> Result<Self> {
        let dir = std::path::absolute(&global.data_dir)?;
        let path = dir.join("config.json");
        let text = fs::read_to_string(&path).map_err(|_| {
            let message = format!("no berth has run in {}", dir.display());
            anyhow!(Failure::new(Exit::NotRunning, message, "start one: berth up, or ./dev up"))
        })?;
        let options = serde_json::from_str(&text).map_err(|error| {
            let message = format!("{} holds no options: {error}", path.display());
            Failure::new(Exit::Failed, message, "the next `berth up` writes it anew")
        })?;
        Self::new(&dir, options)
    }

    /// The instance whose directory `global` names, to be ended: what it was told does not matter.
    ///
    /// # Errors
    /// [`Exit::NotRunning`] where none ever ran.
    pub fn to_end(global: &Global) -> Result<Self> {
        let dir = std::path::absolute(&global.data_dir)?;
        let options = match Self::of(global) {
            Ok(instance) => return Ok(instance),
            // One that was killed in its first moments has left its pid file alone.
            Err(error) if !dir.join("berth.pid").exists() => return Err(error),
            Err(_) => Options::default(),
        };
        Self::new(&dir, options)
    }

    /// Takes the directory for this process.
    ///
    /// # Errors
    /// [`Exit::InUse`] when another process has it; a newer format.
    pub fn take(&self) -> Result<Taken> {
        create_private(&self.dir)?;
        let taken = self.lock()?;
        self.check_format()?;
        fs::create_dir_all(self.dir.join("logs")).map_err(|error| self.cannot_write(&error))?;
        Ok(taken)
    }

    /// Takes the directory whatever its format.
    ///
    /// # Errors
    /// [`Exit::InUse`] when another process has it.
    pub fn lock(&self) -> Result<Taken> {
        let pid_path = self.dir.join("berth.pid");
        let open = fs::File::options().create(true).read(true).append(true).open(&pid_path);
        let mut file = open.map_err(|error| self.cannot_write(&error))?;
        let given_up = Instant::now() + LOOKED_AT;
        let mut lock = loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => break lock,
                // `running` holds it for a moment, to look.
                Err((back, _)) if Instant::now() < given_up => file = back,
                Err(_) => {
                    let pid = fs::read_to_string(&pid_path).unwrap_or_default();
                    let dir = self.dir.display();
                    let message = format!("berth is already up in {dir} (process {})", pid.trim());
                    let hint = "stop it with `berth down`, or choose another --data-dir";
                    return Err(Failure::new(Exit::InUse, message, hint).into());
                }
            }
            std::thread::sleep(LOOKED_AT / 10);
        };
        // At once: a number that a process before us left may mean a stranger by now.
        lock.set_len(0)?;
        writeln!(lock, "{}", std::process::id()).map_err(|error| self.cannot_write(&error))?;
        Ok(Taken { _lock: lock })
    }

    /// Removes what Berth has written below the directory, and the directory if nothing else is
    /// in it. Says whether something else was: never ours to remove.
    ///
    /// # Errors
    /// The first entry that cannot be removed.
    pub fn purge(&self) -> Result<bool> {
        for name in ENTRIES {
            let path = self.dir.join(name);
            let removed = match path.symlink_metadata() {
                Ok(found) if found.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(_) => continue,
            };
            removed.with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(fs::remove_dir(&self.dir).is_err() && self.dir.exists())
    }

    /// Writes the options down for the other subcommands.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn remember_options(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.options)? + "\n";
        write_whole(&self.dir.join("config.json"), &text)
    }

    /// The control plane's process, if one runs.
    pub fn running(&self) -> Option<nix::unistd::Pid> {
        let file = fs::File::open(self.dir.join("berth.pid")).ok()?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_nobody) => None,
            Err(_) => {
                let pid = fs::read_to_string(self.dir.join("berth.pid")).ok()?;
                pid.trim().parse().ok().map(nix::unistd::Pid::from_raw)
            }
        }
    }

    /// `DIR/kubeconfig`.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The bridge's address: the node's, and where pods reach the machine.
    pub fn node_address(&self) -> Ipv4Addr {
        nth(self.options.pod_range, 1)
    }

    /// The API, as pods see it.
    pub fn api_address(&self) -> Ipv4Addr {
        nth(self.options.service_range, 1)
    }

    /// The cluster's DNS, as pods see it.
    pub fn dns_address(&self) -> Ipv4Addr {
        nth(self.options.service_range, 10)
    }

    /// Where images are pushed to and pulled from.
    pub fn registry(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.options.registry_port))
    }

    /// Every port that must be free, but for those that our own pods hold already.
    pub fn ports(&self) -> Vec<Wanted> {
        let (all, local) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST);
        let of = |option, ip: Ipv4Addr, port, pods| Wanted {
            option,
            address: SocketAddr::from((ip, port)),
            udp: option == "--dns-port",
            pods,
        };
        let o = &self.options;
        let mut wanted = vec![
            of("--api-port", all, o.api_port, false),
            of("--kubelet-port", self.node_address(), o.kubelet_port, false),
            of("--registry-port", local, o.registry_port, false),
            of("--http-port", all, o.http_port, true),
            of("--https-port", all, o.https_port, true),
            of("--dns-port", self.node_address(), o.dns_port, true),
        ];
        if let ConsoleAt::Listen(address) = o.console {
            wanted.push(Wanted { option: "--console", address, udp: false, pods: true });
        }
        let health = o.health_port..o.health_port.saturating_add(8);
        wanted.extend(health.map(|port| of("--health-port", local, port, true)));
        wanted
    }

    fn check_format(&self) -> Result<()> {
        let path = self.dir.join("version");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let found: u32 = text.trim().parse().map_err(|_| {
                    let message = format!("{} holds no number", path.display());
                    let hint = format!("if this berth has written the directory: {FORMAT}");
                    Failure::new(Exit::Failed, message, hint)
                })?;
                if found > FORMAT {
                    let message = format!(
                        "{} was written by a newer berth (format {found}, this one knows {FORMAT})",
                        self.dir.display()
                    );
                    let hint = "use the newer berth, or another --data-dir";
                    return Err(Failure::new(Exit::Failed, message, hint).into());
                }
                Ok(())
            }
            Err(_) => write_whole(&path, &format!("{FORMAT}\n")),
        }
    }

    fn cannot_write(&self, error: &std::io::Error) -> anyhow::Error {
        let message = format!("cannot write to {}: {error}", self.dir.display());
        let hint = match error.kind() {
            std::io::ErrorKind::StorageFull => "make room there, or choose another --data-dir",
            _ => "run as root, or choose another --data-dir",
        };
        Failure::new(Exit::Machine, message, hint).into()
    }
}

/// The directory is ours as long as this lives.
#[derive(Debug)]
pub struct Taken {
    _lock: Flock<fs::File>,
}

/// `berth kubeconfig`.
pub fn print_kubeconfig(global: &Global) -> Result<()> {
    let path = Instance::of(global)?.kubeconfig();
    println!("{}", path.display());
    Ok(())
}

/// Writes `text` so that a reader sees the old file or the new one, never half of it.
pub fn write_whole(path: &Path, text: &str) -> Result<()> {
    write_bytes(path, text.as_bytes())
}

/// The same for what is no text.
///
/// # Errors
/// As [`write_whole`].
pub fn write_bytes(path: &Path, content: &[u8]) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let part = path.with_extension("part");
    let write = || -> std::io::Result<()> {
        let mut file =
            fs::File::options().create(true).write(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// Private keys stand below, so others get no look.
fn create_private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o711).create(dir).map_err(|error| {
        let message = format!("cannot create {}: {error}", dir.display());
        Failure::new(Exit::Machine, message, "run as root, or choose another --data-dir").into()
    })
}

fn instance_name(dir: &Path) -> String {
    if dir == Path::new(DEFAULT_DATA_DIR) {
        return "berth0".into();
    }
    let digest = Sha256::digest(dir.as_os_str().as_encoded_bytes());
    let hex: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("b{hex}")
}

fn nth(range: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(range.network()) + n)
}

fn wrong(option: &str, value: &dyn std::fmt::Display, right: &str) -> anyhow::Error {
    anyhow!("{option} {value} cannot work: it must be {right}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(words: &[&str]) -> Options {
        Line::try_parse_from(std::iter::once(&"up").chain(words)).unwrap().options
    }

    #[test]
    fn a_value_that_cannot_work_is_named_with_what_would() {
        for (words, expected) in [
            (["--pod-range", "10.42.0.5/24"], "--pod-range 10.42.0.5/24"),
            (["--pod-range", "10.42.0.0/30"], "--pod-range 10.42.0.0/30"),
            (["--service-range", "10.42.0.0/16"], "apart from --pod-range"),
        ] {
            let error = Instance::new(Path::new("/x"), options(&words)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_second_process_cannot_take_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance::new(dir.path(), options(&[])).unwrap();
        let taken = instance.take().unwrap();
        let error = instance.take().unwrap_err();
        assert!(error.to_string().contains("already up"), "{error}");
        assert_eq!(
            instance.running().map(nix::unistd::Pid::as_raw),
            i32::try_from(std::process::id()).ok()
        );
        drop(taken);
        assert_eq!(instance.running(), None);
    }

    #[test]
    fn a_directory_of_a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("version"), "99\n").unwrap();
        let instance = Instance::new(dir.path(), options(&[])).unwrap();
        let error = instance.take().unwrap_err().to_string();
        assert!(error.contains("newer berth (format 99"), "{error}");
    }

    #[test]
    fn a_number_that_another_process_left_is_never_taken_for_ours() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("berth.pid"), "1\n").unwrap();
        fs::write(dir.path().join("version"), "rubbish\n").unwrap();
        let instance = Instance::new(dir.path(), options(&[])).unwrap();
        assert_eq!(instance.running(), None);
        let error = instance.take().unwrap_err().to_string();
        assert!(error.contains("holds no number"), "{error}");
        let left = fs::read_to_string(dir.path().join("berth.pid")).unwrap();
        assert_eq!(left.trim(), std::process::id().to_string());
    }

    #[test]
    fn purging_spares_what_berth_has_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let instance = Instance::new(&home, options(&[])).unwrap();
        drop(instance.take().unwrap());
        fs::write(home.join("thesis.txt"), "years").unwrap();
        assert!(instance.purge().unwrap());
        let left: Vec<_> = fs::read_dir(&home).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["thesis.txt"]);
        fs::remove_file(home.join("thesis.txt")).unwrap();
        assert!(!instance.purge().unwrap());
        assert!(!home.exists());
    }

    #[test]
    fn only_the_default_directory_has_the_short_name() {
        assert_eq!(instance_name(Path::new(DEFAULT_DATA_DIR)), "berth0");
        let other = instance_name(Path::new("/srv/other"));
        assert_eq!(other.len(), 9, "{other}");
    }
}
