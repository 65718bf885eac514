//! One JSON object a line on standard output, for requests that the configuration asks for.
//!
//! Never in a request's way: where the reader of our output is slow (the container runtime is
//! away, say), lines are dropped and counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use berth_daemon::Tasks;

use super::AccessLog;

/// Lines that wait for the writer.
const WAITING: usize = 1024;

/// A request that ended.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    pub(super) time: String,
    pub(super) id: &'a str,
    /// As the trusted proxies say.
    pub(super) client: String,
    /// The other end of the connection, or who that is by the PROXY header.
    pub(super) peer: String,
    pub(super) scheme: &'a str,
    pub(super) protocol: &'a str,
    pub(super) host: &'a str,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user_agent: Option<&'a str>,
    pub(super) status: u16,
    /// Of the request's body.
    pub(super) received: u64,
    /// Of the answer's.
    pub(super) bytes: usize,
    pub(super) ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) backend: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) endpoint: Option<String>,
    pub(super) tries: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// Where lines go.
#[derive(Debug)]
pub(super) struct Log {
    which: AccessLog,
    lines: mpsc::Sender<Vec<u8>>,
    seen: AtomicU64,
    dropped: AtomicU64,
}

impl Log {
    pub(super) fn start(which: AccessLog, tasks: &Tasks) -> Self {
        let (lines, mut waiting) = mpsc::channel::<Vec<u8>>(WAITING);
        // Ends when the last request that may log is gone.
        tasks.spawn_until_stop("access-log", async move {
            let mut output = tokio::io::stdout();
            while let Some(line) = waiting.recv().await {
                let _ = output.write_all(&line).await;
                if waiting.is_empty() {
                    let _ = output.flush().await;
                }
            }
        });
        Self { which, lines, seen: AtomicU64::new(0), dropped: AtomicU64::new(0) }
    }

    /// Whether a request with this outcome is to be written.
    pub(super) fn wants(&self, failed: bool) -> bool {
        match self.which {
            AccessLog::Off => false,
            AccessLog::Errors => failed,
            AccessLog::OneIn(many) => {
                let nth = self.seen.fetch_add(1, Ordering::Relaxed);
                failed || nth.is_multiple_of(u64::from(many.max(1)))
            }
        }
    }

    pub(super) fn write(&self, line: &Line<'_>) {
        let Ok(mut text) = serde_json::to_vec(line) else { return };
        text.push(b'\n');
        if self.lines.try_send(text).is_err() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::debug!(dropped, "access log line dropped");
        }
    }
}

/// Milliseconds since `start`, to the microsecond.
pub(super) fn ms_since(start: Instant) -> f64 {
    let micros = u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX);
    f64::from(micros) / 1000.0
}
