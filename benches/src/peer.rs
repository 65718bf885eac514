//! The peer: a real Kubernetes' control plane (etcd, kube-apiserver, controller manager,
//! scheduler) on free loopback ports, from `KUBEBUILDER_ASSETS` (default /opt/kubernetes).
//! Without kubelet and kube-proxy, so its figures are lower than a whole node's.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_tests::until;

/// The four processes; ended when dropped.
pub struct Peer {
    processes: Vec<Child>,
    /// How each was started.
    commands: Vec<(PathBuf, Vec<String>)>,
    /// From the first start to a ready API server.
    pub ready_after: Duration,
    /// Of the API server.
    pub port: u16,
    _dir: tempfile::TempDir,
}

impl Peer {
    /// Starts it; `None` where it is not installed.
    ///
    /// # Errors
    /// When it is installed and does not become ready.
    pub fn start() -> Result<Option<Self>> {
        Self::start_some(true)
    }

    /// Starts etcd and kube-apiserver alone.
    ///
    /// # Errors
    /// When they are installed and do not become ready.
    pub fn start_api() -> Result<Option<Self>> {
        Self::start_some(false)
    }

    fn start_some(whole: bool) -> Result<Option<Self>> {
        let Some(assets) = assets() else { return Ok(None) };
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name).display().to_string();
        openssl(&["genrsa", "-out", &at("sa.key"), "2048"])?;
        openssl(&["rsa", "-in", &at("sa.key"), "-pubout", "-out", &at("sa.pub")])?;
        std::fs::write(dir.path().join("tokens.csv"), "bench,admin,1,\"system:masters\"\n")?;
        let [etcd, peers, api] = berth_tests::free_ports()?;
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\n\
             clusters: [{{name: b, cluster: {{server: 'https://127.0.0.1:{api}', insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: b, user: {{token: bench}}}}]\n\
             contexts: [{{name: b, context: {{cluster: b, user: b}}}}]\ncurrent-context: b\n"
        );
        std::fs::write(dir.path().join("kubeconfig"), kubeconfig)?;

        let (client, peer) =
            (format!("http://127.0.0.1:{etcd}"), format!("http://127.0.0.1:{peers}"));
        let begun = Instant::now();
        let mut started = Self {
            processes: Vec::new(),
            commands: Vec::new(),
            ready_after: Duration::ZERO,
            port: api,
            _dir: dir,
        };
        let at = |name: &str| started._dir.path().join(name).display().to_string();
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
            format!("--secure-port={api}"),
            "--advertise-address=127.0.0.1".into(),
            format!("--cert-dir={}", at("pki")),
            format!("--service-account-key-file={}", at("sa.pub")),
            format!("--service-account-signing-key-file={}", at("sa.key")),
            "--service-account-issuer=https://kubernetes.default".into(),
            "--service-cluster-ip-range=10.199.0.0/24".into(),
            format!("--token-auth-file={}", at("tokens.csv")),
            "--authorization-mode=Node,RBAC".into(),
            // The default, port 443 of the advertised address, is not to be had on loopback.
            "--endpoint-reconciler-type=none".into(),
        ];
        let config = format!("--kubeconfig={}", at("kubeconfig"));
        let manager = [
            config.clone(),
            format!("--service-account-private-key-file={}", at("sa.key")),
            "--leader-elect=false".into(),
            "--port=0".into(),
            "--secure-port=0".into(),
        ];
        let scheduler =
            [config, "--leader-elect=false".into(), "--port=0".into(), "--secure-port=0".into()];
        started.spawn(&assets.join("etcd"), &etcd)?;
        started.spawn(&assets.join("kube-apiserver"), &server)?;
        until("kube-apiserver is ready", Duration::from_secs(90), || ready(api))?;
        started.ready_after = begun.elapsed();
        if whole {
            started.spawn(&assets.join("kube-controller-manager"), &manager)?;
            started.spawn(&assets.join("kube-scheduler"), &scheduler)?;
        }
        Ok(Some(started))
    }

    /// The processes' ids.
    pub fn pids(&self) -> impl Iterator<Item = i32> {
        self.processes.iter().filter_map(|process| i32::try_from(process.id()).ok())
    }

    /// The file of the certificate it serves with, and of who signed that.
    pub fn certificate(&self) -> PathBuf {
        self._dir.path().join("pki").join("apiserver.crt")
    }

    /// The file of its administrator's credentials.
    pub fn kubeconfig(&self) -> PathBuf {
        self._dir.path().join("kubeconfig")
    }

    /// Ends it hard and starts it on the data it left; how long until it was ready again.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn restart(&mut self) -> Result<Duration> {
        for mut process in self.processes.drain(..).rev() {
            process.kill()?;
            process.wait()?;
        }
        let begun = Instant::now();
        for (program, words) in std::mem::take(&mut self.commands) {
            self.spawn(&program, &words)?;
        }
        let port = self.port;
        until("kube-apiserver is ready again", Duration::from_secs(90), || ready(port))?;
        Ok(begun.elapsed())
    }

    fn spawn(&mut self, program: &Path, words: &[String]) -> Result<()> {
        let process = Command::new(program)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        self.processes.push(process);
        self.commands.push((program.to_owned(), words.to_vec()));
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            // One that has ended by itself cannot be killed, and need not be.
            drop(process.kill());
            drop(process.wait());
        }
    }
}

fn assets() -> Option<PathBuf> {
    let named = std::env::var_os("KUBEBUILDER_ASSETS");
    let path = named.map_or_else(|| PathBuf::from("/opt/kubernetes"), PathBuf::from);
    path.join("kube-apiserver").exists().then_some(path)
}

fn ready(port: u16) -> bool {
    let url = format!("https://127.0.0.1:{port}/readyz");
    let words = ["-sfk", "--max-time", "2", "-H", "Authorization: Bearer bench", &url];
    Command::new("curl").args(words).stdout(Stdio::null()).status().is_ok_and(|s| s.success())
}

fn openssl(words: &[&str]) -> Result<()> {
    let ran = Command::new("openssl").args(words).output().context("running openssl")?;
    if !ran.status.success() {
        bail!("openssl {words:?}: {}", String::from_utf8_lossy(&ran.stderr));
    }
    Ok(())
}
