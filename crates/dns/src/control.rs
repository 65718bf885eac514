//! A socket on this machine for those who run the server: a line of JSON in, a line out.
//!
//! Who may open the file may ask; it is made for its owner alone.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use berth_daemon::Tasks;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::StartError;
use crate::counts::{Counts, totals};
use crate::forward::Forward;
use crate::zone::Current;

const PATIENCE: Duration = Duration::from_secs(5);
const MOST_LINE: u64 = 4096;

/// What may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// What is kept and how often it helped.
    Cache,
    /// Forget what upstreams said.
    Flush,
}

/// What is asked about.
#[derive(Clone)]
pub(crate) struct State {
    pub zone: Arc<Current>,
    pub forward: Arc<Forward>,
    pub counts: Vec<Arc<Counts>>,
}

impl State {
    fn answer(&self, request: Request) -> serde_json::Value {
        if request == Request::Flush {
            self.forward.flush();
            for counts in &self.counts {
                counts.flushes.fetch_add(1, Ordering::Relaxed);
            }
        }
        let totals = totals(self.counts.iter().map(AsRef::as_ref));
        serde_json::json!({
            "names": self.zone.get().len(),
            "kept": self.forward.kept(),
            "threads": self.counts.len(),
            "totals": totals,
        })
    }
}

/// Opens the socket and serves it in `tasks`.
pub(crate) fn serve(path: &Path, state: State, tasks: &Tasks) -> Result<(), StartError> {
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
        Ok(request) => state.answer(request),
        Err(error) => serde_json::json!({ "error": error.to_string() }),
    };
    write.write_all(format!("{answer}\n").as_bytes()).await
}

/// Asks the server whose socket is at `path`.
///
/// # Errors
/// When nobody answers there in time.
pub async fn ask(path: &Path, request: Request) -> std::io::Result<serde_json::Value> {
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
