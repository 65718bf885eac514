//! Other people's clients at our server: `dnsperf`, which waits for answers, and `resperf`, which asks
//! more and more whether they come or not. What they say is printed; they say nothing of a server's
//! processor time, which the budgets are about.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Questions in the file; resperf asks each once.
const ASKED: u32 = 320_000;

/// Has both ask `port` for names below `names`.
///
/// # Errors
/// When one of them does not run, or questions are lost that should not be.
pub fn ask(dir: &Path, port: u16, names: u32) -> Result<()> {
    let mut text = String::new();
    for number in 0..ASKED {
        // A prime's multiples go over all names.
        let name = u64::from(number) * 49_999 % u64::from(names);
        writeln!(text, "n{name}.bench.example A")?;
    }
    let file = dir.join("questions");
    std::fs::write(&file, text)?;
    let (file, port) = (file.display().to_string(), port.to_string());
    let common = ["-s", "127.0.0.1", "-p", &port, "-d", &file];
    let (waits, drives) =
        (&["-l", "3", "-c", "4"], &["-r", "4", "-c", "0", "-m", "150000", "-t", "5"]);
    if let Some(said) = run(dir, "dnsperf", &[&common[..], waits].concat())? {
        let value = |what: &str| of(&said, what);
        let (lost, rate) = (value("Queries lost:")?, value("Queries per second:")?);
        eprintln!("dnsperf, 4 clients: {rate:.0}/s, {lost:.0} lost");
        ensure!(lost == 0.0, "dnsperf lost {lost} queries at ours");
    }
    if let Some(said) = run(dir, "resperf", &[&common[..], drives].concat())? {
        let (most, lost) = (of(&said, "Maximum throughput:")?, of(&said, "Lost at that point:")?);
        eprintln!("resperf: {most:.0}/s at most, {lost:.2} % lost then");
        ensure!(most > 1000.0, "resperf saw {most} answers a second at ours");
    }
    Ok(())
}

/// What a client says; `None` where it is not installed.
fn run(dir: &Path, name: &str, words: &[&str]) -> Result<Option<String>> {
    let path = Path::new("/usr/bin").join(name);
    if !path.exists() {
        eprintln!("{name} is not installed: no figure by it");
        return Ok(None);
    }
    // resperf leaves a file for gnuplot where it runs.
    let mut command = Command::new(&path);
    command.args(words).current_dir(dir).stdin(Stdio::null());
    let ran = command.output().with_context(|| format!("running {name}"))?;
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "{name} ended with {}: {said}", ran.status);
    Ok(Some(String::from_utf8_lossy(&ran.stdout).into_owned()))
}

/// The number behind `what`.
fn of(said: &str, what: &str) -> Result<f64> {
    let line = said.lines().find_map(|line| line.trim().strip_prefix(what));
    let word = line.and_then(|line| line.split_whitespace().next());
    let number = word.and_then(|word| word.trim_end_matches('%').parse().ok());
    number.with_context(|| format!("nothing is said behind {what:?}: {said}"))
}
