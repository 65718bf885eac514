//! The two databases that a test runs on: a SQLite file, and a PostgreSQL of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::AnyPool;
use tempfile::TempDir;

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
const START: Duration = Duration::from_secs(60);
/// Debian's `nobody`: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65534;

pub(crate) struct Database {
    pub pool: AnyPool,
    _server: Option<Server>,
    _dir: TempDir,
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Its own children end with it only when it is asked to.
        let _ = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

/// Empty ones.
pub(crate) async fn both() -> Vec<Database> {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("sqlite://{}/console.db", dir.path().display());
    let pool = super::open(&address).await.unwrap();
    let mut all = vec![Database { pool, _server: None, _dir: dir }];
    match postgres().await {
        Some(database) => all.push(database),
        None => {
            assert!(std::env::var_os("CI").is_none(), "there is no PostgreSQL 15 here");
            eprintln!("skipped on PostgreSQL: there is none in {PROGRAMS}");
        }
    }
    all
}

async fn postgres() -> Option<Database> {
    if !Path::new(PROGRAMS).join("postgres").exists() {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let root = std::fs::metadata("/proc/self").is_ok_and(|process| {
        use std::os::unix::fs::MetadataExt;
        process.uid() == 0
    });
    if root {
        std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let run = |program: &str, words: &[&str]| {
        let program: PathBuf = Path::new(PROGRAMS).join(program);
        let mut command = if root {
            let mut command = Command::new("setpriv");
            let who = NOBODY.to_string();
            command.args(["--reuid", &who, "--regid", &who, "--clear-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.args(words).current_dir(dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let path = data.to_str().unwrap();
    let made = run("initdb", &["-D", path, "-U", "berth", "-A", "trust", "-N"]).status().unwrap();
    assert!(made.success(), "initdb failed");
    let [port] = berth_tests::free_ports().unwrap();
    let port = port.to_string();
    let words = ["-D", path, "-p", &port, "-k", "", "-h", "127.0.0.1", "-F"];
    let server = Server(run("postgres", &words).spawn().unwrap());
    let address = format!("postgres://berth@127.0.0.1:{port}/postgres");
    let begun = Instant::now();
    loop {
        match super::open(&address).await {
            Ok(pool) => return Some(Database { pool, _server: Some(server), _dir: dir }),
            Err(error) => assert!(begun.elapsed() < START, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
