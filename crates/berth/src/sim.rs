//! `berth sim`: rehearsals of scheduling policies, and hollow nodes.

mod cluster;
mod policy;
mod promote;
mod replay;
mod shadow;

use std::path::PathBuf;

use anyhow::{Context, Result};
use berth_sim::{Recording, live, openb};
use clap::{Args, Subcommand};

use crate::cli::{Global, on_one_thread};
use crate::connect;

/// What `berth sim` takes.
#[derive(Args, Debug)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Record a live cluster to a file
    Record(RecordOptions),
    /// Make a recording of a published trace
    #[command(subcommand)]
    Import(Import),
    /// Replay a recording under a policy
    Run(replay::RunOptions),
    /// Replay a recording under two policies and show the difference
    Compare(replay::CompareOptions),
    /// Let policies decide beside the live scheduler, binding nothing, and compare
    Shadow(shadow::Options),
    /// Configure the scheduler as a policy that a shadow has rehearsed
    Promote(promote::Options),
    /// Register hollow nodes, which acknowledge pods and run none
    Cluster(cluster::Options),
}

#[derive(Args, Debug)]
struct RecordOptions {
    /// The recording
    file: PathBuf,
    /// Replace names, labels and owners by numbers
    #[arg(long)]
    anonymise: bool,
}

#[derive(Subcommand, Debug)]
enum Import {
    /// The openb trace, published with FGD (USENIX ATC '23)
    Openb {
        /// Where its tables are
        directory: PathBuf,
        /// Which list of pods: default, cpu250, …
        #[arg(long, default_value = "default")]
        workload: String,
        /// The recording
        file: PathBuf,
    },
}

/// Does what the words say.
///
/// # Errors
/// Whatever could not be read, written or asked.
pub fn run(global: &Global, options: Options) -> Result<()> {
    match options.command {
        Command::Record(options) => on_one_thread(record(global, options)),
        Command::Import(Import::Openb { directory, workload, file }) => {
            keep(global, &openb::import(&directory, &workload)?, &file)
        }
        Command::Run(options) => replay::run(global, &options),
        Command::Compare(options) => replay::compare(global, &options),
        Command::Shadow(options) => shadow::run(global, options),
        Command::Promote(options) => promote::run(global, &options),
        Command::Cluster(options) => cluster::run(global, options),
    }
}

async fn record(global: &Global, options: RecordOptions) -> Result<()> {
    let client = connect::client(global).await?;
    let mut recording = live::record(&client, "a live cluster").await?;
    if options.anonymise {
        recording = recording.anonymised();
    }
    keep(global, &recording, &options.file)
}

fn keep(global: &Global, recording: &Recording, file: &std::path::Path) -> Result<()> {
    recording.write(file).with_context(|| format!("writing {}", file.display()))?;
    let counts = serde_json::json!({
        "file": file,
        "nodes": recording.nodes.len(),
        "pods": recording.pods.len(),
        "budgets": recording.budgets.len(),
        "uses": recording.uses.len(),
    });
    let (nodes, pods) = (recording.nodes.len(), recording.pods.len());
    let line = || format!("{}: {nodes} nodes, {pods} pods\n", file.display());
    global.output.print(&counts, line)
}
