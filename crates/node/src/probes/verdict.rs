//! From single answers to a verdict: thresholds, and what a container without a probe counts as.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Probe};

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    /// The probe of this kind.
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }

    /// The word in events.
    pub fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// What one question came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Success,
    Failure(String),
    /// It could not be asked: says nothing about the container.
    Unknown,
}

/// Counts answers in a row.
#[derive(Clone, Debug)]
pub(crate) struct Thresholds {
    success: u32,
    failure: u32,
    in_row: u32,
    last: Option<bool>,
}

impl Thresholds {
    /// The thresholds of a probe; the API's defaults are 1 and 3.
    pub fn of(probe: &Probe) -> Self {
        let count = |given: Option<i32>, default: u32| {
            given.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default)
        };
        Self {
            success: count(probe.success_threshold, 1),
            failure: count(probe.failure_threshold, 3),
            in_row: 0,
            last: None,
        }
    }

    /// Takes one answer; a verdict when enough of the same came in a row.
    pub fn count(&mut self, success: bool) -> Option<bool> {
        self.in_row = if self.last == Some(success) { self.in_row.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let needed = if success { self.success } else { self.failure };
        (self.in_row >= needed).then_some(success)
    }

    /// Whether a single success settles it.
    pub fn is_one_success_enough(&self) -> bool {
        self.success == 1
    }
}

/// The verdicts on the containers of one pod, by container id.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProbeResults(BTreeMap<(String, Kind), Verdict>);

/// A probe's verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub success: bool,
    pub message: String,
}

impl ProbeResults {
    /// A verdict came in.
    pub fn set(&mut self, id: &str, kind: Kind, success: bool, message: String) {
        self.0.insert((id.to_owned(), kind), Verdict { success, message });
    }

    /// Forgets every container that `keep` does not want.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|(id, _), _| keep(id));
    }

    fn is(&self, id: &str, kind: Kind) -> Option<bool> {
        self.0.get(&(id.to_owned(), kind)).map(|verdict| verdict.success)
    }

    /// Whether a running container is past its startup probe.
    pub fn started(&self, container: &Container, id: &str) -> bool {
        container.startup_probe.is_none() || self.is(id, Kind::Startup) == Some(true)
    }

    /// Whether a running container may get traffic: no verdict yet is a no.
    pub fn ready(&self, container: &Container, id: &str) -> bool {
        self.started(container, id)
            && (container.readiness_probe.is_none() || self.is(id, Kind::Readiness) == Some(true))
    }

    /// The probe by whose verdict a container must be restarted.
    pub fn fatal(&self, id: &str) -> Option<Kind> {
        [Kind::Startup, Kind::Liveness].into_iter().find(|kind| self.is(id, *kind) == Some(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_needs_enough_answers_in_a_row() {
        let probe =
            Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut thresholds = Thresholds::of(&probe);
        for (answer, verdict) in [
            (true, None),
            (true, Some(true)),
            (false, None),
            (false, None),
            (true, None),
            (false, None),
            (false, None),
            (false, Some(false)),
            (false, Some(false)),
        ] {
            assert_eq!(thresholds.count(answer), verdict);
        }
    }

    #[test]
    fn a_container_without_a_verdict_is_not_ready() {
        let container =
            Container { readiness_probe: Some(Probe::default()), ..Container::default() };
        let mut results = ProbeResults::default();
        assert!(!results.ready(&container, "a"));
        results.set("a", Kind::Readiness, true, String::new());
        assert!(results.ready(&container, "a"));
        assert!(results.ready(&Container::default(), "b"));
    }
}
