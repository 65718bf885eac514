//! `./dev bench [NAME] [--json FILE]`: the stated budgets, each beside its peer from the same run.
//! A name is a group's, or what several begin with.
//!
//! Exits 0 whether budgets are met or missed, and 1 when something could not be measured.

mod budget;
mod conditions;
mod group_api;
mod group_balancer_l4;
mod group_balancer_l7;
mod group_console;
mod group_dns_sockets;
mod group_dns_xdp;
mod group_main;
mod group_policy;
mod group_scheduler;
mod peer;
mod server;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use budget::Budget;

/// A group's name, and what measures its budgets.
type Group = (&'static str, fn() -> Result<Vec<Budget>>);

const GROUPS: [Group; 9] = [
    ("main", group_main::measure),
    ("api", group_api::measure),
    ("policy", group_policy::measure),
    ("scheduler", group_scheduler::measure),
    ("dns-sockets", group_dns_sockets::measure),
    ("dns-xdp", group_dns_xdp::measure),
    ("balancer-l7", group_balancer_l7::measure),
    ("balancer-l4", group_balancer_l4::measure),
    ("console", group_console::measure),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `dns` means `dns-sockets` and `dns-xdp`.
fn is_of(group: &str, wanted: &str) -> bool {
    group.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn run() -> Result<()> {
    let (mut wanted, mut file) = (None, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => file = Some(words.next().context("--json wants a file")?),
            name if GROUPS.iter().any(|(known, _)| is_of(known, name)) => wanted = Some(word),
            _ => bail!("no group `{word}`; there are {:?}", GROUPS.map(|(name, _)| name)),
        }
    }
    let conditions = conditions::now()?;
    println!("{conditions}");
    let mut budgets = Vec::new();
    for (name, measure) in GROUPS {
        if wanted.as_deref().is_none_or(|wanted| is_of(name, wanted)) {
            let measured = measure().with_context(|| format!("measuring the group {name}"))?;
            measured.iter().for_each(|budget| println!("{budget}"));
            budgets.extend(measured);
        }
    }
    if let Some(file) = file {
        let all = serde_json::json!({ "conditions": conditions, "budgets": budgets });
        std::fs::write(&file, serde_json::to_string_pretty(&all)?)
            .with_context(|| format!("writing {file}"))?;
    }
    Ok(())
}
