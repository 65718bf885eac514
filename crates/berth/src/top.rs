//! `berth top`: what containers do, each by itself, as their nodes count it.
//!
//! ```text
//!  pods: limits, restarts, since when ───────────────┐
//!  nodes' /stats/summary (and, where that has no     ├─▶ rows
//!  I/O, /metrics/cadvisor) ─▶ Rates over two looks ──┤
//!  load and I/O of collectors beside kubelets ───────┤
//!  metrics.k8s.io, where no node may be asked ───────┘
//! ```

mod cadvisor;
mod kubelet;
mod metered;
mod rate;
mod row;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Error, Result};
use berth_api::summary::Silent;
use berth_console::collected::Stats;
use console::Term;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::cli::Global;
use crate::failure::{Exit, Failure, chain};
use crate::output::Format;
use crate::{connect, pods};

use kubelet::{Key, Sample};
use rate::Rates;
use row::{Row, Sort};

/// Nodes that are asked at a time.
const AT_ONCE: usize = 16;

/// `berth top`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// An app, or a pod; all of the namespace without
    name: Option<String>,
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "name"])]
    all_namespaces: bool,
    /// Go on, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// Between two looks, in seconds: rates are over that time
    #[arg(long, value_name = "SECONDS", default_value_t = 2,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// What comes first
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
}

/// Looks twice, prints; with `--watch`, goes on.
///
/// # Errors
/// When nothing answers, there is no such app, or no node may be asked.
pub async fn run(global: &Global, options: Options) -> Result<()> {
    let mut looking = Looking::new(connect::client(global).await?);
    let mut looks = tokio::time::interval(Duration::from_secs(options.interval));
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    looks.tick().await;
    looking.look(&options).await?;
    loop {
        looks.tick().await;
        let rows = looking.look(&options).await?;
        let term = Term::stdout();
        if options.watch && global.output == Format::Table && term.is_term() {
            term.clear_screen()?;
        }
        global.output.print(&rows, || row::table(&rows, options.all_namespaces))?;
        if !options.watch {
            return Ok(());
        }
    }
}

/// What is kept from one look to the next.
struct Looking {
    client: Client,
    rates: BTreeMap<Key, Rates>,
    collectors: Stats,
    /// What was said already, to say it once.
    told: BTreeSet<String>,
}

impl Looking {
    fn new(client: Client) -> Self {
        let (rates, told) = (BTreeMap::new(), BTreeSet::new());
        Self { client, rates, collectors: Stats::default(), told }
    }

    /// What containers do now.
    async fn look(&mut self, options: &Options) -> Result<Vec<Row>> {
        let pods = wanted(&self.client, options).await?;
        let nodes = pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone());
        let nodes: BTreeSet<String> = nodes.collect();
        let (mut samples, silent) = self.ask(&nodes).await;
        if !silent.is_empty() {
            let spaces: BTreeSet<String> = pods.iter().filter_map(ResourceExt::namespace).collect();
            for (key, sample) in metered::samples(&self.client, &spaces).await {
                samples.entry(key).or_insert(sample);
            }
        }
        self.complete(&mut samples, &pods).await;
        let is_known = silent.len() < nodes.len() || {
            let known = pods_of(&samples, |_| true);
            pods.iter().any(|pod| known.contains(&key(pod)))
        };
        if let Some((node, error)) = silent.first() {
            // Who may not ask one may ask none.
            let more = match silent.len() {
                1 => String::new(),
                all => format!(" (and {} more nodes)", all - 1),
            };
            self.tell_once(format!("node {node} does not tell: {}{more}", chain(error)));
        }
        if !is_known && !nodes.is_empty() {
            let hint = "it takes `get` on `nodes/proxy`, or a metrics API (`kubectl top`)";
            return Err(Failure::new(Exit::Failed, "no node tells what it runs", hint).into());
        }
        let mut rows = row::of(&pods, &samples, &mut self.rates, Timestamp::now());
        self.rates.retain(|key, _| samples.contains_key(key));
        options.sort.order(&mut rows);
        Ok(rows)
    }

    /// What nodes tell, and those that do not, by name.
    async fn ask(&self, nodes: &BTreeSet<String>) -> (BTreeMap<Key, Sample>, Vec<(String, Error)>) {
        let mut answers: Vec<(String, Result<BTreeMap<Key, Sample>>)> = stream::iter(nodes)
            .map(async |node| (node.clone(), kubelet::samples(&self.client, node).await))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        answers.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let mut samples = BTreeMap::new();
        let mut silent = Vec::new();
        for (node, answer) in answers {
            match answer {
                Ok(found) => samples.extend(found),
                Err(error) => silent.push((node, error)),
            }
        }
        (samples, silent)
    }

    /// Asks collectors for what is not in `samples` of `pods`.
    async fn complete(&mut self, samples: &mut BTreeMap<Key, Sample>, pods: &[Pod]) {
        let told = pods_of(samples, |sample| sample.load.is_some());
        let mut missing: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for pod in pods.iter().filter(|pod| !told.contains(&key(pod))) {
            if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
                missing.entry(key(pod).0).or_default().insert(node);
            }
        }
        let answers: Vec<_> = stream::iter(missing)
            .map(async |(namespace, nodes)| {
                self.collectors.of(&self.client, &namespace, &nodes).await
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for answer in answers {
            match answer {
                Ok(Some(mut summary)) => {
                    for Silent { node, reason } in summary.silent.drain(..) {
                        self.tell_once(format!("node {node} tells no load: {reason}"));
                    }
                    kubelet::complete(samples, summary);
                }
                Ok(None) => {}
                Err(error) => {
                    self.tell_once(format!("collectors do not tell: {}", chain(&error.into())))
                }
            }
        }
    }

    fn tell_once(&mut self, text: String) {
        if !self.told.contains(&text) {
            eprintln!("berth: {text}");
            self.told.insert(text);
        }
    }
}

/// Namespace and name of the pods of which there are such samples.
fn pods_of(
    samples: &BTreeMap<Key, Sample>,
    which: impl Fn(&Sample) -> bool,
) -> BTreeSet<(String, String)> {
    let wanted = samples.iter().filter(|(_, sample)| which(sample));
    wanted.map(|((namespace, pod, _), _)| (namespace.clone(), pod.clone())).collect()
}

fn key(pod: &Pod) -> (String, String) {
    (pod.namespace().unwrap_or_default(), pod.name_any())
}

async fn wanted(client: &Client, options: &Options) -> Result<Vec<Pod>> {
    if let Some(name) = &options.name {
        return pods::of(client, &options.namespace, name).await;
    }
    let api: Api<Pod> = match options.all_namespaces {
        true => Api::all(client.clone()),
        false => Api::namespaced(client.clone(), &options.namespace),
    };
    Ok(api.list(&ListParams::default().fields("status.phase=Running")).await?.items)
}
