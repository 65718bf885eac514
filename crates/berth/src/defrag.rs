//! `berth defrag`: which pods to move so that nodes become empty; and, when told to, moving them.

use std::path::PathBuf;

use anyhow::{Context, Result};
use berth_controllers::scheduler::{self, Aim, Plan, Step};

use crate::cli::Global;
use crate::failure::{Exit, Failure};
use crate::output::columns;
use crate::{connect, scheduler as own};

/// `berth defrag`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Empty nodes until no more than so many are in use
    #[arg(long, value_name = "N", conflicts_with = "free")]
    target_nodes: Option<usize>,
    /// Empty this node and no other
    #[arg(long, value_name = "NODE")]
    free: Option<String>,
    /// Move no more pods than this
    #[arg(long, value_name = "N", default_value_t = 50)]
    max_moves: usize,
    /// Move them: one at a time through the eviction API, until the first surprise
    #[arg(long)]
    apply: bool,
    /// The scheduler's configuration file, where it has one [default: Kubernetes' default profile]
    #[arg(long)]
    config: Option<PathBuf>,
}

/// Plans, prints, and moves if told to.
///
/// # Errors
/// When nothing answers, a node is not known, or a move surprises.
pub async fn run(global: &Global, options: Options) -> Result<()> {
    let config = own::config_of(options.config.as_deref())?;
    let client = connect::client(global).await?;
    let aim = Aim {
        free: options.free.clone(),
        target_nodes: options.target_nodes,
        most_moves: options.max_moves,
    };
    let plan = scheduler::defrag(&client, &config, &aim).await.context("planning")?;
    global.output.print(&plan, || show(&plan))?;
    if let Some(free) = &options.free
        && plan.freed.is_empty()
    {
        let why = plan.kept.get(free).map_or("it is unknown or empty", String::as_str);
        let message = format!("{free} cannot be emptied: {why}");
        let hint = "make room elsewhere, raise --max-moves, or drain it by hand";
        return Err(Failure::new(Exit::Failed, message, hint).into());
    }
    if !options.apply {
        return Ok(());
    }
    let stop = async {
        if let Err(error) = berth_daemon::wait_for_end().await {
            eprintln!("signals cannot be heard, so this cannot be interrupted: {error}");
            std::future::pending::<()>().await;
        }
    };
    let tell = |step: Step<'_>| match step {
        Step::Begun(each) => eprintln!("moving {}/{} off {}", each.namespace, each.pod, each.from),
        Step::Done(each, node) if each.to == node => eprintln!("  ready on {node}"),
        Step::Done(each, node) => eprintln!("  ready on {node} rather than {}", each.to),
        Step::Freed(node) => eprintln!("{node} is empty, and stays cordoned"),
    };
    let moved = scheduler::carry_out(&client, &plan, stop, tell).await;
    moved.context("stopped; what was moved stays moved, and another run plans anew")
}

fn show(plan: &Plan) -> String {
    let moves: Vec<Vec<String>> = plan
        .moves
        .iter()
        .enumerate()
        .map(|(at, each)| {
            let pod = format!("{}/{}", each.namespace, each.pod);
            vec![(at + 1).to_string(), pod, each.from.clone(), each.to.clone()]
        })
        .collect();
    let (before, after) = (&plan.before, &plan.after);
    let gib = |bytes: i64| format!("{:.1}Gi", bytes as f64 / f64::from(1 << 30));
    let cores = |milli: i64| format!("{:.1}", milli as f64 / 1000.0);
    let row = |name: &str, one: String, other: String| vec![name.to_owned(), one, other];
    let mut rows = vec![
        row("nodes in use", before.nodes_in_use.to_string(), after.nodes_in_use.to_string()),
        row("empty nodes", before.nodes_empty.to_string(), after.nodes_empty.to_string()),
        row("most cores free on one", cores(before.most_cpu_milli), cores(after.most_cpu_milli)),
        row("most memory free on one", gib(before.most_memory_bytes), gib(after.most_memory_bytes)),
    ];
    if before.gpus_free > 0 {
        let of = |most: i64, all: i64| format!("{most} of {all}");
        rows.push(row(
            "most GPUs free on one",
            of(before.most_gpus, before.gpus_free),
            of(after.most_gpus, after.gpus_free),
        ));
    }
    let mut text = columns(&["", "NOW", "THEN"], &rows);
    if moves.is_empty() {
        text.push_str("\nnothing to move\n");
    } else {
        text.push('\n');
        text.push_str(&columns(&["STEP", "POD", "FROM", "TO"], &moves));
    }
    if !plan.kept.is_empty() {
        let kept: Vec<Vec<String>> =
            plan.kept.iter().map(|(node, why)| vec![node.clone(), why.clone()]).collect();
        text.push('\n');
        text.push_str(&columns(&["LEFT ALONE", "BECAUSE"], &kept));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_without_moves_says_so_and_why() {
        let kept = [("n1".to_owned(), "web/a is nobody's".to_owned())].into();
        let text = show(&Plan { kept, ..Plan::default() });
        assert!(text.contains("nothing to move") && text.contains("n1           web/a"), "{text}");
    }
}
