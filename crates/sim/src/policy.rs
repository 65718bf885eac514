//! Who decides where a pod goes: the seam between a replay and what it rehearses.

mod drawn;
mod packed;
mod profile;

use std::fmt;
use std::str::FromStr;

use berth_scheduler::Profile;
use berth_scheduler::gpu::{Cluster, Packer, Placed, Workload};
use berth_scheduler::policy::{Archimedes, BestFit, Fgd};
use serde::{Deserialize, Serialize};

pub use profile::{Rehearsal, RehearsalError};

use crate::recording::{RecordedPod, Recording};
use crate::trace::{Arrival, Trace, TraceError};

/// Places pods one after another and keeps the cluster that results.
///
/// # Guarantees
/// Same cluster, same calls, same answers: chance comes from the seed it was made with.
pub trait Policy: Send {
    /// Chooses a node for the pod, the trace's number `index`, and takes what it asks for; none when
    /// it fits nowhere.
    fn place(&mut self, index: usize, arrival: &Arrival) -> Option<Placed>;
    /// Puts a pod on a node where it already is, on its tightest devices; none, and nothing taken,
    /// when it does not fit there.
    fn put(&mut self, index: usize, arrival: &Arrival, node: usize) -> Option<Placed>;
    /// Gives back what a pod had.
    fn remove(&mut self, index: usize, arrival: &Arrival, placed: Placed);
    /// A pod that found no place does not want one any more.
    fn give_up(&mut self, index: usize) {
        let _ = index;
    }
    /// Tells of a pod that the recording did not have when this was started; `arrival.pod` is one
    /// more than the last.
    ///
    /// # Errors
    /// When the pod cannot be judged.
    fn meet(&mut self, pod: &RecordedPod) -> Result<(), RehearsalError> {
        let _ = pod;
        Ok(())
    }
    /// The pods that had to go for the last one placed, by their numbers; it is told once.
    fn displaced(&mut self) -> Vec<usize> {
        Vec::new()
    }
    /// What is free now.
    fn cluster(&self) -> &Cluster;
}

/// The policies there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum PolicyKind {
    /// Any node where it fits.
    Random,
    /// The node that has the least left afterwards.
    BestFit,
    /// Fragmentation gradient descent, told the workload.
    Fgd,
    /// kube-scheduler's default scores for resources.
    Kube,
    /// Berth's own, told the workload.
    Archimedes,
    /// The same, told nothing: it learns the workload as it arrives.
    ArchimedesCold,
}

impl PolicyKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Random,
        Self::BestFit,
        Self::Fgd,
        Self::Kube,
        Self::Archimedes,
        Self::ArchimedesCold,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::BestFit => "bestfit",
            Self::Fgd => "fgd",
            Self::Kube => "kube",
            Self::Archimedes => "archimedes",
            Self::ArchimedesCold => "archimedes-cold",
        }
    }

    /// What it does, in a few words.
    pub fn about(self) -> &'static str {
        match self {
            Self::Random => "any node where the pod fits",
            Self::BestFit => "the node that has the least left",
            Self::Fgd => "fragmentation gradient descent, told the workload",
            Self::Kube => "kube-scheduler's default scores for resources",
            Self::Archimedes => "Berth's own packer, told the workload",
            Self::ArchimedesCold => "the same, told nothing",
        }
    }

    /// The policy on an empty `cluster`. FGD is told the workload of `trace`, as its source does, and
    /// Archimedes with it.
    pub fn start(self, trace: &Trace, cluster: Cluster, seed: u64) -> Box<dyn Policy> {
        match self {
            Self::Random => Box::new(drawn::Random::new(cluster, seed)),
            Self::Kube => Box::new(drawn::Kube::new(cluster, seed)),
            Self::BestFit => Box::new(Packer::new(cluster, BestFit)),
            Self::Fgd => Box::new(Packer::new(cluster, Fgd::new(&workload(trace)))),
            Self::Archimedes => {
                let pods = trace.arrivals.len().min(u32::MAX as usize) as u32;
                Box::new(Archimedes::told(cluster, typical(trace, 1.0), pods))
            }
            Self::ArchimedesCold => Box::new(Archimedes::new(cluster)),
        }
    }
}

/// A policy that nobody has shown a recording yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Candidate {
    /// One of the packers.
    Packer(PolicyKind),
    /// Profiles of the scheduler.
    Profiles {
        /// What tables call them.
        name: String,
        /// As its configuration says.
        profiles: Vec<Profile>,
    },
}

impl Candidate {
    /// Its name in tables.
    pub fn name(&self) -> &str {
        match self {
            Self::Packer(kind) => kind.name(),
            Self::Profiles { name, .. } => name,
        }
    }

    /// Ready to judge the pods of `recording`.
    ///
    /// # Errors
    /// [`RehearsalError`] for pods that profiles cannot judge.
    pub fn ready(&self, recording: &Recording) -> Result<Contender, RehearsalError> {
        Ok(match self {
            Self::Packer(kind) => Contender::Kind(*kind),
            Self::Profiles { name, profiles } => {
                Contender::Rehearsal(Rehearsal::new(name, profiles.clone(), recording)?)
            }
        })
    }

    /// The numbers of `recording` as this policy wants them: a packer is told which kinds of node
    /// a pod may go to, profiles look for themselves.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn trace(&self, recording: &Recording) -> Result<Trace, TraceError> {
        match self {
            Self::Packer(_) => Trace::of(recording),
            Self::Profiles { .. } => Trace::without_kinds(recording),
        }
    }
}

/// Who decides in a replay.
#[derive(Clone, Debug)]
pub enum Contender {
    /// One of the packers.
    Kind(PolicyKind),
    /// The scheduler as production runs it.
    Rehearsal(Rehearsal),
}

impl Contender {
    /// Its name in tables.
    pub fn name(&self) -> &str {
        match self {
            Self::Kind(kind) => kind.name(),
            Self::Rehearsal(rehearsal) => rehearsal.name(),
        }
    }

    /// On the empty cluster of `trace`.
    pub fn start(&self, trace: &Trace, seed: u64) -> Box<dyn Policy> {
        let all: Vec<usize> = (0..trace.shapes.len()).collect();
        self.start_on(trace, &all, seed)
    }

    /// On some empty nodes of `trace`, by their numbers; one that is named again is a copy.
    pub fn start_on(&self, trace: &Trace, nodes: &[usize], seed: u64) -> Box<dyn Policy> {
        let cluster = Cluster::new(nodes.iter().map(|node| trace.shapes[*node]).collect());
        match self {
            Self::Kind(kind) => kind.start(trace, cluster, seed),
            Self::Rehearsal(rehearsal) => rehearsal.start(trace, nodes, cluster, seed),
        }
    }
}

impl From<PolicyKind> for Contender {
    fn from(kind: PolicyKind) -> Self {
        Self::Kind(kind)
    }
}

/// The share of pods that the source of FGD calls typical.
const TYPICAL: f64 = 0.95;

/// The typical pods of a trace.
pub fn workload(trace: &Trace) -> Workload {
    typical(trace, TYPICAL)
}

fn typical(trace: &Trace, coverage: f64) -> Workload {
    Workload::from_counts(trace.arrivals.iter().map(|arrival| (arrival.demand, 1.0)), coverage)
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl From<PolicyKind> for String {
    fn from(kind: PolicyKind) -> Self {
        kind.name().to_owned()
    }
}

impl TryFrom<String> for PolicyKind {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        word.parse()
    }
}

impl FromStr for PolicyKind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == word);
        known.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no policy is called `{word}`; there are {names}")
        })
    }
}
