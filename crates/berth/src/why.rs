//! `berth why`: where a pod goes or went, and what stands in the way of one that waits.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use berth_controllers::scheduler::{self, Rating, Share, Why};

use crate::cli::Global;
use crate::failure::{Exit, Failure};
use crate::output::columns;
use crate::{connect, scheduler as own};

/// `berth why`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// The pod
    pod: String,
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The scheduler's configuration file, where it has one [default: Kubernetes' default profile]
    #[arg(long)]
    config: Option<PathBuf>,
}

/// Prints it.
///
/// # Errors
/// When nothing answers, there is no such pod, or the configuration is wrong.
pub async fn run(global: &Global, options: Options) -> Result<()> {
    let config = own::config_of(options.config.as_deref())?;
    let client = connect::client(global).await?;
    let found = scheduler::why(&client, &config, &options.namespace, &options.pod).await;
    let found = found.context("asking for the pod's decision")?;
    let why = found.ok_or_else(|| {
        let message = format!("there is no pod {} in {}", options.pod, options.namespace);
        Failure::new(Exit::Failed, message, "name its namespace with -n")
    })?;
    global.output.print(&why, || show(&why))
}

fn show(why: &Why) -> String {
    let mut text = String::new();
    let mut line = |text_line: &str| {
        writeln!(text, "{text_line}").expect("a string takes what is written to it");
    };
    line(&format!("pod       {}/{}", why.namespace, why.pod));
    line(&format!("profile   {}", why.profile));
    match (&why.node, &why.decision) {
        (Some(node), _) => line(&format!("node      {node}")),
        (None, Some(node)) => line(&format!("node      none yet; it would go to {node}")),
        (None, None) => line("node      none"),
    }
    line(&format!("passed    {} of {} nodes", why.passed, why.nodes));
    if let Some(standing) = &why.standing {
        line(&format!(
            "standing  {} of {} as things are now, with {} points",
            standing.place, why.passed, standing.total
        ));
    } else if why.node.is_some() {
        line("standing  as things are now, its node would not take it");
    }
    if let Some(message) = &why.message {
        line(&format!("\n{message}"));
    }
    if !why.filters.is_empty() {
        line(&format!("\n{}", columns(&["FILTER", "NODES"], &rows(&why.filters)).trim_end()));
        line(&format!("\n{}", columns(&["REASON", "NODES"], &rows(&why.reasons)).trim_end()));
    }
    if !why.best.is_empty() {
        line(&format!("\n{}", best(&why.best).trim_end()));
    }
    for (title, list) in [("what would help", &why.remedies), ("notes", &why.notes)] {
        if !list.is_empty() {
            line(&format!("\n{title}:"));
            list.iter().for_each(|each| line(&format!("- {each}")));
        }
    }
    text
}

fn rows(shares: &[Share]) -> Vec<Vec<String>> {
    shares.iter().map(|share| vec![share.name.clone(), share.nodes.to_string()]).collect()
}

/// A row for each score, a column for each node: `value × weight`.
fn best(best: &[Rating]) -> String {
    let mut header = vec!["SCORE × WEIGHT"];
    header.extend(best.iter().map(|rating| rating.node.as_str()));
    let scores = best.first().map(|rating| rating.scores.as_slice()).unwrap_or_default();
    let mut rows: Vec<Vec<String>> = scores
        .iter()
        .map(|score| {
            let of = |rating: &Rating| {
                let same = rating.scores.iter().find(|other| other.score == score.score);
                same.map_or_else(|| "-".to_owned(), |same| same.value.to_string())
            };
            let first = format!("{} × {}", score.score, score.weight);
            std::iter::once(first).chain(best.iter().map(of)).collect()
        })
        .collect();
    let totals = best.iter().map(|rating| rating.total.to_string());
    rows.push(std::iter::once("total".to_owned()).chain(totals).collect());
    columns(&header, &rows)
}

#[cfg(test)]
mod tests {
    use berth_controllers::scheduler::Worth;

    use super::*;

    fn why() -> Why {
        let share = |name: &str, nodes| Share { name: name.into(), nodes };
        Why {
            namespace: "default".into(),
            pod: "web".into(),
            scheduler: "berth".into(),
            profile: "berth".into(),
            node: None,
            decision: None,
            message: Some("0/2 nodes are available: 2 Insufficient cpu.".into()),
            nodes: 2,
            passed: 0,
            filters: vec![share("NodeResourcesFit", 2)],
            reasons: vec![share("Insufficient cpu", 2)],
            best: Vec::new(),
            standing: None,
            remedies: vec!["ask for less".into()],
            notes: Vec::new(),
        }
    }

    #[test]
    fn a_pending_pod_is_shown_with_what_refuses_it_and_what_would_help() {
        let text = show(&why());
        for line in [
            "pod       default/web",
            "node      none",
            "passed    0 of 2 nodes",
            "0/2 nodes are available: 2 Insufficient cpu.",
            "NodeResourcesFit   2",
            "- ask for less",
        ] {
            assert!(text.lines().any(|own| own == line), "{line} in {text}");
        }
    }

    #[test]
    fn scores_stand_beside_each_other_by_node() {
        let rating = |node: &str, value| Rating {
            node: node.into(),
            total: 3 * value,
            scores: vec![Worth { score: "TaintToleration", value, weight: 3 }],
        };
        let text = best(&[rating("a", 100), rating("b", 50)]);
        assert_eq!(
            text,
            "SCORE × WEIGHT        a     b\n\
             TaintToleration × 3   100   50\n\
             total                 300   150\n"
        );
    }
}
