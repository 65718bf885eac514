//! Group `console`: what the web console costs, and how fast its page follows a cluster.
//!
//! A browser measures (console/stories/figures.mjs); here its figures get their goals. Nothing is
//! compared: Kubernetes brings no console.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use berth_tests::{Cluster, root};
use serde::Deserialize;
use serde_json::json;

use crate::budget::{Budget, median};

/// What the browser says at its end.
#[derive(Deserialize)]
struct Figures {
    paint_ms: Vec<f64>,
    javascript_kib: f64,
    change_ms: Vec<f64>,
    echo_ms: Vec<f64>,
    lines: Lines,
    consoles_cpu_percent: f64,
    bytes_per_second_each: f64,
    list_ms: f64,
    frames_ms: Frames,
}

/// What a pod prints for half a minute, and a page that follows it.
#[derive(Deserialize)]
struct Lines {
    written_per_second: f64,
    shown_per_second: f64,
    /// From a line's own time until it is shown: of the last one, and the longest.
    behind_ms: f64,
    most_behind_ms: f64,
    /// Of the last 20,000; below 0 when some are shown twice.
    lines_missing: f64,
    log_frame_ms: f64,
}

/// The longest time between two frames while something goes on.
#[derive(Deserialize)]
struct Frames {
    idle: f64,
    listed: f64,
    filtered: f64,
    scrolled: f64,
}

/// Measures the group on a cluster of its own.
pub fn measure() -> Result<Vec<Budget>> {
    if !berth_tests::can_run_clusters("./dev bench console") {
        bail!("it cannot be measured here");
    }
    let cluster = Cluster::new()?.with_console();
    cluster.start()?;
    let words = ["console", "account", "add", "admin", "--group", "berth:admins", "--generate"];
    let password = cluster.berth(&words)?.out;
    cluster.berth(&["deploy", "examples/hello", "--name", "hello"])?;
    let image = cluster.field("deployment/hello", "{.spec.template.spec.containers[0].image}")?;
    let ran = Command::new("node")
        .arg("console/stories/figures.mjs")
        .current_dir(root())
        .env("BERTH_CONSOLE", format!("https://localhost:{}", cluster.console().port()))
        .env("BERTH_PEOPLE", json!({ "admin": password.trim() }).to_string())
        .env("BERTH_API", format!("https://{}", cluster.api()))
        .env("BERTH_PKI", cluster.dir().join("pki"))
        .env("BERTH_IMAGE", image)
        .env("BERTH_CONSOLE_PID", console(&cluster)?.to_string())
        .stderr(Stdio::inherit())
        .output()
        .context("running node")?;
    let said = String::from_utf8_lossy(&ran.stdout);
    ensure!(ran.status.success(), "the browser's side failed:\n{said}");
    let figures: Figures = serde_json::from_str(said.trim()).context("the browser's figures")?;
    Ok(judged(figures))
}

fn judged(figures: Figures) -> Vec<Budget> {
    let Frames { idle, listed, filtered, scrolled } = figures.frames_ms;
    let lines = figures.lines;
    println!(
        "the longest frame of a page at rest took {idle:.0} ms, under a live log {:.0} ms",
        lines.log_frame_ms
    );
    println!("20,000 pods were listed after {:.0} ms", figures.list_ms);
    println!(
        "a pod wrote {:.0} lines a second for 30 s; at their end a line was on the page {:.0} ms \
         after it was written, {:.0} ms at most, and {:.0} of the last 20,000 were missing",
        lines.written_per_second, lines.behind_ms, lines.most_behind_ms, lines.lines_missing
    );
    println!("a console that is open got {:.0} bytes a second", figures.bytes_per_second_each);
    let worst = figures.change_ms.iter().copied().fold(0.0, f64::max);
    println!(
        "a change was on the page after {:.0} ms, {worst:.0} ms at most",
        median(&figures.change_ms)
    );
    let mut echoes = figures.echo_ms;
    echoes.sort_by(f64::total_cmp);
    let late = echoes.get(echoes.len() * 95 / 100).copied().unwrap_or(f64::INFINITY);
    println!("95 of 100 keys were on a shell's page after {late:.0} ms");
    vec![
        Budget::at_most("console-first-paint_ms", 1000.0, figures.paint_ms),
        Budget::at_most("console-javascript_kib", 350.0, vec![figures.javascript_kib]),
        Budget::at_most("console-20000-pods-listed-longest-frame_ms", 50.0, vec![listed]),
        Budget::at_most("console-20000-pods-filtered-longest-frame_ms", 50.0, vec![filtered]),
        Budget::at_most("console-20000-pods-scrolled-longest-frame_ms", 50.0, vec![scrolled]),
        // All of them, not their median.
        Budget::at_most("console-change-to-page-worst_ms", 300.0, vec![worst]),
        Budget::at_most("console-200-open-cpu_percent", 20.0, vec![figures.consoles_cpu_percent]),
        // The container's own echo is in it: the goal, 30 ms over that, is kept all the more.
        Budget::at_most("console-shell-echo_ms", 30.0, echoes),
        Budget::at_least("console-log-lines-per-second", 1000.0, vec![lines.shown_per_second]),
        Budget::at_most("console-log-behind-worst_ms", 1000.0, vec![lines.most_behind_ms]),
        Budget::at_most("console-log-lines-missing", 0.0, vec![lines.lines_missing.abs()]),
    ]
}

/// The process of this cluster's console.
fn console(cluster: &Cluster) -> Result<i32> {
    let port = format!(":{} ", cluster.console().port());
    for process in std::fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse() else { continue };
        let words = std::fs::read(Path::new(&process.path()).join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if words.contains(" console serve ") && words.contains(&port) {
            return Ok(pid);
        }
    }
    bail!("the console's process is not there")
}
