//! What went wrong, as people and scripts see it: one line, what to do, an exit code.

use std::fmt;
use std::process::ExitCode;

/// Exit codes; the README documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Anything without a code of its own.
    Failed = 1,
    /// The machine lacks something: root, containerd, cgroups, disk.
    Machine = 3,
    /// A port, a data directory or a pod range is in use.
    InUse = 4,
    /// Nothing answers: `berth up` is not running.
    NotRunning = 5,
    /// A deployment did not come up.
    Rollout = 6,
}

/// An error that knows its exit code and what to do about it.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
    hint: String,
}

impl Failure {
    /// `message` says what was wrong, `hint` what to do (may be empty).
    pub fn new(exit: Exit, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Prints the chain once and turns it into an exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    // A reader that went away (`berth status | head`) is no failure.
    if error.chain().any(is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    eprintln!("berth: {}", chain(error));
    let known = error.chain().find_map(|cause| cause.downcast_ref::<Failure>());
    if let Some(failure) = known
        && !failure.hint.is_empty()
    {
        eprintln!("       {}", failure.hint);
    }
    ExitCode::from(known.map_or(Exit::Failed, |failure| failure.exit) as u8)
}

fn is_broken_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The messages from the outermost to the cause; one that its outer already says is left out.
pub fn chain(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = match cause.downcast_ref::<kube::Error>() {
            // Its own words hold the whole object in the notation of Rust.
            Some(kube::Error::Api(status)) => status.message.clone(),
            _ => cause.to_string(),
        };
        let whole = matches!(cause.downcast_ref(), Some(kube::Error::Api(_)));
        if line.ends_with(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
        if whole {
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_one_line_and_says_nothing_twice() {
        let error = anyhow::anyhow!("no such file").context("reading a").context("starting");
        assert_eq!(chain(&error), "starting: reading a: no such file");
        let status = kube::core::Status::failure("pod x is away", "NotFound");
        let refused = anyhow::Error::from(kube::Error::Api(status.boxed()));
        assert_eq!(chain(&refused.context("logs")), "logs: pod x is away");
        let doubled = anyhow::anyhow!("x").context("reading: x");
        assert_eq!(chain(&doubled), "reading: x");
    }
}
