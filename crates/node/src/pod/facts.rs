//! What a worker knows beside the runtime's and the API's records.
//!
//! All of it may be lost at any moment: a new worker comes to the same decisions, at worst it
//! asks again for an image or tries a failed step sooner.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::plan::End;
use super::security::ImageUser;

/// A worker's own notes on its pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// When the pod's end was first planned.
    pub ending_since: Option<Timestamp>,
    /// Whether the volumes are there, or why not.
    pub volumes: Step,
    /// The last failure to make a sandbox.
    pub sandbox: Step,
    /// By container: the image of its next start.
    pub images: BTreeMap<String, ImageFact>,
    /// By container: why its last start failed before there was a container.
    pub starts: BTreeMap<String, Step>,
    /// Ids of containers whose postStart hook has not succeeded yet.
    pub hooks: BTreeSet<String>,
    /// By container id: the resources it has now, JSON, where they differ from those it began with.
    pub resources: BTreeMap<String, String>,
    /// By container id: why its resources could not be changed.
    pub resize_failures: BTreeMap<String, String>,
    /// What the node has for pods: thousandths of a CPU, and bytes.
    pub room: Option<(i64, i64)>,
    /// By container: restarts that the API knows of, for when the runtime forgot.
    pub restarts: BTreeMap<String, u32>,
    /// Sandboxes that were stopped, so that their network is gone.
    pub stopped: BTreeSet<String>,
    /// The pod has ended for good and its volumes and cgroup are gone.
    pub settled: bool,
    /// The agent decided that the pod ends.
    pub end: Option<End>,
    /// Everything is gone, from the API too.
    pub finished: bool,
    /// When the pod was first seen here; `status.startTime`.
    pub start_time: Option<Timestamp>,
}

/// A step that has not been tried, succeeded, or failed and will be tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Step {
    #[default]
    Untried,
    Done,
    Failed(Failure),
}

/// Why a step failed and when it is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The API's word for it, such as `CreateContainerConfigError`.
    pub reason: &'static str,
    pub message: String,
    /// In a row, this one included.
    pub count: u32,
    pub at: Timestamp,
    pub retry_at: Timestamp,
}

impl Step {
    /// This step failed now; each failure in a row doubles the wait from `first` up to `most`.
    pub fn fail(
        &mut self,
        reason: &'static str,
        message: String,
        at: Timestamp,
        (first, most): (Duration, Duration),
    ) {
        let before = match self {
            Self::Failed(failure) => failure.count,
            Self::Untried | Self::Done => 0,
        };
        let wait = first.saturating_mul(1 << before.min(16)).min(most);
        let retry_at = at.saturating_add(wait).unwrap_or(Timestamp::MAX);
        *self = Self::Failed(Failure { reason, message, count: before + 1, at, retry_at });
    }

    /// Whether it may be tried at `now`; when not, from when on.
    pub fn due(&self, now: Timestamp) -> Result<(), Timestamp> {
        match self {
            Self::Failed(failure) if failure.retry_at > now => Err(failure.retry_at),
            _ => Ok(()),
        }
    }
}

/// What is known of the image for a container's next start.
#[derive(Clone, Debug)]
pub(crate) enum ImageFact {
    Ready { reference: String, user: ImageUser },
    Failed(Failure),
}
