//! `berth report`: what a console has gathered, for people and for spreadsheets.

use anyhow::{Context, Result};
use berth_console::{By, Period, Usage, UsageRow};
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;

use crate::cli::Global;
use crate::console::Database;
use crate::failure::{Exit, Failure};
use crate::output::columns;

const DAY: i64 = 24 * 3_600_000;
/// No hour is kept longer.
const DAYS: i64 = 93;

/// `berth report`.
#[derive(Args, Debug)]
pub struct Options {
    #[command(subcommand)]
    word: Word,
}

#[derive(Subcommand, Debug)]
enum Word {
    /// What was asked for and what was used, as a console has measured it
    Usage(Asked),
}

#[derive(Args, Debug)]
struct Asked {
    /// A row for each of these
    #[arg(long, value_enum, default_value_t)]
    by: Of,
    /// Of this namespace alone
    #[arg(short, long, default_value = "")]
    namespace: String,
    /// The last so many days
    #[arg(long, default_value = "7d", value_parser = days, conflicts_with = "from")]
    last: i64,
    /// From this time on: 2026-03-01T00:00:00Z
    #[arg(long)]
    from: Option<Timestamp>,
    /// To this time instead of now
    #[arg(long)]
    to: Option<Timestamp>,
    /// As CSV
    #[arg(long)]
    csv: bool,
    #[command(flatten)]
    database: Database,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default)]
enum Of {
    #[default]
    App,
    Namespace,
    Cluster,
}

fn days(text: &str) -> Result<i64, String> {
    let number = text.strip_suffix('d').and_then(|number| number.parse::<i64>().ok());
    let right = number.filter(|days| (1..=DAYS).contains(days));
    right.ok_or_else(|| format!("1d to {DAYS}d: no more is kept"))
}

/// Prints it.
///
/// # Errors
/// When the database does not answer, or nothing was measured then.
pub async fn run(global: &Global, options: Options) -> Result<()> {
    let Word::Usage(asked) = options.word;
    let to = asked.to.unwrap_or_else(Timestamp::now).as_millisecond();
    let from = asked.from.map_or(to - asked.last * DAY, Timestamp::as_millisecond);
    let by = match asked.by {
        Of::App => By::App,
        Of::Namespace => By::Namespace,
        Of::Cluster => By::Cluster,
    };
    let period = Period { by, namespace: asked.namespace, from: Some(from), to: Some(to) };
    let pool = berth_console::open_database(&asked.database.address(global)?).await?;
    let rows = Usage::new(pool).report(&period).await.context("reading what was measured")?;
    if rows.is_empty() {
        let message = "nothing was measured then".to_owned();
        let hint = "a console that runs looks once a minute, where there is metrics.k8s.io";
        return Err(Failure::new(Exit::Failed, message, hint).into());
    }
    if asked.csv {
        print!("{}", berth_console::usage_csv(&rows));
        return Ok(());
    }
    global.output.print(&rows, || show(&rows))
}

fn show(rows: &[UsageRow]) -> String {
    let percent = |idle: Option<f64>| match idle {
        Some(idle) => format!("{:.0} %", idle * 100.0),
        None => "-".to_owned(),
    };
    let or_all = |name: &str| if name.is_empty() { "-".to_owned() } else { name.to_owned() };
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let mut line =
                vec![or_all(&row.namespace), or_all(&row.app), format!("{:.1}", row.hours)];
            for resource in [&row.cpu, &row.memory] {
                line.push(format!("{:.2}", resource.requested));
                line.push(format!("{:.2}", resource.used));
                line.push(format!("{:.2}", resource.p95));
                line.push(percent(resource.idle));
            }
            line
        })
        .collect();
    let header =
        ["NAMESPACE", "APP", "HOURS", "CORES", "USED", "P95", "IDLE", "GIB", "USED", "P95", "IDLE"];
    columns(&header, &lines)
}

#[cfg(test)]
mod tests {
    use berth_console::Resource;

    use super::*;

    #[test]
    fn a_row_says_what_lies_idle() {
        let resource = |idle| Resource { requested: 4.0, used: 1.0, idle, ..Resource::default() };
        let row = UsageRow {
            namespace: "shop".to_owned(),
            app: String::new(),
            hours: 168.0,
            cpu: resource(Some(0.75)),
            memory: resource(None),
        };
        let text = show(&[row]);
        let cells: Vec<&str> = text.lines().nth(1).unwrap().split("   ").collect();
        assert!(text.contains("75 %") && text.contains("168.0"), "{text}");
        assert_eq!((cells[0], cells.last().map(|cell| cell.trim())), ("shop", Some("-")), "{text}");
    }

    #[test]
    fn no_more_days_than_are_kept() {
        assert_eq!(days("30d"), Ok(30));
        for wrong in ["0d", "94d", "7", ""] {
            assert!(days(wrong).is_err(), "{wrong}");
        }
    }
}
