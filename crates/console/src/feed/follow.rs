//! Lists, then watches, then again from where it was; gathers changes into frames.

use std::sync::Arc;
use std::time::Duration;

use futures::io::{AsyncBufRead, AsyncBufReadExt};
use http::{Request, header};
use kube::Client;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout};

use berth_daemon::Backoff;

use super::table::{Changes, Printed, PrintedRow};
use super::{Feed, LINGER};

const PAGE: usize = 500;
const ANSWER: Duration = Duration::from_secs(30);
/// The API server ends a watch after this; it is taken up where it was.
const WATCH: Duration = Duration::from_secs(300);
/// How long changes are gathered: a page shows them within 300 ms.
const GATHER: Duration = Duration::from_millis(50);
/// An object has at most 3 MiB, and its row is smaller.
const LINE: usize = 16 * 1024 * 1024;
const ACCEPT: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const FIRST: Duration = Duration::from_millis(200);
const MOST: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Box<RawValue>,
}

#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("the API server did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("an answer cannot be read")]
    Json(#[from] serde_json::Error),
    #[error("a watch broke off")]
    Broken(#[from] std::io::Error),
    #[error("the request cannot be made")]
    Http(#[from] http::Error),
    #[error("the watch cannot be taken up there: {0}")]
    Expired(String),
}

/// Follows `path` for as long as anybody looks.
pub(super) async fn follow(client: Client, path: String, feed: Arc<Feed>) {
    let mut backoff = Backoff::new(FIRST, MOST);
    let mut version: Option<String> = None;
    while !deserted(&feed).await {
        let result = match &version {
            None => list(&client, &path, &feed).await,
            Some(version) => watch(&client, &path, version, &feed).await,
        };
        match result {
            Ok(next) => {
                version = Some(next);
                backoff.reset();
            }
            Err(error) => {
                tracing::debug!(%error, path, "following");
                // A watch that broke off is nothing yet; a list that fails is.
                if version.is_none() {
                    lose(&feed);
                }
                // What was taken from a watch that broke off is listed anew: the simplest truth.
                version = None;
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

/// Whether nobody but the task that follows holds the feed, and nobody came back meanwhile.
async fn deserted(feed: &Arc<Feed>) -> bool {
    if Arc::strong_count(feed) > 1 {
        return false;
    }
    tokio::time::sleep(LINGER).await;
    Arc::strong_count(feed) == 1
}

async fn list(client: &Client, path: &str, feed: &Feed) -> Result<String, FollowError> {
    let (mut rows, mut columns, mut next) = (Vec::new(), None, String::new());
    loop {
        let request = Request::get(format!("{path}?limit={PAGE}&continue={next}"))
            .header(header::ACCEPT, ACCEPT)
            .body(Vec::new())?;
        let text = timeout(ANSWER, client.request_text(request)).await??;
        let page: Printed = serde_json::from_str(&text)?;
        rows.extend(page.rows.unwrap_or_default());
        columns = columns.or(page.columns);
        if page.metadata.next.is_empty() {
            let columns = columns.map_or("[]".to_owned(), |columns| columns.get().to_owned());
            let mut table = feed.state.lock().expect("nothing panics under this lock");
            for frame in table.replace(columns, &rows) {
                // An error says that nobody listens just now.
                let _ = feed.frames.send(frame);
            }
            return Ok(page.metadata.resource_version);
        }
        // Tokens are base64, whose padding is no letter of a query.
        next = page.metadata.next.replace('+', "%2B").replace('=', "%3D").replace('/', "%2F");
    }
}

/// Until the API server ends it: where to take it up.
async fn watch(
    client: &Client,
    path: &str,
    from: &str,
    feed: &Arc<Feed>,
) -> Result<String, FollowError> {
    let seconds = WATCH.as_secs();
    let uri = format!(
        "{path}?watch=true&resourceVersion={from}&allowWatchBookmarks=true&timeoutSeconds={seconds}"
    );
    let request = Request::get(uri).header(header::ACCEPT, ACCEPT).body(Vec::new())?;
    let stream = timeout(ANSWER, client.request_stream(request)).await??;
    let mut lines = Lines { reader: std::pin::pin!(stream), line: Vec::new() };
    let (mut version, mut changes, mut due) = (from.to_owned(), Changes::default(), None);
    let end = Instant::now() + WATCH + ANSWER;
    loop {
        let wake = due.unwrap_or(end).min(Instant::now() + LINGER);
        match tokio::time::timeout_at(wake, lines.next()).await {
            Ok(Ok(Some(line))) => {
                take(&line, &mut changes, &mut version)?;
                if !changes.is_empty() && due.is_none() {
                    due = Some(Instant::now() + GATHER);
                }
            }
            Ok(Ok(None)) => {
                flush(feed, changes);
                return Ok(version);
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) if Instant::now() >= end || Arc::strong_count(feed) == 1 => {
                flush(feed, changes);
                return Ok(version);
            }
            Err(_) => {}
        }
        if due.is_some_and(|due| Instant::now() >= due) {
            flush(feed, std::mem::take(&mut changes));
            due = None;
        }
    }
}

fn take(line: &[u8], changes: &mut Changes, version: &mut String) -> Result<(), FollowError> {
    let event: Event = serde_json::from_slice(line)?;
    if event.kind == "ERROR" {
        return Err(FollowError::Expired(event.object.get().chars().take(300).collect()));
    }
    let table: Printed = serde_json::from_str(event.object.get())?;
    if !table.metadata.resource_version.is_empty() {
        version.clone_from(&table.metadata.resource_version);
    }
    let rows: Vec<PrintedRow> = table.rows.unwrap_or_default();
    for row in &rows {
        if !row.version().is_empty() {
            row.version().clone_into(version);
        }
        match event.kind.as_str() {
            "ADDED" | "MODIFIED" => changes.set(row),
            "DELETED" => changes.remove(row),
            _ => {}
        }
    }
    Ok(())
}

fn lose(feed: &Feed) {
    let mut table = feed.state.lock().expect("nothing panics under this lock");
    if let Some(frame) = table.lose() {
        let _ = feed.frames.send(frame);
    }
}

fn flush(feed: &Feed, changes: Changes) {
    if changes.is_empty() {
        return;
    }
    let mut table = feed.state.lock().expect("nothing panics under this lock");
    for frame in table.change(changes) {
        let _ = feed.frames.send(frame);
    }
}

/// Lines of a body, each whole, however it is cut. What came of a line stays when the wait for the
/// rest of it is given up.
struct Lines<R> {
    reader: R,
    line: Vec<u8>,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    async fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        loop {
            let chunk = self.reader.fill_buf().await?;
            if chunk.is_empty() {
                return Ok(None);
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(chunk.len(), |end| end + 1);
            self.line.extend_from_slice(&chunk[..taken]);
            self.reader.consume_unpin(taken);
            if self.line.len() > LINE {
                return Err(std::io::Error::other("an event of more than 16 MiB"));
            }
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                if !line.trim_ascii().is_empty() {
                    return Ok(Some(line));
                }
            }
        }
    }
}
