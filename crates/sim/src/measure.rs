//! Figures of a packed cluster.

use std::collections::BTreeMap;

use berth_scheduler::gpu::{Cluster, Demand, WHOLE, Workload};
use berth_scheduler::policy::Fgd;
use serde::Serialize;

/// Pods by what they ask for, the classes of the published figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SizeClass {
    /// No device.
    Cpu,
    /// A share of one.
    Share,
    /// One.
    One,
    /// Two to four.
    Few,
    /// More.
    Many,
}

impl SizeClass {
    /// All of them, smallest first.
    pub const ALL: [Self; 5] = [Self::Cpu, Self::Share, Self::One, Self::Few, Self::Many];

    /// The class of a demand.
    pub fn of(demand: &Demand) -> Self {
        match demand.gpus {
            0 => Self::Cpu,
            1 if demand.gpu_milli < WHOLE => Self::Share,
            1 => Self::One,
            2..=4 => Self::Few,
            _ => Self::Many,
        }
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Cpu => "no GPU",
            Self::Share => "share",
            Self::One => "1 GPU",
            Self::Few => "2-4 GPUs",
            Self::Many => "5+ GPUs",
        }
    }
}

/// What was measured; percentages are of the devices' capacity unless they say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// How much was asked for.
    pub arrived_percent: f64,
    /// How much was allocated when as much as there is had been asked for.
    pub allocated_at_capacity_percent: Option<f64>,
    /// How much was allocated at the end.
    pub allocated_percent: f64,
    /// How much was allocated at most.
    pub allocated_most_percent: f64,
    /// How much had been asked for when the first pod found no place.
    pub first_failure_percent: Option<f64>,
    /// Pods that found a place.
    pub placed: usize,
    /// How often a pod had to go for a more important one.
    pub displaced: usize,
    /// Pods that found none, by size.
    pub left_over: BTreeMap<SizeClass, usize>,
    /// Asked for, and allocated then; a point each percent.
    pub curve: Vec<(f64, f64)>,
    /// Free on devices, yet of no use to a typical pod.
    pub fragments_percent: f64,
    /// Cores free, yet where a typical pod finds too little of something else, of all cores.
    pub cpu_fragments_percent: f64,
    /// Cores allocated, of all.
    pub cpu_percent: f64,
    /// How unevenly: the standard deviation of nodes' allocated cores, in points.
    pub cpu_deviation: f64,
    /// Nodes by allocated cores, in tenths.
    pub cpu_nodes: [usize; 10],
    /// Nodes with nothing on them.
    pub empty_nodes: usize,
}

impl Figures {
    /// What can be seen of the cluster alone.
    pub fn of(cluster: &Cluster, workload: &Workload) -> Self {
        let measure = Fgd::new(workload);
        let mut figures = Self::default();
        let (mut fragments, mut squares, mut sum) = (0.0, 0.0, 0.0);
        let (mut asked, mut all, mut stranded) = (0_u64, 0_u64, 0.0);
        for (node, shape) in cluster.nodes().iter().zip(cluster.shapes()) {
            fragments += measure.fragments(node);
            let misfits = workload.typical.iter().filter(|(demand, _)| !node.fits(demand));
            let misfits: f64 = misfits.map(|(_, share)| share).sum();
            stranded += misfits * f64::from(node.cpu_milli);
            let used = shape.cpu_milli - node.cpu_milli;
            asked += u64::from(used);
            all += u64::from(shape.cpu_milli);
            let share = f64::from(used) * 100.0 / f64::from(shape.cpu_milli.max(1));
            sum += share;
            squares += share * share;
            figures.cpu_nodes[((share / 10.0) as usize).min(9)] += 1;
            let idle =
                node.pods == shape.pods || (used == 0 && node.memory_mib == shape.memory_mib);
            figures.empty_nodes += usize::from(idle && node.gpu_total() == full(shape.gpus));
        }
        let count = cluster.nodes().len().max(1) as f64;
        let mean = sum / count;
        figures.cpu_deviation = (squares / count - mean * mean).max(0.0).sqrt();
        figures.cpu_percent = asked as f64 * 100.0 / all.max(1) as f64;
        figures.cpu_fragments_percent = stranded * 100.0 / all.max(1) as f64;
        figures.fragments_percent = fragments * 100.0 / cluster.gpu_capacity().max(1) as f64;
        figures
    }

    /// Pods that found no place.
    pub fn left_over_count(&self) -> usize {
        self.left_over.values().sum()
    }
}

fn full(gpus: u8) -> u32 {
    u32::from(gpus) * u32::from(WHOLE)
}
