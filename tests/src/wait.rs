//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks at a condition, and longer after a look that takes long: what is looked at
/// needs the machine more.
const LOOK: Duration = Duration::from_millis(20);

/// Looks again and again until `condition` holds, at most for `patience`; how long it took.
///
/// # Errors
/// When the patience ends; `what` names the condition.
pub fn until(
    what: &str,
    patience: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<Duration> {
    within(what, patience, || condition().then_some(())).map(|(took, ())| took)
}

/// As [`until`], for a condition that brings something along.
///
/// # Errors
/// When the patience ends; `what` names the condition.
pub fn within<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> Result<(Duration, T)> {
    let begun = Instant::now();
    loop {
        let looked = Instant::now();
        if let Some(found) = look() {
            return Ok((begun.elapsed(), found));
        }
        if begun.elapsed() > patience {
            bail!("after {patience:?} still not: {what}");
        }
        std::thread::sleep(LOOK.max(looked.elapsed() * 2));
    }
}
