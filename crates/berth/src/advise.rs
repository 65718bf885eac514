//! `berth advise`: what workloads ask for, what they use, and what they should ask for.

use anyhow::Result;
use berth_api::Quantity;
use berth_controllers::advice::{self, DAYS, Row};

use crate::cli::Global;
use crate::connect;
use crate::failure::{Exit, Failure};
use crate::output::columns;

/// `berth advise`.
#[derive(clap::Args, Debug)]
pub struct Options {
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// How far to look back, in days
    #[arg(long, default_value = "7d", value_parser = days)]
    window: i64,
}

fn days(text: &str) -> Result<i64, String> {
    let number = text.strip_suffix('d').and_then(|number| number.parse::<i64>().ok());
    let right = number.filter(|days| (1..=DAYS).contains(days));
    right.ok_or_else(|| format!("1d to {DAYS}d: no more is remembered, and no less told apart"))
}

/// Prints it.
///
/// # Errors
/// When nothing answers, or nothing was measured yet.
pub async fn run(global: &Global, options: Options) -> Result<()> {
    let client = connect::client(global).await?;
    let namespace = (!options.all_namespaces).then_some(options.namespace.as_str());
    let rows = advice::look(&client, namespace, options.window).await?;
    if rows.is_empty() {
        let message = "no workload here was measured yet".to_owned();
        let hint = "use is looked at every minute and written every five; on a Kubernetes of \
                    your own it takes metrics.k8s.io and `berth scheduler --advice`";
        return Err(Failure::new(Exit::Failed, message, hint).into());
    }
    global.output.print(&rows, || show(&rows))
}

fn show(rows: &[Row]) -> String {
    let cpu = |milli: i64| Quantity::from_millis(milli).to_string();
    let mib = |bytes: i64| format!("{}Mi", bytes >> 20);
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let (own, memory) = (&row.cpu_milli, &row.memory_bytes);
            vec![
                row.namespace.clone(),
                row.workload.clone(),
                row.container.clone(),
                row.pods.to_string(),
                or_none(own.requested.map(cpu)),
                format!("{}/{}/{}", cpu(own.p50), cpu(own.p95), cpu(own.p99)),
                cpu(own.recommended),
                or_none(memory.requested.map(mib)),
                format!("{}/{}/{}", mib(memory.p50), mib(memory.p95), mib(memory.p99)),
                mib(memory.recommended),
                format!("{:?}", row.confidence).to_lowercase(),
                or_none(row.killed_at_bytes.map(|at| format!("killed at {}", mib(at)))),
            ]
        })
        .collect();
    let header = [
        "NAMESPACE",
        "WORKLOAD",
        "CONTAINER",
        "PODS",
        "CPU",
        "P50/P95/P99",
        "ADVISED",
        "MEMORY",
        "P50/P95/P99",
        "ADVISED",
        "CONFIDENCE",
        "NOTE",
    ];
    let cores: i64 = rows.iter().map(|row| row.cpu_milli.saved).sum();
    let bytes: i64 = rows.iter().map(|row| row.memory_bytes.saved).sum();
    format!(
        "{}\nto save: {:.1} cores, {:.1} GiB (below nothing: lacking)\n",
        columns(&header, &lines),
        cores as f64 / 1000.0,
        bytes as f64 / f64::from(1 << 30)
    )
}

#[cfg(test)]
mod tests {
    use berth_controllers::advice::{Amount, Confidence};

    use super::*;

    #[test]
    fn a_window_is_in_days_that_are_remembered() {
        assert_eq!(days("7d"), Ok(7));
        for wrong in ["0d", "9d", "7", "7h", ""] {
            assert!(days(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_saved_is_summed() {
        let amount = |requested, recommended: i64, saved| Amount {
            requested,
            p50: 1,
            p95: 2,
            p99: 3,
            recommended,
            saved,
        };
        let row = Row {
            namespace: "shop".into(),
            workload: "Deployment/web".into(),
            container: "web".into(),
            pods: 3,
            cpu_milli: amount(Some(4000), 1150, 8600),
            memory_bytes: amount(None, 64 << 20, 0),
            memory_peak_bytes: 50 << 20,
            killed_at_bytes: Some(32 << 20),
            samples: 5000,
            confidence: Confidence::High,
        };
        let text = show(&[row]);
        for part in ["Deployment/web", "1m/2m/3m", "1150m", "high", "killed at 32Mi", "8.6 cores"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
