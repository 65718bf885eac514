//! The two servers that are measured: ours alone, and kube-apiserver with etcd.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_tests::until;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::client::{Connection, Target};
use crate::peer::Peer;

/// One side.
pub struct Side {
    pub name: &'static str,
    pub target: Target,
    pub pids: Vec<i32>,
}

impl Side {
    /// Processor time used so far, all its processes together.
    pub fn cpu(&self) -> Duration {
        let ticks: u64 = self.pids.iter().filter_map(|pid| ticks(*pid)).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Puts all its processes in their place.
    pub fn pin(&self, place: Place) -> Result<()> {
        self.pids.iter().try_for_each(|pid| pin(*pid, place))
    }

    /// Resident memory in MiB.
    pub fn resident(&self) -> f64 {
        let pages: u64 = self
            .pids
            .iter()
            .filter_map(|pid| {
                let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
                text.split(' ').nth(1)?.parse::<u64>().ok()
            })
            .sum();
        pages as f64 * 4.0 / 1024.0
    }
}

/// A thread that ends while taskset goes over a process's threads ends taskset.
const TRIES: usize = 8;

/// On which processor a process and all its threads run.
#[derive(Clone, Copy)]
pub enum Place {
    Client,
    Server,
    Anywhere,
}

/// Puts a process in its place: where client and servers share processors, how the kernel mixes
/// them decides the figures. On a machine with one processor nothing is done.
pub fn pin(pid: i32, place: Place) -> Result<()> {
    let count = std::thread::available_parallelism()?.get();
    // The client was pinned by an earlier call, which is not to be taken for the whole machine.
    let all = std::fs::read_to_string("/sys/devices/system/cpu/online");
    let all = all.unwrap_or_else(|_| format!("0-{}", count - 1)).trim().to_owned();
    if all == "0" {
        return Ok(());
    }
    let list = match place {
        Place::Client => "0",
        Place::Server => "1",
        Place::Anywhere => &all,
    };
    let mut said = String::new();
    for _ in 0..TRIES {
        let ran = Command::new("taskset").args(["-a", "-c", "-p", list, &pid.to_string()]).output();
        let ran = ran.context("running taskset")?;
        if ran.status.success() {
            return Ok(());
        }
        said = String::from_utf8_lossy(&ran.stderr).into_owned();
        if !Path::new("/proc").join(pid.to_string()).exists() {
            break;
        }
    }
    bail!("taskset: {said}")
}

fn ticks(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Our API server alone; ended when dropped.
pub struct Ours {
    process: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Ours {
    /// Starts it on an empty directory.
    pub fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let [port] = berth_tests::free_ports()?;
        let process = spawn(dir.path(), port)?;
        let ours = Self { process, port, dir };
        until("our API server listens", Duration::from_secs(30), || {
            ours.side().is_ok_and(|side| ready(&side.target))
        })?;
        Ok(ours)
    }

    /// Ends it hard and starts it on the data it left; how long until it was ready again.
    pub fn restart(&mut self) -> Result<Duration> {
        // Before, since the start writes the file of its credentials anew.
        let before = self.side()?.target;
        self.process.kill()?;
        self.process.wait()?;
        let begun = Instant::now();
        self.process = spawn(self.dir.path(), self.port)?;
        let deadline = begun + Duration::from_secs(60);
        while !ready(&before) {
            anyhow::ensure!(Instant::now() < deadline, "not ready after a restart");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(begun.elapsed())
    }

    /// The file of its administrator's credentials.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// How to ask it.
    pub fn side(&self) -> Result<Side> {
        of_ours(&self.kubeconfig(), self.port, i32::try_from(self.process.id())?)
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, and need not be.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// How to ask a server of ours, process `pid`, as who its kubeconfig says.
pub fn of_ours(kubeconfig: &Path, port: u16, pid: i32) -> Result<Side> {
    let text = std::fs::read_to_string(kubeconfig)?;
    let field = |name: &str| -> Result<Vec<u8>> {
        let (_, rest) = text.split_once(name).with_context(|| format!("no {name}"))?;
        let word = rest.trim_start_matches(['"', ':', ' ']).split(['"', '\n', ',', '}']).next();
        Ok(STANDARD.decode(word.unwrap_or_default().trim())?)
    };
    let key = field("client-key-data")?;
    let shown = certificates(&field("client-certificate-data")?)?;
    let key = PrivateKeyDer::from_pem_slice(&key).context("the client's key")?;
    let tls = builder(&field("certificate-authority-data")?)?;
    let tls = Arc::new(tls.with_client_auth_cert(shown, key)?);
    let target = Target { port, credential: "", tls };
    Ok(Side { name: "ours", target, pids: vec![pid] })
}

/// How to ask the peer.
pub fn of_peer(peer: &Peer) -> Result<Side> {
    let served = std::fs::read(peer.certificate())?;
    let tls = Arc::new(builder(&served)?.with_no_client_auth());
    let credential = "authorization: Bearer bench\r\n";
    let target = Target { port: peer.port, credential, tls };
    Ok(Side { name: "peer", target, pids: peer.pids().collect() })
}

/// The example `serve` of the API server's crate lies beside this program.
fn spawn(dir: &Path, port: u16) -> Result<Child> {
    let own = std::env::current_exe()?;
    let program: PathBuf = own.with_file_name("examples").join("serve");
    Command::new(&program)
        .arg(dir)
        .arg(port.to_string())
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {}", program.display()))
}

fn ready(target: &Target) -> bool {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return false;
    };
    runtime.block_on(async {
        let Ok(mut connection) = Connection::open(target).await else { return false };
        let request = target.request("GET", "/readyz", "", "");
        connection.ask(&request).await.is_ok_and(|status| status == 200)
    })
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().context("certificates")
}

fn builder(
    trusted: &[u8],
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(trusted)? {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots))
}
