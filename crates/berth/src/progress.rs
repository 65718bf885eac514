//! Long work, shown: a bar or a spinner on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// One step of long work after another; each says what it does and how long it took.
pub struct Steps {
    begun: Instant,
    terminal: bool,
    bar: Option<ProgressBar>,
    doing: String,
    since: Instant,
}

impl Steps {
    /// Nothing shown yet.
    pub fn new() -> Self {
        let now = Instant::now();
        let terminal = std::io::stderr().is_terminal();
        Self { begun: now, terminal, bar: None, doing: String::new(), since: now }
    }

    /// Ends the step before, if any, and begins `what`.
    pub fn begin(&mut self, what: impl Into<String>) {
        self.done();
        self.doing = what.into();
        self.since = Instant::now();
        if self.terminal {
            let bar = ProgressBar::new_spinner().with_message(self.doing.clone());
            bar.enable_steady_tick(Duration::from_millis(100));
            self.bar = Some(bar);
        }
    }

    /// Shows how far the step is, in bytes.
    pub fn bytes(&mut self, done: u64, total: u64) {
        let Some(bar) = &self.bar else { return };
        if bar.length() != Some(total) {
            let shape = "{spinner} {msg} {bar:30} {bytes}/{total_bytes}";
            if let Ok(style) = ProgressStyle::with_template(shape) {
                bar.set_style(style);
            }
            bar.set_length(total);
        }
        bar.set_position(done);
    }

    /// Adds to what the step says of itself, `2 of 3 ready`.
    pub fn note(&mut self, note: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(format!("{}: {note}", self.doing)),
            None => eprintln!("  {}: {note}", self.doing),
        }
    }

    /// Ends the step well.
    pub fn done(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if !self.doing.is_empty() {
            let mark = if self.terminal { "\x1b[32m✓\x1b[0m" } else { "ok" };
            eprintln!("{mark} {} ({:.1} s)", self.doing, self.since.elapsed().as_secs_f32());
            self.doing.clear();
        }
    }

    /// Since the first step began.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        // A step that did not end well leaves no half-drawn bar behind its error.
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
