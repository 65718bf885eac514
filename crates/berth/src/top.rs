//! `berth top`: what containers do, each by itself, as their nodes count it.
//!
//! ```text
//!  pods: limits, restarts, since when ───────────────┐
//!  nodes' /stats/summary (and, where that has no     ├─▶ rows
//!  I/O, /metrics/cadvisor) ─▶ Rates over two looks ──┘
//! ```

mod cadvisor;
mod kubelet;
mod rate;
mod row;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use console::Term;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};

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
    let client = connect::client(global).await?;
    let mut looks = tokio::time::interval(Duration::from_secs(options.interval));
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut rates = BTreeMap::new();
    let mut told = BTreeSet::new();
    looks.tick().await;
    look(&client, &options, &mut rates, &mut told).await?;
    loop {
        looks.tick().await;
        let rows = look(&client, &options, &mut rates, &mut told).await?;
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

/// What containers do now; `told` are the nodes whose silence was told of.
async fn look(
    client: &Client,
    options: &Options,
    rates: &mut BTreeMap<Key, Rates>,
    told: &mut BTreeSet<String>,
) -> Result<Vec<Row>> {
    let pods = wanted(client, options).await?;
    let nodes = pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone());
    let nodes: BTreeSet<String> = nodes.collect();
    let answers: Vec<(String, Result<BTreeMap<Key, Sample>>)> = stream::iter(&nodes)
        .map(async |node| (node.clone(), kubelet::samples(client, node).await))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut samples = BTreeMap::new();
    let mut silent = 0;
    for (node, answer) in answers {
        match answer {
            Ok(found) => samples.extend(found),
            Err(error) => {
                silent += 1;
                if told.insert(node.clone()) {
                    eprintln!("berth: node {node} does not tell: {}", chain(&error));
                }
            }
        }
    }
    if silent > 0 && silent == nodes.len() {
        let hint = "it takes `get` on `nodes/proxy`; `kubectl top` shows CPU and memory without";
        return Err(Failure::new(Exit::Failed, "no node tells what it runs", hint).into());
    }
    let now = Timestamp::now();
    let mut rows = row::of(&pods, &samples, rates, now);
    rates.retain(|key, _| samples.contains_key(key));
    options.sort.order(&mut rows);
    Ok(rows)
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
