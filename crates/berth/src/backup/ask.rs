//! The socket in the data directory over which the process that holds the store is asked.
//!
//! ```text
//! backup PATH   ─▶  done JSON | failed TEXT
//! schedule      ─▶  done null | failed TEXT      the options have been written anew
//! ```
//!
//! One line each way. Only the user that runs the process is answered: it writes files anywhere.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::{Taken, cannot};
use crate::instance::Instance;

/// A large cluster on a slow disk.
const BACKUP_WITHIN: Duration = Duration::from_secs(600);
const SCHEDULE_WITHIN: Duration = Duration::from_secs(10);
/// No path is longer.
const LINE_BYTES: u64 = 8192;

/// What is answered.
pub type Answer = Result<Value>;

/// The listening end, `DIR/backup.sock`.
///
/// # Errors
/// When it cannot be made.
pub fn listen(instance: &Instance) -> Result<UnixListener> {
    let path = instance.dir.join("backup.sock");
    drop(std::fs::remove_file(&path)); // of a process that was killed; we hold the directory
    UnixListener::bind(&path).with_context(|| format!("listening at {}", path.display()))
}

/// Reads a request, has it answered, and writes the answer; nothing for a stranger.
///
/// # Errors
/// When the other end is gone.
pub async fn answer_line<F>(stream: UnixStream, answer: impl FnOnce(String) -> F) -> Result<()>
where
    F: Future<Output = Answer>,
{
    let uid = stream.peer_cred()?.uid();
    anyhow::ensure!(uid == nix::unistd::geteuid().as_raw(), "user {uid} asks for a backup");
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let mut bounded = (&mut stream).take(LINE_BYTES);
    let reading = bounded.read_line(&mut line);
    tokio::time::timeout(SCHEDULE_WITHIN, reading).await.context("nothing is asked")??;
    let answered = match answer(line.trim_end_matches('\n').to_owned()).await {
        Ok(value) => format!("done {value}\n"),
        Err(error) => format!("failed {}\n", crate::failure::chain(&error).replace('\n', " ")),
    };
    stream.write_all(answered.as_bytes()).await?;
    Ok(())
}

async fn ask(instance: &Instance, line: &str, within: Duration) -> Result<Result<Value, String>> {
    let path = instance.dir.join("backup.sock");
    let talk = async {
        let mut stream = BufReader::new(UnixStream::connect(&path).await?);
        stream.write_all(format!("{line}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_line(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(within, talk)
        .await
        .with_context(|| format!("berth does not answer at {}", path.display()))?
        .with_context(|| format!("asking berth at {}", path.display()))?;
    match answer.trim_end().split_once(' ') {
        Some(("done", value)) => Ok(Ok(serde_json::from_str(value)?)),
        Some(("failed", said)) => Ok(Err(said.to_owned())),
        _ => anyhow::bail!("berth at {} closed without an answer", path.display()),
    }
}

/// Has the running process take a backup.
///
/// # Errors
/// What it said.
pub async fn backup(instance: &Instance, to: &Path) -> Result<Taken> {
    let text = to.to_str().filter(|text| !text.contains('\n'));
    let text = text.ok_or_else(|| cannot(to, "the path is not plain text"))?;
    let answer = ask(instance, &format!("backup {text}"), BACKUP_WITHIN).await?;
    Ok(serde_json::from_value(answer.map_err(|said| cannot(to, &said))?)?)
}

/// Has the running process read its options again.
///
/// # Errors
/// What it said.
pub async fn schedule(instance: &Instance) -> Result<()> {
    let answer = ask(instance, "schedule", SCHEDULE_WITHIN).await?;
    answer.map(drop).map_err(|said| anyhow::anyhow!("berth does not take the schedule: {said}"))
}
