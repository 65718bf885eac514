//! Tables that follow the cluster: one watch a list, whoever many look at it.
//!
//! ```text
//!  API ──watch as Table──▶ Feed ──frames every 50 ms, made once──▶ browser, browser, browser
//! ```
//!
//! A frame is bytes that all subscribers share. Who comes gets the whole table in pieces, then the
//! frames; who falls behind gets the whole table again. A list that nobody looks at any more is let
//! go of after [`LINGER`].

mod follow;
mod table;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use kube::Client;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use berth_daemon::Tasks;

use self::table::Table;

/// Different lists at the same time.
const FEEDS: usize = 512;
const LINGER: Duration = Duration::from_secs(15);
/// Frames kept for those who fall behind: some ten seconds at one every 50 ms.
const FRAMES: usize = 256;

/// Why there is no table.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum FeedError {
    /// The path is no list's.
    #[error("no path of a list")]
    Path,
    /// Too many different ones.
    #[error("too many different lists")]
    Many,
}

/// All tables that somebody looks at.
#[derive(Clone)]
pub struct Feeds {
    client: Client,
    tasks: Tasks,
    open: Arc<Mutex<HashMap<String, Weak<Feed>>>>,
}

/// One list, followed.
struct Feed {
    state: Mutex<Table>,
    frames: broadcast::Sender<Bytes>,
}

impl Feed {
    /// What there is, and what comes after it without a gap.
    fn look(&self) -> (Vec<Bytes>, broadcast::Receiver<Bytes>) {
        let table = self.state.lock().expect("nothing panics under this lock");
        // Under the lock that a frame is made and sent under.
        (table.whole(), self.frames.subscribe())
    }
}

/// One who looks.
pub struct Subscription {
    feed: Arc<Feed>,
    ahead: VecDeque<Bytes>,
    frames: broadcast::Receiver<Bytes>,
}

impl Subscription {
    /// The next frame; `None` when the console stops.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.ahead.pop_front() {
                return Some(frame);
            }
            match self.frames.recv().await {
                Ok(frame) => return Some(frame),
                Err(RecvError::Closed) => return None,
                Err(RecvError::Lagged(_)) => {
                    let (whole, frames) = self.feed.look();
                    (self.ahead, self.frames) = (whole.into(), frames);
                }
            }
        }
    }
}

impl Feeds {
    /// None yet.
    pub fn new(client: Client, tasks: &Tasks) -> Self {
        Self { client, tasks: tasks.clone(), open: Arc::default() }
    }

    /// The console's tasks.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// The table at `path`, whoever asks: rights are looked at before.
    ///
    /// # Errors
    /// When `path` is no list's, or too many different ones are open.
    pub fn subscribe(&self, path: &str) -> Result<Subscription, FeedError> {
        if !is_list(path) {
            return Err(FeedError::Path);
        }
        let mut open = self.open.lock().expect("nothing panics under this lock");
        open.retain(|_, feed| feed.strong_count() > 0);
        let feed = match open.get(path).and_then(Weak::upgrade) {
            Some(feed) => feed,
            None if open.len() >= FEEDS => return Err(FeedError::Many),
            None => {
                let (frames, _) = broadcast::channel(FRAMES);
                let feed = Arc::new(Feed { state: Mutex::default(), frames });
                open.insert(path.to_owned(), Arc::downgrade(&feed));
                let work = follow::follow(self.client.clone(), path.to_owned(), feed.clone());
                self.tasks.spawn_until_stop("console feed", work);
                feed
            }
        };
        let (whole, frames) = feed.look();
        Ok(Subscription { feed, ahead: whole.into(), frames })
    }
}

/// Whether `path` is of a list: `/api/v1[/namespaces/NS]/RESOURCE` or the like under `/apis`.
pub fn is_list(path: &str) -> bool {
    let segments: Vec<&str> = path.split('/').collect();
    let rest = match segments.as_slice() {
        ["", "api", _, rest @ ..] | ["", "apis", _, _, rest @ ..] => rest,
        _ => return false,
    };
    let plain = |segment: &&str| {
        !segment.is_empty()
            && segment.len() <= 253
            && segment.starts_with(|c: char| c.is_ascii_alphanumeric())
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
    };
    segments.iter().skip(1).all(plain) && matches!(rest, [_] | ["namespaces", _, _])
}

#[cfg(test)]
mod tests {
    use super::is_list;

    #[test]
    fn lists_are_told_from_everything_else() {
        for path in [
            "/api/v1/pods",
            "/api/v1/namespaces",
            "/api/v1/namespaces/a/pods",
            "/apis/apps/v1/deployments",
            "/apis/berth.dev/v1/namespaces/a/apps",
        ] {
            assert!(is_list(path), "{path}");
        }
        for path in [
            "",
            "/",
            "/api/v1",
            "/api/v1/",
            "/metrics",
            "/api/v1/namespaces/a/pods/b",
            "/api/v1/namespaces/a/pods/b/log",
            "/api/v1/../x",
            "/api/v1/pods?limit=1",
            "/api/v1/pods/",
            "//api/v1/pods",
            "/apis/apps/v1",
        ] {
            assert!(!is_list(path), "{path}");
        }
    }
}
