//! A real etcd of our own on free ports, ended when dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long etcd may take to start on a busy machine.
const START: Duration = Duration::from_secs(60);

pub struct Server {
    child: Child,
    dir: tempfile::TempDir,
    ports: (u16, u16),
    arguments: Vec<String>,
    secure: bool,
}

/// `etcd` from PATH, else from KUBEBUILDER_ASSETS.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let found = std::env::split_paths(&path)
        .chain(assets)
        .map(|folder| folder.join("etcd"))
        .find(|program| program.is_file());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "there is no etcd: install etcd-server");
        eprintln!("skipped: there is no etcd in PATH nor in KUBEBUILDER_ASSETS");
    }
    found
}

impl Server {
    /// None, with a word about it, where there is no etcd.
    pub fn start(arguments: &[&str]) -> Option<Server> {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        Server::start_in(dir, arguments)
    }

    /// Speaks TLS when `arguments` name certificates.
    pub fn start_in(dir: tempfile::TempDir, arguments: &[&str]) -> Option<Server> {
        let program = program()?;
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let secure = arguments.iter().any(|argument| argument.starts_with("--cert-file"));
        let [clients, peers] = berth_tests::free_ports().expect("two ports are free");
        let ports = (clients, peers);
        let mut child = spawn(&program, dir.path(), ports, &arguments, secure);
        assert!(
            accepts(&mut child, clients),
            "etcd does not start: see {}",
            dir.path().join("log").display()
        );
        Some(Server { child, dir, ports, arguments, secure })
    }

    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.ports.0)
    }

    pub fn url(&self) -> String {
        format!("etcd://{}", self.endpoint())
    }

    /// Ends it as a power cut would.
    #[allow(dead_code, reason = "not every test program stops it")]
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Starts it again with its data, after [`Self::kill`].
    #[allow(dead_code, reason = "not every test program stops it")]
    pub fn start_again(&mut self) {
        let program = program().expect("it was there");
        self.child = spawn(&program, self.dir.path(), self.ports, &self.arguments, self.secure);
        assert!(accepts(&mut self.child, self.ports.0), "etcd does not start again");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(
    program: &Path,
    dir: &Path,
    ports: (u16, u16),
    arguments: &[String],
    secure: bool,
) -> Child {
    let scheme = if secure { "https" } else { "http" };
    let client = format!("{scheme}://127.0.0.1:{}", ports.0);
    let peer = format!("http://127.0.0.1:{}", ports.1);
    let log = std::fs::File::create(dir.join("log")).expect("it is made");
    Command::new(program)
        .args(["--data-dir", &dir.join("data").to_string_lossy()])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .args(arguments)
        .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("etcd starts")
}

fn accepts(child: &mut Child, port: u16) -> bool {
    let given_up = Instant::now() + START;
    while Instant::now() < given_up {
        if child.try_wait().expect("it can be asked").is_some() {
            return false;
        }
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}
