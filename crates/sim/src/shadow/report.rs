//! The standing comparison, for people and programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use berth_scheduler::gpu::{Cluster, Demand, Devices, Shape, Workload};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::counts::{Counts, FirstFailure};
use super::{Shadow, Timing};
use crate::measure::Figures;
use crate::recording::{RecordedNode, Recording};
use crate::trace::Trace;

/// The share of pods that are typical, as for the figures of replays.
const TYPICAL: f64 = 0.95;

/// Everything at one time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// When.
    pub at: Timestamp,
    /// When the first run began.
    pub since: Timestamp,
    /// Seconds that were watched, in all runs.
    pub watched_s: u64,
    /// Nodes there are.
    pub nodes: usize,
    /// Pods there are.
    pub pods: usize,
    /// The live scheduler.
    pub live: Standing,
    /// The policies.
    pub policies: Vec<Standing>,
}

/// How one scheduler stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// Its name.
    pub policy: String,
    /// Pods that it gave a node.
    pub decided: u64,
    /// Pods that it and the live scheduler gave the same node.
    pub same: u64,
    /// Pods that they gave different nodes.
    pub other: u64,
    /// Pods for which it found no node when it first looked.
    pub refused: u64,
    /// Pods without a node now.
    pub waiting: usize,
    /// Those of them that the live scheduler has placed.
    pub only_live: usize,
    /// Pods that had to go.
    pub displaced: u64,
    /// The first of the refused.
    pub first_failure: Option<FirstFailure>,
    /// Cores allocated, of all.
    pub cpu_percent: f64,
    /// Devices allocated, of all; none where there are none.
    pub gpu_percent: Option<f64>,
    /// Cores free where a typical pod finds too little of something, of all cores.
    pub cpu_fragments_percent: f64,
    /// Devices free, yet of no use to a typical pod; none where there are none.
    pub gpu_fragments_percent: Option<f64>,
    /// The standard deviation of nodes' allocated cores, in points.
    pub cpu_deviation: f64,
    /// Nodes with nothing on them.
    pub empty_nodes: usize,
    /// A policy: to decide. The live scheduler: from when its pod was seen until its node was.
    pub took: Timing,
    /// Why it cannot judge this cluster; its figures mean nothing then.
    pub fault: Option<String>,
}

/// The nodes there are, to count pods on.
struct Books {
    empty: Vec<Shape>,
    index: BTreeMap<String, usize>,
    demands: BTreeMap<String, Demand>,
    workload: Workload,
}

impl Books {
    fn of(shadow: &Shadow) -> Self {
        let open = |node: &RecordedNode| RecordedNode { unschedulable: false, ..node.clone() };
        let recording = Recording {
            nodes: shadow.nodes.values().map(open).collect(),
            pods: shadow.pods.values().map(|known| known.pod.clone()).collect(),
            ..Recording::default()
        };
        // Nodes with more devices than can be told apart are not counted.
        let trace = Trace::without_kinds(&recording).unwrap_or_default();
        let index = trace.nodes.iter().enumerate().map(|(at, name)| (name.clone(), at)).collect();
        let mut demands = BTreeMap::new();
        for (at, (uid, known)) in shadow.pods.iter().enumerate() {
            if let Some(arrival) = trace.arrival(at, &known.pod) {
                demands.insert(uid.clone(), arrival.demand);
            }
        }
        let counts = demands.values().map(|demand| (*demand, 1.0));
        let workload = Workload::from_counts(counts, TYPICAL);
        Self { empty: trace.shapes, index, demands, workload }
    }

    fn figures<'a>(
        &self,
        placements: impl Iterator<Item = (&'a str, &'a str)>,
        devices: impl Fn(&str) -> Option<Devices>,
    ) -> (Figures, Option<f64>) {
        let mut cluster = Cluster::new(self.empty.clone());
        let mut gpus = 0;
        for (uid, node) in placements {
            let (Some(at), Some(demand)) = (self.index.get(node), self.demands.get(uid)) else {
                continue;
            };
            let own = devices(uid).filter(|own| own.count_ones() == u32::from(demand.gpus));
            let own = own.unwrap_or_else(|| cluster.nodes()[*at].tightest(demand));
            if cluster.take(*at, demand, own) {
                gpus += u64::from(demand.gpu_total());
            }
        }
        let all = cluster.gpu_capacity();
        let percent = (all > 0).then(|| gpus as f64 * 100.0 / all as f64);
        (Figures::of(&cluster, &self.workload), percent)
    }
}

fn standing(policy: &str, counts: &Counts, figures: &(Figures, Option<f64>)) -> Standing {
    let (figures, gpu_percent) = figures;
    Standing {
        policy: policy.to_owned(),
        decided: counts.decided,
        same: counts.same,
        other: counts.other,
        refused: counts.refused,
        waiting: 0,
        only_live: 0,
        displaced: counts.displaced,
        first_failure: counts.first_failure.clone(),
        cpu_percent: figures.cpu_percent,
        gpu_percent: *gpu_percent,
        cpu_fragments_percent: figures.cpu_fragments_percent,
        gpu_fragments_percent: gpu_percent.map(|_| figures.fragments_percent),
        cpu_deviation: figures.cpu_deviation,
        empty_nodes: figures.empty_nodes,
        took: counts.took.clone(),
        fault: None,
    }
}

impl Shadow {
    /// How everybody stands now.
    pub fn report(&self, now: Timestamp) -> Report {
        let books = Books::of(self);
        let node = |uid: &str| self.pods.get(uid).and_then(|known| known.pod.node.as_deref());
        let bound = self.pods.keys().filter_map(|uid| Some((uid.as_str(), node(uid)?)));
        let mut live = standing("live", &self.live, &books.figures(bound, |_| None));
        let refused = |known: &&super::Known| known.refused && known.pod.node.is_none();
        live.waiting = self.pods.values().filter(refused).count();
        let policies = self.sides.iter().map(|side| {
            let placed = side.placements.iter().map(|(uid, node)| (uid.as_str(), node.as_str()));
            let figures = books.figures(placed, |uid| side.devices(uid));
            Standing {
                waiting: side.waiting.len(),
                only_live: side.waiting.iter().filter(|uid| node(uid).is_some()).count(),
                fault: side.fault.clone(),
                ..standing(side.candidate.name(), &side.counts, &figures)
            }
        });
        let watched = now.duration_since(self.begun).max(SignedDuration::ZERO);
        Report {
            at: now,
            since: self.since,
            watched_s: self.watched_before_s + watched.unsigned_abs().as_secs(),
            nodes: self.nodes.len(),
            pods: self.pods.len(),
            live,
            policies: policies.collect(),
        }
    }
}

impl Report {
    /// One line for a running display.
    pub fn line(&self) -> String {
        let mut text = format!("{} nodes, {} pods", self.nodes, self.pods);
        for each in &self.policies {
            let compared = each.same + each.other;
            let _ = match &each.fault {
                Some(fault) => write!(text, " | {}: {fault}", each.policy),
                None => write!(
                    text,
                    " | {}: {} decided, {} of {compared} on the same node, {} waiting",
                    each.policy, each.decided, each.same, each.waiting
                ),
            };
        }
        text
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let watched = SignedDuration::from_secs(i64::try_from(self.watched_s).unwrap_or(i64::MAX));
        let (nodes, pods) = (self.nodes, self.pods);
        let mut text = format!("watched {watched:#}: {nodes} nodes, {pods} pods\n");
        let all: Vec<&Standing> = std::iter::once(&self.live).chain(&self.policies).collect();
        let width = all.iter().map(|each| each.policy.chars().count() + 2).fold(14, usize::max);
        let mut row = |name: &str, cell: &dyn Fn(&Standing) -> String| {
            let cells = all.iter().map(|each| match (&each.fault, name) {
                (Some(_), name) if !name.is_empty() => format!("{:>width$}", "-"),
                _ => format!("{:>width$}", cell(each)),
            });
            let _ = writeln!(text, "{name:<26}{}", cells.collect::<String>());
        };
        let percent =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2} %"));
        row("", &|each| each.policy.clone());
        row("pods given a node", &|each| each.decided.to_string());
        row("on the live one's node", &|each| match each.same + each.other {
            0 => "-".to_owned(),
            all => format!("{} of {all}", each.same),
        });
        row("found none at first", &|each| each.refused.to_string());
        row("first failure", &|each| match &each.first_failure {
            Some(first) => format!("{:.0}", first.at),
            None => "-".to_owned(),
        });
        row("waiting now", &|each| each.waiting.to_string());
        row("waiting, placed live", &|each| each.only_live.to_string());
        row("displaced", &|each| each.displaced.to_string());
        row("cores allocated", &|each| percent(Some(each.cpu_percent)));
        row("cores of no use", &|each| percent(Some(each.cpu_fragments_percent)));
        if all.iter().any(|each| each.gpu_percent.is_some()) {
            row("devices allocated", &|each| percent(each.gpu_percent));
            row("devices of no use", &|each| percent(each.gpu_fragments_percent));
        }
        row("cores' deviation by node", &|each| format!("{:.1}", each.cpu_deviation));
        row("empty nodes", &|each| each.empty_nodes.to_string());
        let shown = |us: Option<f64>| match us {
            None => "-".to_owned(),
            Some(us) if us < 1_000.0 => format!("{us:.0} µs"),
            Some(us) if us < 1_000_000.0 => format!("{:.1} ms", us / 1_000.0),
            Some(us) => format!("{:.1} s", us / 1_000_000.0),
        };
        row("time to decide, mean", &|each| shown(each.took.mean_us()));
        row("time to decide, 99 %", &|each| shown(each.took.percentile_us(99).map(|us| us as f64)));
        for each in &self.policies {
            if let Some(fault) = &each.fault {
                let _ = writeln!(text, "{} cannot judge this cluster: {fault}", each.policy);
            }
        }
        text
    }
}
