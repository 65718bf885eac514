//! A real kube-apiserver with its etcd on free loopback ports, from `KUBEBUILDER_ASSETS` (default
//! /opt/kubernetes): what ours is compared with.

mod real;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::ports::free_ports;
use crate::wait::until;

pub use real::Real;

/// The administrator's token.
pub const TOKEN: &str = "admin-of-a-test";

/// Its processes; ended when dropped.
#[derive(Debug)]
pub struct Kubernetes {
    processes: Vec<Child>,
    port: u16,
    dir: tempfile::TempDir,
}

impl Kubernetes {
    /// Starts it; none where it is not installed.
    ///
    /// # Errors
    /// When it is installed and does not become ready.
    pub fn start() -> Result<Option<Self>> {
        let Some(assets) = assets() else { return Ok(None) };
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name).display().to_string();
        let [etcd, peers, port] = free_ports()?;
        write_keys(dir.path(), &format!("https://127.0.0.1:{port}"))?;
        let client = format!("http://127.0.0.1:{etcd}");
        let peer = format!("http://127.0.0.1:{peers}");
        let etcd = [
            format!("--data-dir={}", at("etcd")),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
        ];
        let server = [
            format!("--etcd-servers={client}"),
            format!("--secure-port={port}"),
            "--advertise-address=127.0.0.1".into(),
            format!("--cert-dir={}", at("pki")),
            format!("--service-account-key-file={}", at("sa.pub")),
            format!("--service-account-signing-key-file={}", at("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            "--service-cluster-ip-range=10.43.0.0/16".into(),
            format!("--token-auth-file={}", at("tokens.csv")),
            "--authorization-mode=Node,RBAC".into(),
            "--allow-privileged=true".into(),
            // The default, port 443 of the advertised address, is not to be had on loopback.
            "--endpoint-reconciler-type=none".into(),
        ];
        let mut started = Self { processes: Vec::new(), port, dir };
        started.spawn(&assets.join("etcd"), &etcd)?;
        started.spawn(&assets.join("kube-apiserver"), &server)?;
        answers(&started.url())?;
        Ok(Some(started))
    }

    /// Starts its controllers too; false where they are not installed.
    ///
    /// # Errors
    /// When they are and cannot be started.
    pub fn with_controllers(&mut self) -> Result<bool> {
        let program = assets().map(|assets| assets.join("kube-controller-manager"));
        let Some(program) = program.filter(|program| program.exists()) else { return Ok(false) };
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let words = [
            format!("--kubeconfig={}", self.kubeconfig().display()),
            format!("--service-account-private-key-file={}", at("sa.key")),
            format!("--root-ca-file={}", at("pki/apiserver.crt")),
            "--leader-elect=false".to_owned(),
            "--port=0".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        self.spawn(&program, &words)?;
        Ok(true)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// Where it answers, with a certificate of its own making.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    fn spawn(&mut self, program: &Path, words: &[String]) -> Result<()> {
        let log = std::fs::File::create(self.dir.path().join("log"))?;
        let process = Command::new(program)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        self.processes.push(process);
        Ok(())
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            // One that has ended by itself cannot be killed, and need not be.
            drop(process.kill());
            drop(process.wait());
        }
    }
}

/// Where the programs are, if they are.
pub(crate) fn assets() -> Option<PathBuf> {
    let named = std::env::var_os("KUBEBUILDER_ASSETS");
    let path = named.map_or_else(|| PathBuf::from("/opt/kubernetes"), PathBuf::from);
    path.join("kube-apiserver").exists().then_some(path)
}

/// What a server at `url` and its administrator know of one another: `sa.key`, `sa.pub`,
/// `tokens.csv`, `kubeconfig`. The server writes its own certificate to `pki`.
pub(crate) fn write_keys(dir: &Path, url: &str) -> Result<()> {
    let at = |name: &str| dir.join(name).display().to_string();
    openssl(&["genrsa", "-out", &at("sa.key"), "2048"])?;
    openssl(&["rsa", "-in", &at("sa.key"), "-pubout", "-out", &at("sa.pub")])?;
    std::fs::write(at("tokens.csv"), format!("{TOKEN},admin,1,\"system:masters\"\n"))?;
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters: [{{name: real, cluster: {{server: '{url}', \
         certificate-authority: '{}'}}}}]\nusers: [{{name: admin, user: {{token: {TOKEN}}}}}]\n\
         contexts: [{{name: real, context: {{cluster: real, user: admin}}}}]\n\
         current-context: real\n",
        at("pki/apiserver.crt")
    );
    std::fs::write(at("kubeconfig"), text).context("writing a kubeconfig")
}

/// Waits for a server.
pub(crate) fn answers(url: &str) -> Result<()> {
    // Made by the server itself, when it is ready.
    let url = format!("{url}/api/v1/namespaces/default/services/kubernetes");
    let header = format!("Authorization: Bearer {TOKEN}");
    until("kube-apiserver is ready", Duration::from_secs(120), || {
        let words = ["-sfk", "--max-time", "2", "-H", &header, &url];
        let ran = Command::new("curl").args(words).stdout(Stdio::null()).status();
        ran.is_ok_and(|status| status.success())
    })?;
    Ok(())
}

fn openssl(words: &[&str]) -> Result<()> {
    let ran = Command::new("openssl").args(words).output().context("running openssl")?;
    if !ran.status.success() {
        bail!("openssl {words:?}: {}", String::from_utf8_lossy(&ran.stderr));
    }
    Ok(())
}
