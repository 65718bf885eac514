//! The web shell: a terminal in a container, recorded.
//!
//! ```text
//!  browser ──WebSocket──▶ console ──WebSocket (v5/v4.channel.k8s.io)──▶ API server ──▶ kubelet
//!    keys, sizes            │  as the person, by impersonation
//!    ◀── what is shown ── filter ── what the program prints
//!                           └──▶ asciicast, typed commands ──▶ database
//! ```
//!
//! # Guarantees
//! - Nothing is shown that is not recorded: a session whose recording is full or cannot be written
//!   ends.
//! - What is shown and recorded has gone through [`harmless::Filter`].
//! - A session ends with the person's log-in, with their right to `pods/exec` (looked at every
//!   minute), after [`Limits::idle`] without a key, and when somebody cuts it off, from whichever
//!   console of the same database.
//!
//! # Source
//! Kubernetes' remote command protocol; asciicast v2.

mod carry;
pub mod debug;
mod harmless;
mod line;
mod open;
mod outside;
mod recording;
mod records;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::upgrade::OnUpgrade;
use kube::Client;
use serde::Serialize;
use sqlx::AnyPool;
use tokio::sync::watch;

use berth_daemon::Tasks;

use crate::database::DatabaseError;

pub(crate) use carry::Rights;
pub(crate) use open::{Entry, Wanted};
pub use outside::{About, Transcript};
pub(crate) use recording::Size;
pub(crate) use records::{Filter, Record, Records};

/// What the terminal calls itself.
const TERM: &str = "xterm-256color";
const LIVE: usize = 256;
const LIVE_OF_ONE: usize = 16;
const CUT_EVERY: Duration = Duration::from_secs(2);
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// What a session may take.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Without a key.
    pub idle: Duration,
    /// From its beginning.
    pub longest: Duration,
    /// Bytes of its recording.
    pub recording: usize,
    /// How often log-in and rights are looked at.
    pub check: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(30 * 60),
            longest: Duration::from_secs(12 * 3600),
            recording: 16 << 20,
            check: Duration::from_secs(60),
        }
    }
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "why", rename_all = "camelCase")]
pub(crate) enum End {
    /// The command did.
    Exit {
        /// Its exit code.
        code: i32,
    },
    /// The page was left.
    Left,
    /// Nobody typed.
    Idle,
    /// It went on for too long.
    Long,
    /// Its recording has reached its size.
    Full,
    /// Somebody cut it off.
    Cut {
        /// Who.
        by: String,
    },
    /// The person logged out, or may do this no more.
    Rights,
    /// The recording cannot be written.
    Unrecorded,
    /// The page did not take what was shown.
    Slow,
    /// The connection to the cluster broke.
    Lost,
    /// The API server or the container's runtime refused.
    Refused {
        /// In its words.
        message: String,
    },
    /// The console stops.
    Stopped,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exit { code } => write!(f, "exit {code}"),
            Self::Left => f.write_str("left"),
            Self::Idle => f.write_str("idle"),
            Self::Long => f.write_str("long"),
            Self::Full => f.write_str("full"),
            Self::Cut { by } => write!(f, "cut by {by}"),
            Self::Rights => f.write_str("rights"),
            Self::Unrecorded => f.write_str("unrecorded"),
            Self::Slow => f.write_str("slow"),
            Self::Lost => f.write_str("lost"),
            Self::Refused { message } => write!(f, "refused: {message:.200}"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// Why no session begins.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShellError {
    /// One person has too many.
    #[error("{LIVE_OF_ONE} shells of yours are open already")]
    ManyOfOne,
    /// All have.
    #[error("{LIVE} shells are open already")]
    Many,
}

struct Live {
    account: String,
    cut: watch::Sender<String>,
}

/// All sessions.
#[derive(Clone)]
pub(crate) struct Shells {
    pub records: Records,
    live: Arc<Mutex<HashMap<String, Live>>>,
    client: Client,
    tasks: Tasks,
    limits: Limits,
}

/// A session's place among the live ones; gone when dropped.
struct Place {
    id: String,
    live: Arc<Mutex<HashMap<String, Live>>>,
    cut: watch::Receiver<String>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.live.lock().expect("nothing panics under this lock").remove(&self.id);
    }
}

impl Shells {
    /// Those of the database, and the task that cuts and removes them.
    pub fn start(pool: AnyPool, client: Client, tasks: &Tasks, limits: Limits) -> Self {
        let shells = Self {
            records: Records::new(pool),
            live: Arc::default(),
            client,
            tasks: tasks.clone(),
            limits,
        };
        let watched = shells.clone();
        tasks.spawn_until_stop("console shells", async move {
            let mut cut = tokio::time::interval(CUT_EVERY);
            let mut prune = tokio::time::interval(PRUNE_EVERY);
            loop {
                let done = tokio::select! {
                    _ = cut.tick() => watched.cut_those_named().await,
                    _ = prune.tick() => watched.records.prune().await,
                };
                if let Err(error) = done {
                    tracing::warn!(%error, "cannot look after the shells' records");
                }
            }
        });
        shells
    }

    /// Carries a session in a task of its own once the browser has switched.
    ///
    /// # Errors
    /// When too many are open.
    pub fn open(
        &self,
        browser: OnUpgrade,
        entry: Entry,
        rights: impl Rights,
    ) -> Result<(), ShellError> {
        let place = self.place(&entry.account.name)?;
        let shells = self.clone();
        self.tasks.spawn("console shell", async move {
            match browser.await {
                Ok(browser) => open::run(shells, place, browser, entry, rights).await,
                Err(error) => tracing::debug!(%error, "a browser did not switch protocols"),
            }
        });
        Ok(())
    }

    fn place(&self, account: &str) -> Result<Place, ShellError> {
        let mut bytes = [0; 16];
        rand::Rng::fill(&mut rand::rng(), &mut bytes);
        let id = URL_SAFE_NO_PAD.encode(bytes);
        let (cut, told) = watch::channel(String::new());
        let mut live = self.live.lock().expect("nothing panics under this lock");
        if live.len() >= LIVE {
            return Err(ShellError::Many);
        }
        if live.values().filter(|live| live.account == account).count() >= LIVE_OF_ONE {
            return Err(ShellError::ManyOfOne);
        }
        live.insert(id.clone(), Live { account: account.to_owned(), cut });
        Ok(Place { id, live: self.live.clone(), cut: told })
    }

    /// Ends the session `id`, here or in another console of the same database.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn cut(&self, id: &str, by: &str) -> Result<bool, DatabaseError> {
        let cut = self.records.cut(id, by).await?;
        self.cut_here(id, by);
        Ok(cut)
    }

    fn cut_here(&self, id: &str, by: &str) {
        let live = self.live.lock().expect("nothing panics under this lock");
        if let Some(live) = live.get(id) {
            live.cut.send_replace(by.to_owned());
        }
    }

    async fn cut_those_named(&self) -> Result<(), DatabaseError> {
        if self.live.lock().expect("nothing panics under this lock").is_empty() {
            return Ok(());
        }
        for (id, by) in self.records.to_be_cut().await? {
            self.cut_here(&id, &by);
        }
        Ok(())
    }
}
