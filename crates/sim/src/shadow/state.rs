//! What a shadow leaves for its next run: one JSON file.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::report::Report;
use super::{Counts, Shadow};
use crate::policy::Candidate;

/// The version written, and the only one read.
const VERSION: u32 = 1;

/// Why a state was not read, or not written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system.
    #[error("{}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// No state, or of another version.
    #[error("{} is no state of a shadow", path.display())]
    Text {
        /// Which file.
        path: PathBuf,
        /// What is wrong, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// Written by another Berth.
    #[error("{}: the state's version is {version}, {VERSION} is known", path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// Of another cluster.
    #[error("{} is of the cluster {theirs}, this is {ours}", path.display())]
    Cluster {
        /// Which file.
        path: PathBuf,
        /// Of which.
        theirs: String,
        /// Which one is asked about.
        ours: String,
    },
}

/// A shadow as it was when it was saved.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    version: u32,
    /// The cluster's id: the uid of its namespace kube-system.
    pub cluster: String,
    /// When the first run began.
    pub since: Timestamp,
    /// When this was saved.
    pub at: Timestamp,
    /// What it had seen by then.
    pub report: Report,
    pub(super) live: Counts,
    pub(super) pods: BTreeMap<String, SavedPod>,
    pub(super) sides: Vec<SavedSide>,
}

/// What is kept of a pod.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedPod {
    pub(super) bound: bool,
    pub(super) refused: bool,
}

/// What is kept of a policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedSide {
    pub(super) candidate: Candidate,
    pub(super) placements: BTreeMap<String, String>,
    pub(super) waiting: BTreeSet<String>,
    pub(super) open: BTreeSet<String>,
    pub(super) counts: Counts,
}

impl Saved {
    /// Reads the file; none when there is none.
    ///
    /// # Errors
    /// [`StateError`]: nothing is half read.
    pub fn read(path: &Path) -> Result<Option<Self>, StateError> {
        let text = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|source| StateError::Io { path: path.to_owned(), source })?,
        };
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let wrong = |source| StateError::Text { path: path.to_owned(), source };
        let Version { version } = serde_json::from_slice(&text).map_err(wrong)?;
        if version != VERSION {
            return Err(StateError::Version { path: path.to_owned(), version });
        }
        serde_json::from_slice(&text).map(Some).map_err(wrong)
    }

    /// Writes the file: beside its place first, so that nobody reads half of it.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), StateError> {
        let io = |source| StateError::Io { path: path.to_owned(), source };
        let mut beside = path.as_os_str().to_owned();
        beside.push(".part");
        let text = serde_json::to_vec(self).map_err(io::Error::from).map_err(io)?;
        std::fs::write(&beside, text).map_err(io)?;
        std::fs::rename(&beside, path).map_err(io)
    }

    /// Nothing, if the state is of the cluster `ours`; `path` is where it was read.
    ///
    /// # Errors
    /// [`StateError::Cluster`].
    pub fn is_of(&self, path: &Path, ours: &str) -> Result<(), StateError> {
        if self.cluster == ours {
            return Ok(());
        }
        let (theirs, ours) = (self.cluster.clone(), ours.to_owned());
        Err(StateError::Cluster { path: path.to_owned(), theirs, ours })
    }

    /// The policy of this name as it was shadowed.
    pub fn candidate(&self, name: &str) -> Option<&Candidate> {
        self.sides.iter().map(|side| &side.candidate).find(|candidate| candidate.name() == name)
    }
}

impl Shadow {
    /// What the next run needs.
    pub fn saved(&self, now: Timestamp) -> Saved {
        let pods = self.pods.iter().map(|(uid, known)| {
            (uid.clone(), SavedPod { bound: known.counted, refused: known.refused })
        });
        let sides = self.sides.iter().map(|side| SavedSide {
            candidate: side.candidate.clone(),
            placements: side.placements.clone(),
            waiting: side.waiting.clone(),
            open: side.open.clone(),
            counts: side.counts.clone(),
        });
        Saved {
            version: VERSION,
            cluster: self.cluster.clone(),
            since: self.since,
            at: now,
            report: self.report(now),
            live: self.live.clone(),
            // Who was not seen again yet may still be.
            pods: pods.chain(self.saved.iter().map(|(uid, pod)| (uid.clone(), *pod))).collect(),
            sides: sides.collect(),
        }
    }

    /// Goes on where a former run was, before anything is seen. A policy that it did not have begins
    /// from the live placements.
    pub fn restore(&mut self, saved: Saved) {
        self.since = saved.since;
        self.watched_before_s = saved.report.watched_s;
        self.sides.iter_mut().for_each(|side| side.restore(&saved));
        self.live = saved.live;
        self.saved = saved.pods;
    }
}
