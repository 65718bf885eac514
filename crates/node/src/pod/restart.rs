//! Whether and when an ended container is started again.
//!
//! The kubelet keeps its back-off in memory and forgets it on a restart; here each attempt carries
//! its own delay as an annotation, so the next start follows from the records alone.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::runtime::ContainerRecord;

const FIRST: Duration = Duration::from_secs(10);
const MOST: Duration = Duration::from_secs(300);
/// A container that ran this long has earned a fresh start.
const FORGET: Duration = Duration::from_secs(600);

/// The pod's restart policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    pub fn of_pod(pod: &Pod) -> Self {
        let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        Self::parse(policy.unwrap_or("Always"))
    }

    fn parse(text: &str) -> Self {
        match text {
            "Never" => Self::Never,
            "OnFailure" => Self::OnFailure,
            _ => Self::Always,
        }
    }

    /// An init container is over once it succeeded: `Always` reads as `OnFailure`.
    pub fn for_init(self) -> Self {
        if self == Self::Always { Self::OnFailure } else { self }
    }

    /// Whether a container that ended with `exit_code` starts again.
    pub fn restarts(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// Whether `container` starts again: its own rules first, its own policy, then the pod's.
pub(crate) fn restarts(container: &Container, pod_policy: RestartPolicy, exit_code: i32) -> bool {
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
        let applies = if codes.operator == "NotIn" { !listed } else { listed };
        if applies && rule.action == "Restart" {
            return true;
        }
    }
    container.restart_policy.as_deref().map_or(pod_policy, RestartPolicy::parse).restarts(exit_code)
}

/// When the attempt after `ended` may start, and the delay to write on it.
///
/// The first restart is immediate, then 10 s doubling to 5 min; ten minutes of running begin anew.
pub(crate) fn next_start(ended: &ContainerRecord) -> (Timestamp, Duration) {
    let finished = ended.finished_at.or(ended.created_at).unwrap_or(Timestamp::UNIX_EPOCH);
    let ran = ended
        .started_at
        .and_then(|started| Duration::try_from(finished.duration_since(started)).ok())
        .unwrap_or_default();
    let wait = if ran >= FORGET { Duration::ZERO } else { ended.restart_delay };
    let after = if wait.is_zero() { FIRST } else { (wait * 2).min(MOST) };
    (finished.saturating_add(wait).unwrap_or(Timestamp::MAX), after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(delay: u64, ran: i64) -> ContainerRecord {
        let finished = Timestamp::from_second(10_000).expect("a time");
        ContainerRecord {
            restart_delay: Duration::from_secs(delay),
            started_at: Some(Timestamp::from_second(10_000 - ran).expect("a time")),
            finished_at: Some(finished),
            ..ContainerRecord::default()
        }
    }

    #[test]
    fn restarts_wait_nothing_then_ten_seconds_doubling_to_five_minutes() {
        for (delay, ran, wait, after) in [
            (0, 1, 0, 10),
            (10, 1, 10, 20),
            (20, 1, 20, 40),
            (160, 1, 160, 300),
            (300, 1, 300, 300),
            (300, 600, 0, 10),
        ] {
            let (at, next) = next_start(&ended(delay, ran));
            assert_eq!(at.as_second(), 10_000 + wait, "after {delay} s and {ran} s of running");
            assert_eq!(next.as_secs(), after, "after {delay} s and {ran} s of running");
        }
    }

    #[test]
    fn policies_decide_by_exit_code() {
        for (policy, code, expected) in [
            (RestartPolicy::Always, 0, true),
            (RestartPolicy::OnFailure, 0, false),
            (RestartPolicy::OnFailure, 1, true),
            (RestartPolicy::Never, 1, false),
            (RestartPolicy::Always.for_init(), 0, false),
        ] {
            assert_eq!(policy.restarts(code), expected, "{policy:?} {code}");
        }
    }
}
