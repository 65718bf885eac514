//! Workloads made from the default one, by the recipes that the trace's authors describe for theirs:
//! another share of pods without GPUs, of shares, of pods of several GPUs, of pods that name a model.
//!
//! Their own draws are not used, so figures differ from theirs by tenths; which models are named is
//! not said, so there are three answers. FGD's published figures stand beside ours for orientation.
//!
//! Source: the README of the trace and the tables of results in the repository of "Beware of
//! Fragmentation" (USENIX ATC '23), both Apache-2.0.

use berth_sim::Chance;
use berth_sim::recording::{RecordedNode, RecordedPod, Recording};

/// What is drawn is the same every time.
const SEED: u64 = 77;

/// A workload to make.
#[derive(Clone, Copy, Debug)]
pub struct Derived {
    /// As the source names it, with the answer to which models at its end.
    pub name: &'static str,
    recipe: Recipe,
    /// FGD's, when 100 % and 130 % had arrived.
    pub published: (f64, f64),
}

#[derive(Clone, Copy, Debug)]
enum Recipe {
    /// So many of a thousand pods ask for no GPU.
    Plain(u32),
    /// So many percent of the GPUs asked for are shares.
    Shares(u32),
    /// So many percent of the GPUs asked for are for pods of several.
    Several(u32),
    /// So many percent of the GPUs asked for are for pods that name a model, drawn by these weights.
    Models(u32, Named),
}

#[derive(Clone, Copy, Debug)]
enum Named {
    /// Each as often as there are GPUs of it.
    Even,
    /// The same without the commonest model: together they want more than there is.
    Rare,
    /// V100s more often than there are.
    Sought,
}

const fn derived(name: &'static str, recipe: Recipe, at: f64, end: f64) -> Derived {
    Derived { name, recipe, published: (at, end) }
}

/// All of them.
pub const ALL: [Derived; 16] = [
    derived("cpu050", Recipe::Plain(50), 95.00, 95.21),
    derived("cpu100", Recipe::Plain(100), 95.21, 95.35),
    derived("cpu200", Recipe::Plain(200), 94.82, 95.05),
    derived("gpushare40", Recipe::Shares(40), 93.96, 94.15),
    derived("gpushare60", Recipe::Shares(60), 91.25, 91.40),
    derived("gpushare80", Recipe::Shares(80), 89.08, 89.31),
    derived("multigpu20", Recipe::Several(20), 95.53, 95.65),
    derived("multigpu30", Recipe::Several(30), 96.36, 96.46),
    derived("multigpu40", Recipe::Several(40), 96.91, 96.99),
    derived("multigpu50", Recipe::Several(50), 97.09, 97.18),
    derived("gpuspec10-even", Recipe::Models(10, Named::Even), 94.66, 94.95),
    derived("gpuspec20-rare", Recipe::Models(20, Named::Rare), 94.66, 94.84),
    derived("gpuspec25-sought", Recipe::Models(25, Named::Sought), 93.91, 94.74),
    derived("gpuspec33-even", Recipe::Models(33, Named::Even), 87.84, 94.55),
    derived("gpuspec33-rare", Recipe::Models(33, Named::Rare), 87.84, 94.55),
    derived("gpuspec33-sought", Recipe::Models(33, Named::Sought), 87.84, 94.55),
];

impl Derived {
    /// Makes it from the default workload.
    pub fn of(&self, default: &Recording) -> Recording {
        let mut chance = Chance::new(SEED);
        let some = |wanted: &dyn Fn(&RecordedPod) -> bool| -> Vec<RecordedPod> {
            default.pods.iter().filter(|pod| wanted(pod)).cloned().collect()
        };
        let is_share = |pod: &RecordedPod| pod.gpus == 1 && pod.gpu_milli < 1000;
        let plain = some(&|pod| pod.gpus == 0);
        let asking = some(&|pod| pod.gpus > 0);
        let mut pods = match self.recipe {
            Recipe::Plain(of_thousand) => {
                let part = f64::from(of_thousand) / 1000.0;
                let count = asking.len() as f64 * part / (1.0 - part);
                [draw(&plain, count, &mut chance), asking].concat()
            }
            Recipe::Shares(percent) => {
                let (shares, whole) =
                    (some(&is_share), some(&|pod| pod.gpus > 0 && !is_share(pod)));
                // As many pods with GPUs as before.
                let part = f64::from(percent) / 100.0;
                let (a, b) = (part / mean(&shares), (1.0 - part) / mean(&whole));
                let count = (asking.len() as f64 * a / (a + b)).round();
                let rest = asking.len() as f64 - count;
                let shares = draw(&shares, count, &mut chance);
                [plain, shares, draw(&whole, rest, &mut chance)].concat()
            }
            Recipe::Several(percent) => {
                let (one, several) = (some(&|pod| pod.gpus == 1), some(&|pod| pod.gpus > 1));
                // As many GPUs as before, and as many pods without to each pod with them.
                let part = f64::from(percent) / 100.0;
                let several_count = (gpus(&asking) * part / mean(&several)).round();
                let one_count = (gpus(&asking) * (1.0 - part) / mean(&one)).round();
                let with = several_count + one_count;
                let without = (plain.len() as f64 * with / asking.len() as f64).floor();
                let plain = draw(&plain, without, &mut chance);
                let several = draw(&several, several_count, &mut chance);
                [plain, several, draw(&one, one_count, &mut chance)].concat()
            }
            Recipe::Models(percent, named) => {
                let mut pods = default.pods.clone();
                let wanted = gpus(&asking) * f64::from(percent) / 100.0;
                name_models(&mut pods, &default.nodes, wanted, named, &mut chance);
                pods
            }
        };
        for (index, pod) in pods.iter_mut().enumerate() {
            pod.name = format!("{}-{index}", self.name);
        }
        let source = format!("made from {}: {}", default.source, self.name);
        Recording { source, pods, ..default.clone() }
    }
}

/// Lets pods name models until so many GPUs are asked for by name.
fn name_models(
    pods: &mut [RecordedPod],
    nodes: &[RecordedNode],
    wanted: f64,
    named: Named,
    chance: &mut Chance,
) {
    let weights: &[(&[&str], usize)] = match named {
        Named::Even => &[
            (&["G2"], 4392),
            (&["G3"], 312),
            (&["P100"], 265),
            (&["T4"], 842),
            (&["V100M16", "V100M32"], 399),
        ],
        Named::Rare => {
            &[(&["G3"], 312), (&["P100"], 265), (&["T4"], 842), (&["V100M16", "V100M32"], 399)]
        }
        Named::Sought => &[
            (&["G2"], 33),
            (&["G3"], 12),
            (&["P100"], 5),
            (&["T4"], 25),
            (&["V100M16", "V100M32"], 20),
            (&["V100M32"], 5),
        ],
    };
    let all: usize = weights.iter().map(|(_, weight)| weight).sum();
    let mut order: Vec<usize> = (0..pods.len()).filter(|pod| pods[*pod].gpus > 0).collect();
    chance.shuffle(&mut order);
    let mut done = 0.0;
    for pod in order {
        if done >= wanted {
            return;
        }
        let pod = &mut pods[pod];
        let mut drawn = chance.below(all);
        let models = weights.iter().find(|(_, weight)| {
            let found = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            found
        });
        let Some((models, _)) = models else { continue };
        let holds = |node: &RecordedNode| {
            models.contains(&node.model.as_str())
                && node.gpus >= pod.gpus
                && node.cpu_milli >= pod.cpu_milli
                && node.memory_mib >= pod.memory_mib
        };
        // Nobody names a model that cannot hold him.
        if nodes.iter().any(holds) {
            pod.models = models.iter().map(|model| (*model).to_owned()).collect();
            done += gpus(std::slice::from_ref(pod));
        }
    }
}

/// So many of `pods`: all of them as often as possible, then some by lot.
fn draw(pods: &[RecordedPod], count: f64, chance: &mut Chance) -> Vec<RecordedPod> {
    let count = count.round() as usize;
    let mut rest = pods.to_vec();
    chance.shuffle(&mut rest);
    let again = pods.iter().cycle().take(count / pods.len() * pods.len());
    again.chain(&rest[..count % pods.len()]).cloned().collect()
}

fn gpus(pods: &[RecordedPod]) -> f64 {
    pods.iter().map(|pod| f64::from(pod.gpus) * f64::from(pod.gpu_milli) / 1000.0).sum()
}

fn mean(pods: &[RecordedPod]) -> f64 {
    gpus(pods) / pods.len() as f64
}
