//! Deployments, ReplicaSets, DaemonSets, StatefulSets, Jobs and CronJobs: how many pods of what there
//! are to be.
//!
//! Each controller is a pure `plan(&Snapshot, now) -> Plan` with its tables beside it, and a `drive`
//! module that gathers the snapshot and carries the plan out. A plan never looks at a clock, a cache
//! or the network, so a rehearsal runs the very same function.

use std::sync::Arc;
use std::time::Duration;

use berth_daemon::Tasks;
use jiff::Timestamp;

use crate::driver::{World, run};

mod claim;
mod cronjob;
mod daemonset;
mod deployment;
pub(crate) mod hash;
mod history;
mod job;
pub(crate) mod pod;
mod rank;
pub(crate) mod recorder;
mod replicaset;
pub(crate) mod share;
mod statefulset;
pub(crate) mod wake;
pub(crate) mod writes;

/// Runs the six controllers in `tasks`.
pub fn start(world: &Arc<World>, tasks: &Tasks) {
    run(deployment::drive::Deployments::new(world), world, tasks);
    run(replicaset::drive::ReplicaSets::new(world), world, tasks);
    run(daemonset::drive::DaemonSets::new(world), world, tasks);
    run(statefulset::drive::StatefulSets::new(world), world, tasks);
    run(job::drive::Jobs::new(world), world, tasks);
    run(cronjob::drive::CronJobs::new(world), world, tasks);
}

/// Something that people are told by an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// CamelCase, one word: what `kubectl get events` lists.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

/// From `now` until `moment`, and a little more: woken at the very moment, a clock that is read in
/// whole seconds has not reached it yet.
fn until(moment: Timestamp, now: Timestamp) -> Duration {
    let wait = moment.duration_since(now).try_into().unwrap_or(Duration::ZERO);
    wait.saturating_add(Duration::from_millis(20))
}
