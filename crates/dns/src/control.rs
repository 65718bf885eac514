//! A socket on this machine for those who run the server: a line of JSON in, a line out.
//!
//! Who may open the file may ask; it is made for its owner alone.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use berth_daemon::Tasks;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::StartError;
use crate::counts::totals;
use crate::name;
use crate::served::Served;
use crate::top::Often;

/// How long a question may take; a reload reads zone files.
const PATIENCE: Duration = Duration::from_secs(30);
const MOST_LINE: u64 = 4096;

/// What may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// What is kept and how often it helped.
    Cache,
    /// Forget what upstreams said.
    Flush,
    /// What is asked for most, and who asks most: at most so many of each.
    Top(usize),
    /// Read the settings again.
    Reload,
}

/// Somebody wants the settings read again; what became of it is sent back.
#[derive(Debug)]
pub struct Reload(pub(crate) oneshot::Sender<Result<(), String>>);

impl Reload {
    /// Says what became of it.
    pub fn done(self, result: Result<(), String>) {
        // Who asked may have gone.
        let _ = self.0.send(result);
    }
}

#[derive(Clone)]
struct State {
    served: Arc<Served>,
    reloads: mpsc::Sender<Reload>,
}

impl State {
    async fn answer(&self, request: Request) -> Value {
        match request {
            Request::Cache => self.shown(),
            Request::Flush => {
                self.served.forward.flush();
                for counts in &self.served.counts {
                    counts.flushes.fetch_add(1, Ordering::Relaxed);
                }
                self.shown()
            }
            Request::Top(most) => top(&self.served, most),
            Request::Reload => {
                let (answer, done) = oneshot::channel();
                if self.reloads.try_send(Reload(answer)).is_err() {
                    return json!({ "error": "another reload is under way" });
                }
                match done.await {
                    Ok(Ok(())) => json!({ "reloaded": true }),
                    Ok(Err(error)) => json!({ "error": error }),
                    Err(_) => json!({ "error": "this server does not read its settings again" }),
                }
            }
        }
    }

    fn shown(&self) -> Value {
        let served = &self.served;
        json!({
            "names": served.zone.get().len(),
            "kept": served.forward.kept(),
            "threads": served.counts.len(),
            "totals": totals(served.counts.iter().map(AsRef::as_ref)),
            "kernel": served.kernel.get().map(|counts| counts.read()),
        })
    }
}

/// The lists of all threads as one.
fn top(served: &Served, most: usize) -> Value {
    let mut names: HashMap<Vec<u8>, Often> = HashMap::new();
    let mut clients: HashMap<IpAddr, Often> = HashMap::new();
    for counts in served.counts.iter().chain([&served.streams]) {
        let top = counts.top.lock().expect("no holder of the lock panics");
        for (name, often) in top.names.all() {
            names.entry(name.clone()).or_default().add(often);
        }
        for (client, often) in top.clients.all() {
            clients.entry(*client).or_default().add(often);
        }
    }
    json!({
        "names": most_of(names, most, |name| name::text(name)),
        "clients": most_of(clients, most, ToString::to_string),
    })
}

fn most_of<K>(all: HashMap<K, Often>, most: usize, shown: impl Fn(&K) -> String) -> Vec<Value> {
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_by_key(|(_, often)| std::cmp::Reverse(often.count));
    let row = |(key, often): &(K, Often)| json!({ "what": shown(key), "queries": often.count, "atMostTooHighBy": often.over });
    all.iter().take(most).map(row).collect()
}

/// Opens the socket and serves it in `tasks`.
pub(crate) fn serve(
    path: &Path,
    served: Arc<Served>,
    reloads: mpsc::Sender<Reload>,
    tasks: &Tasks,
) -> Result<(), StartError> {
    let open = || {
        // One that an earlier process left; a file that is no socket stays, and binding fails.
        if std::fs::metadata(path).is_ok_and(|file| is_socket(&file)) {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    let listener =
        open().map_err(|source| StartError::Control { path: path.to_owned(), source })?;
    let state = State { served, reloads };
    tasks.spawn_until_stop("dns control", async move {
        loop {
            // One at a time: it is for people.
            let Ok((stream, _)) = listener.accept().await else { continue };
            if let Ok(Err(error)) = timeout(PATIENCE, talk(stream, &state)).await {
                tracing::debug!(%error, "control connection ended");
            }
        }
    });
    Ok(())
}

fn is_socket(file: &std::fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&file.file_type())
}

async fn talk(mut stream: UnixStream, state: &State) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    BufReader::new(read.take(MOST_LINE)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => state.answer(request).await,
        Err(error) => json!({ "error": error.to_string() }),
    };
    write.write_all(format!("{answer}\n").as_bytes()).await
}

/// Asks the server whose socket is at `path`.
///
/// # Errors
/// When nobody answers there in time.
pub async fn ask(path: &Path, request: Request) -> std::io::Result<Value> {
    let asked = async {
        let mut stream = UnixStream::connect(path).await?;
        let line = format!("{}\n", serde_json::to_string(&request)?);
        stream.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(serde_json::from_str(&answer)?)
    };
    timeout(PATIENCE, asked).await?
}
