//! When no release may start, and what may all the same.
//!
//! A window is `FROM/UNTIL`, two times as RFC 3339 writes them or as [`recurring`] reads them, or
//! `always`; a reason may follow after a space. Several are separated by `;`. Exceptions are separated by commas: `NAMESPACE/APP`,
//! `NAMESPACE/*`, or `by:AUTHOR`. A window that cannot be read freezes: a typing error must not open
//! what was to be shut.

mod recurring;

use berth_api::release::Release;
use jiff::Timestamp;

/// What is written in one place: on the App, on its namespace, or for all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rule<'a> {
    /// Whose rule it is, for people.
    pub whose: &'a str,
    /// The windows.
    pub windows: &'a str,
    /// The exceptions.
    pub except: &'a str,
}

/// Why `release` may not start at `now`; `None` when it may.
pub fn frozen(rules: &[Rule<'_>], release: &Release, now: Timestamp) -> Option<String> {
    rules.iter().find_map(|rule| {
        if excepted(rule.except, release) {
            return None;
        }
        let windows = rule.windows.split(';').map(str::trim).filter(|window| !window.is_empty());
        windows
            .filter_map(|window| shut(window, now))
            .next()
            .map(|why| format!("{}: {why}", rule.whose))
    })
}

fn shut(window: &str, now: Timestamp) -> Option<String> {
    let (span, reason) = window.split_once(' ').unwrap_or((window, ""));
    let reason = reason.trim();
    let told = |until: &str| {
        let reason = if reason.is_empty() { "no releases" } else { reason };
        if until.is_empty() { reason.to_owned() } else { format!("{reason}, until {until}") }
    };
    if span == "always" {
        return Some(told(""));
    }
    let ends = span.split_once('/');
    if let Some((from, until)) = ends
        && let Some(inside) = recurring::is_in(from, until, now)
    {
        return inside.then(|| told(until));
    }
    let times = ends.and_then(|(from, until)| {
        Some((from.parse::<Timestamp>().ok()?, until.parse::<Timestamp>().ok()?))
    });
    match times {
        Some((from, until)) => (from <= now && now < until).then(|| told(&until.to_string())),
        None => Some(format!("`{span}` is no window: FROM/UNTIL or always is wanted")),
    }
}

fn excepted(except: &str, release: &Release) -> bool {
    let namespace = release.metadata.namespace.as_deref().unwrap_or_default();
    except.split(',').map(str::trim).filter(|one| !one.is_empty()).any(|one| {
        if let Some(author) = one.strip_prefix("by:") {
            return author == release.spec.author;
        }
        match one.split_once('/') {
            Some((ns, app)) => ns == namespace && (app == "*" || app == release.spec.app),
            None => one == release.spec.app,
        }
    })
}
