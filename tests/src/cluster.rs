//! A Berth of a test's own: directory, ports and pod range that nobody else has.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::machine;
use crate::ports::{free_ports, free_run};

/// A cluster that is down, up or half way; removed with all it left when dropped.
#[derive(Debug)]
pub struct Cluster {
    dir: tempfile::TempDir,
    /// What clients keep; the data directory is Berth's alone.
    scratch: tempfile::TempDir,
    options: Vec<String>,
    api_port: u16,
    http_port: u16,
    https_port: u16,
    console_port: u16,
}

/// What a command printed.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Cluster {
    /// Chooses directory, ports and ranges; starts nothing.
    ///
    /// # Errors
    /// When no ports are free.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("berth-").tempdir()?;
        let scratch = tempfile::tempdir()?;
        let [api, kubelet, registry, http, https, dns, console] = free_ports()?;
        let health = free_run(8)?;
        // A port is free for one of us alone, so ranges made of it are too.
        let [high, low] = api.to_be_bytes();
        let (pods, services) = (format!("10.{}.{low}.0/24", 100 + high % 64), 164 + high % 64);
        let services = format!("10.{services}.{low}.0/24");
        let options = [
            ("--api-port", api.to_string()),
            ("--kubelet-port", kubelet.to_string()),
            ("--registry-port", registry.to_string()),
            ("--http-port", http.to_string()),
            ("--https-port", https.to_string()),
            ("--dns-port", dns.to_string()),
            // Few tests look at it; those say `with_console`.
            ("--console", "off".to_owned()),
            ("--health-port", health.to_string()),
            ("--pod-range", pods),
            ("--service-range", services),
        ];
        let options =
            options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
        Ok(Self {
            dir,
            scratch,
            options,
            api_port: api,
            http_port: http,
            https_port: https,
            console_port: console,
        })
    }

    /// The same, which will have a console.
    pub fn with_console(mut self) -> Self {
        let at = format!("0.0.0.0:{}", self.console_port);
        for off in self.options.iter_mut().filter(|word| *word == "off") {
            off.clone_from(&at);
        }
        self
    }

    /// The same, which will be told so too.
    pub fn told(mut self, name: &str, value: &str) -> Self {
        self.options.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// As [`Cluster::new`], and up.
    ///
    /// # Errors
    /// What `berth up` said.
    pub fn up() -> Result<Self> {
        let cluster = Self::new()?;
        cluster.start()?;
        Ok(cluster)
    }

    /// Runs `berth up --detach`.
    ///
    /// # Errors
    /// What `berth up` said.
    pub fn start(&self) -> Result<String> {
        let mut words = vec!["up", "--detach"];
        words.extend(self.options.iter().map(String::as_str));
        self.berth(&words).map(|ran| ran.err)
    }

    /// `--api-port N …`: what `berth up` is told.
    pub fn options(&self) -> &[String] {
        &self.options
    }

    /// Its data directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Names its bridge, nftables table and cgroups.
    pub fn name(&self) -> String {
        let digest = Sha256::digest(self.dir().as_os_str().as_encoded_bytes());
        let hex: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        format!("b{hex}")
    }

    /// Where the Kubernetes API answers.
    pub fn api(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.api_port))
    }

    /// Where the balancer answers HTTP.
    pub fn http(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.http_port))
    }

    /// Where the balancer answers TLS.
    pub fn https(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.https_port))
    }

    /// Where the console answers, if it does.
    pub fn console(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.console_port))
    }

    /// The control plane's process id.
    ///
    /// # Errors
    /// When it is not up.
    pub fn pid(&self) -> Result<i32> {
        let text = std::fs::read_to_string(self.dir().join("berth.pid"))?;
        text.trim().parse().context("berth.pid holds a process id")
    }

    /// containerd's process id.
    ///
    /// # Errors
    /// When it is not up.
    pub fn containerd_pid(&self) -> Result<i32> {
        let text = std::fs::read_to_string(self.dir().join("containerd/containerd.pid"))?;
        text.trim().parse().context("containerd.pid holds a process id")
    }

    /// Runs the binary on this cluster.
    ///
    /// # Errors
    /// When it fails; with what it printed.
    pub fn berth(&self, words: &[&str]) -> Result<Ran> {
        checked(self.try_berth(words)?, "berth", words)
    }

    /// As [`Cluster::berth`], failures included.
    ///
    /// # Errors
    /// When the binary cannot be run.
    pub fn try_berth(&self, words: &[&str]) -> Result<Ran> {
        run(self.command().args(words))
    }

    /// The binary, told where this cluster is.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command.env("BERTH_DATA_DIR", self.dir()).stdin(Stdio::null()).current_dir(machine::root());
        command
    }

    /// Runs kubectl on this cluster.
    ///
    /// # Errors
    /// When it fails; with what it printed.
    pub fn kubectl(&self, words: &[&str]) -> Result<Ran> {
        checked(self.try_kubectl(words)?, "kubectl", words)
    }

    /// As [`Cluster::kubectl`], failures included.
    ///
    /// # Errors
    /// When kubectl cannot be run.
    pub fn try_kubectl(&self, words: &[&str]) -> Result<Ran> {
        run(self.kubectl_command().args(words))
    }

    /// kubectl, told where this cluster is.
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new("kubectl");
        let cache = self.scratch.path().join("kubectl-cache");
        command.arg("--kubeconfig").arg(self.dir().join("kubeconfig"));
        command.arg("--cache-dir").arg(cache).stdin(Stdio::null());
        command
    }

    /// Applies a manifest.
    ///
    /// # Errors
    /// What kubectl said.
    pub fn apply(&self, manifest: &str) -> Result<Ran> {
        let path = self.scratch.path().join("manifest.yaml");
        std::fs::write(&path, manifest)?;
        self.kubectl(&["apply", "-f", &path.display().to_string()])
    }

    /// A field of an object by kubectl's JSONPath; empty when there is none.
    ///
    /// # Errors
    /// What kubectl said.
    pub fn field(&self, object: &str, path: &str) -> Result<String> {
        let path = format!("jsonpath={path}");
        Ok(self.kubectl(&["get", object, "-o", &path])?.out)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::env::var_os("BERTH_KEEP").is_some() {
            eprintln!("kept: {}", self.dir().display());
            let kept = std::mem::replace(&mut self.dir, tempfile::tempdir().expect("a directory"));
            drop(kept.keep());
            return;
        }
        if !self.dir().join("config.json").exists() {
            return;
        }
        match self.try_berth(&["down"]) {
            Ok(ran) if ran.code == 0 => {}
            ran => eprintln!("berth down: {ran:?}"),
        }
    }
}

/// The binary that `./dev` builds.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("BERTH_BIN")
        .map_or_else(|| machine::root().join("target/release/berth"), PathBuf::from)
}

pub(crate) fn run(command: &mut Command) -> Result<Ran> {
    let program = command.get_program().to_string_lossy().into_owned();
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("running {program}"))?;
    Ok(Ran {
        code: status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

pub(crate) fn checked(ran: Ran, program: &str, words: &[&str]) -> Result<Ran> {
    if ran.code != 0 {
        bail!("{program} {} ended with {}:\n{}{}", words.join(" "), ran.code, ran.out, ran.err);
    }
    Ok(ran)
}
