//! A thousand watchers of one kind, and how late they hear of changes.
//!
//! Every watcher reads all it is sent; every 16th looks into it, since the client has the same
//! processors as the servers. A change carries the moment at which it was sent.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::LocalSet;

use super::client::{Connection, Target};
use super::side::Side;

const WATCHERS: usize = 1_000;
const LOOKING: usize = 16;
const PER_SECOND: u32 = 500;
/// As many as let the pace be kept while each waits for its answer.
const WRITERS: usize = 100;
const LASTS: Duration = Duration::from_secs(8);
/// How long after the last change the last frames may come.
const AFTER: Duration = Duration::from_secs(15);
const MARK: &[u8] = b"\"sent\":\"";
const DIGITS: usize = 12;

/// What was seen.
pub struct Seen {
    pub p99_ms: f64,
    p50_ms: f64,
    written: u64,
    heard: u64,
    cpu: Duration,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p99_ms, p50_ms, written, heard, cpu } = self;
        write!(
            f,
            "{written} changes, {heard} of {} frames looked for came, p50 {p50_ms:.1} ms, p99 \
             {p99_ms:.1} ms, {cpu:.1?} of processor",
            written * WATCHERS.div_ceil(LOOKING) as u64
        )
    }
}

/// Opens the watches, changes things, listens.
pub async fn measure(side: &Side) -> Result<Seen> {
    let begun = Instant::now();
    let (heard, late) = (Rc::new(Cell::new(0_u64)), Rc::new(RefCell::new(Vec::new())));
    let written = Rc::new(Cell::new(0_u64));
    let local = LocalSet::new();
    let before = side.cpu();
    local
        .run_until(async {
            let mut first = Connection::open(&side.target).await?;
            let maps = "/api/v1/namespaces/default/configmaps";
            first.ask(&side.target.request("GET", &format!("{maps}?limit=1"), "", "")).await?;
            let text = String::from_utf8_lossy(&first.body).into_owned();
            let (_, rest) =
                text.split_once("\"resourceVersion\":\"").context("a list has a revision")?;
            let from = rest.split('"').next().unwrap_or_default();
            let path = format!("/api/v1/configmaps?watch=1&resourceVersion={from}");
            let mut listening = Vec::new();
            for at in 0..WATCHERS {
                let mut watch = Connection::open(&side.target).await?;
                let (status, _) = watch.head(&side.target.request("GET", &path, "", "")).await?;
                ensure!(status == 200, "a watch: {status}");
                let (heard, late) = (heard.clone(), late.clone());
                let looks = at % LOOKING == 0;
                listening.push(tokio::task::spawn_local(async move {
                    let mut bytes = Vec::with_capacity(64 * 1024);
                    while watch.more(&mut bytes).await.is_ok_and(|count| count > 0) {
                        if looks {
                            let kept = look(&bytes, begun, &mut late.borrow_mut(), &heard);
                            bytes.drain(..kept);
                        } else {
                            bytes.clear();
                        }
                    }
                }));
            }
            let changes =
                (0..WRITERS).map(|lane| write(side.target.clone(), lane, begun, written.clone()));
            futures::future::try_join_all(changes).await?;
            let all = written.get() * WATCHERS.div_ceil(LOOKING) as u64;
            let end = Instant::now() + AFTER;
            while heard.get() < all && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            listening.iter().for_each(tokio::task::JoinHandle::abort);
            anyhow::Ok(())
        })
        .await?;
    let mut late = late.take();
    late.sort_unstable();
    let all = written.get() * WATCHERS.div_ceil(LOOKING) as u64;
    // What never came is later than anything that did.
    let at = |part: u64| {
        let place = usize::try_from(all * part / 100).unwrap_or(usize::MAX);
        late.get(place).map_or(AFTER.as_secs_f64() * 1e3, |micros| *micros as f64 / 1e3)
    };
    Ok(Seen {
        p99_ms: at(99),
        p50_ms: at(50),
        written: written.get(),
        heard: heard.get(),
        cpu: side.cpu().saturating_sub(before),
    })
}

/// Takes note of every whole mark; how much was looked through.
fn look(bytes: &[u8], begun: Instant, late: &mut Vec<u64>, heard: &Cell<u64>) -> usize {
    let now = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    let mut at = 0;
    while let Some(found) = memchr::memmem::find(&bytes[at..], MARK) {
        let start = at + found + MARK.len();
        let Some(digits) = bytes.get(start..start + DIGITS) else { return at + found };
        let sent = std::str::from_utf8(digits).ok().and_then(|text| text.parse::<u64>().ok());
        if let Some(sent) = sent {
            late.push(now.saturating_sub(sent));
            heard.set(heard.get() + 1);
        }
        at = start + DIGITS;
    }
    at.max(bytes.len().saturating_sub(MARK.len() + DIGITS))
}

/// One writer's share of the changes, at its pace.
async fn write(target: Target, lane: usize, begun: Instant, written: Rc<Cell<u64>>) -> Result<()> {
    let mut connection = Connection::open(&target).await?;
    let path = format!("/api/v1/namespaces/default/configmaps/fill-{lane}");
    let step = Duration::from_secs(1) * WRITERS as u32 / PER_SECOND;
    let mut due = Instant::now() + step * lane as u32 / WRITERS as u32;
    let end = Instant::now() + LASTS;
    while due < end {
        // A change that is sent late is late from when it was due.
        tokio::time::sleep_until(due.into()).await;
        let sent = due.duration_since(begun).as_micros();
        due += step;
        let body = format!("{{\"data\":{{\"filler\":null,\"sent\":\"{sent:012}\"}}}}");
        let kind = "application/merge-patch+json";
        let status = connection.ask_status(&target.request("PATCH", &path, kind, &body)).await?;
        ensure!(status == 200, "a change: {status}");
        written.set(written.get() + 1);
    }
    Ok(())
}
