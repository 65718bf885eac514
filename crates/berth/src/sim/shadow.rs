//! `berth sim shadow`: policies beside the live scheduler, binding nothing.

use std::fs::File;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use berth_daemon::Tasks;
use berth_sim::Candidate;
use berth_sim::shadow::{self, Saved, Shadow};
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use tokio::net::TcpListener;

use super::policy::{PolicyWord, Words};
use crate::cli::{Global, on_one_thread};
use crate::connect;
use crate::failure::{Exit, Failure};

/// What `berth sim shadow` takes.
#[derive(Args, Debug)]
pub struct Options {
    /// Who decides beside the live scheduler; may be given several times
    #[arg(long = "policy", value_parser = Words, required = true, value_name = "POLICY")]
    policies: Vec<PolicyWord>,
    /// Where / (a table), /report (JSON) and /metrics (Prometheus) answer, HTTP
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// End with the report after so long, as 10m or 2h [default: when it is told to]
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    length: Option<Duration>,
    /// Where chance starts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Forget what a former run saw
    #[arg(long)]
    fresh: bool,
}

/// Between two lines, and between two writes of the state.
const LINE_EVERY: Duration = Duration::from_secs(10);
const SAVE_EVERY: Duration = Duration::from_secs(30);
const DRAIN: Duration = Duration::from_secs(2);

/// A time as people write it.
pub(super) fn time(word: &str) -> Result<Duration, String> {
    let read: SignedDuration =
        word.parse().map_err(|_| format!("`{word}` is no time; 90s, 10m and 2h are"))?;
    Duration::try_from(read).map_err(|_| format!("`{word}` is below nothing"))
}

/// Where a shadow keeps what it saw.
pub(super) fn state_file(global: &Global) -> PathBuf {
    global.data_dir.join("shadow.json")
}

/// Follows the cluster until the time is over, or it is told to end.
///
/// # Errors
/// When the cluster does not answer, a port or the state is in use, or the state is of another one.
pub fn run(global: &Global, options: Options) -> Result<()> {
    on_one_thread(drive(global, options))
}

async fn drive(global: &Global, options: Options) -> Result<()> {
    let mut candidates: Vec<Candidate> = Vec::new();
    for word in &options.policies {
        let candidate = word.candidate()?;
        if candidates.iter().any(|each| each.name() == candidate.name()) {
            bail!("--policy {word} is given twice");
        }
        candidates.push(candidate);
    }
    let listener = match options.listen {
        Some(address) => Some(TcpListener::bind(address).await.map_err(|error| {
            let message = format!("--listen {address}: {error}");
            Failure::new(Exit::InUse, message, "choose another --listen")
        })?),
        None => None,
    };
    let client = connect::client(global).await?;
    let cluster = shadow::cluster_id(&client).await?;
    let file = state_file(global);
    let _lock = lock_beside(&file)?;
    let mut shadow = Shadow::new(&cluster, candidates, options.seed, Timestamp::now());
    if !options.fresh
        && let Some(saved) = Saved::read(&file)?
    {
        saved.is_of(&file, &cluster).context("--fresh begins anew")?;
        eprintln!("going on from {}, begun {:.0}", file.display(), saved.since);
        shadow.restore(saved);
    }
    let shadow = Arc::new(Mutex::new(shadow));
    let tasks = Tasks::new();
    if let Some(listener) = listener {
        eprintln!("http://{}/ tells how the policies stand", listener.local_addr()?);
        shadow::serve(Arc::clone(&shadow), listener, &tasks);
    }
    let whole = AtomicBool::new(false);
    tokio::select! {
        () = shadow::follow(&client, &shadow, || whole.store(true, Ordering::Relaxed)) => {}
        saved = keep(&shadow, &whole, &file) => saved?,
        () = over(&whole, options.length) => {}
        () = tell(&shadow, &whole) => {}
        ended = berth_daemon::wait_for_end() => ended?,
    }
    tasks.stop(DRAIN).await;
    if !whole.load(Ordering::Relaxed) {
        bail!("the cluster was not seen whole before the end");
    }
    let now = Timestamp::now();
    let saved = lock(&shadow).saved(now);
    saved.write(&file)?;
    global.output.print(&saved.report, || saved.report.table())
}

fn lock(shadow: &Mutex<Shadow>) -> MutexGuard<'_, Shadow> {
    shadow.lock().expect("no holder of the lock panics")
}

/// Two shadows that write one state would each lose what the other saw.
fn lock_beside(file: &Path) -> Result<File> {
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("making {}", directory.display()))?;
    }
    let path = file.with_extension("lock");
    let lock = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    lock.try_lock().map_err(|_| {
        let message = format!("another shadow writes {}", file.display());
        Failure::new(Exit::InUse, message, "choose another --data-dir")
    })?;
    Ok(lock)
}

/// Writes the state now and then; a shadow that has not seen the whole cluster writes nothing.
async fn keep(shadow: &Mutex<Shadow>, whole: &AtomicBool, file: &Path) -> Result<()> {
    loop {
        tokio::time::sleep(SAVE_EVERY).await;
        if whole.load(Ordering::Relaxed) {
            let saved = lock(shadow).saved(Timestamp::now());
            saved.write(file)?;
        }
    }
}

async fn over(whole: &AtomicBool, length: Option<Duration>) {
    let Some(length) = length else { return std::future::pending().await };
    // The clock begins with the whole cluster.
    while !whole.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(length).await;
}

/// The table again and again on a terminal, else a line when something changed.
async fn tell(shadow: &Mutex<Shadow>, whole: &AtomicBool) {
    let terminal = console::Term::stderr();
    let (mut told, mut lines) = (String::new(), 0);
    loop {
        tokio::time::sleep(LINE_EVERY).await;
        if !whole.load(Ordering::Relaxed) {
            continue;
        }
        let report = lock(shadow).report(Timestamp::now());
        if std::io::stderr().is_terminal() {
            let table = report.table();
            // A terminal that cannot go back gets the tables one below the other.
            drop(terminal.clear_last_lines(lines));
            lines = table.lines().count();
            eprint!("{table}");
            continue;
        }
        let line = report.line();
        if line != told {
            eprintln!("{line}");
            told = line;
        }
    }
}
