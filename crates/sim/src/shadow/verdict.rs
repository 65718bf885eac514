//! Whether what a shadow saw of a policy is enough to let it schedule, and what speaks for it.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{Report, Standing};

/// What a shadow must have seen at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Least {
    /// Pods that the policy decided about.
    pub pods: u64,
    /// Seconds watched.
    pub watched_s: u64,
    /// The oldest that the report may be, seconds.
    pub age_s: u64,
}

impl Default for Least {
    fn default() -> Self {
        // A hundred pods show a policy's way; an hour after the last look the cluster is another.
        Self { pods: 100, watched_s: 600, age_s: 3600 }
    }
}

/// Why nothing can be said of a policy yet, or nothing good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLittle {
    /// Nobody shadowed it.
    #[error("no policy of the shadow is called {name}; there are {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// It could not judge the cluster.
    #[error("{name} could not judge this cluster: {fault}")]
    Fault {
        /// Whose.
        name: String,
        /// Why.
        fault: String,
    },
    /// Too few pods came.
    #[error("{name} has decided about {seen} pods, {wanted} are wanted")]
    Pods {
        /// Whose.
        name: String,
        /// How many came.
        seen: u64,
        /// How many must.
        wanted: u64,
    },
    /// Not long enough.
    #[error("the shadow has watched for {seen_s} s, {wanted_s} s are wanted")]
    Watched {
        /// How long.
        seen_s: u64,
        /// How long it must.
        wanted_s: u64,
    },
    /// Too long ago.
    #[error("the shadow looked last at {at:.0}, more than {wanted_s} s ago")]
    Old {
        /// When it did.
        at: Timestamp,
        /// How long ago it may be.
        wanted_s: u64,
    },
    /// It leaves pods without a node that have one.
    #[error("{name} leaves {only_live} pods without a node that the live scheduler has placed")]
    Worse {
        /// Whose.
        name: String,
        /// How many.
        only_live: usize,
    },
}

/// What speaks for a policy, and what against.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Figures that are better than the live ones.
    pub better: Vec<String>,
    /// Figures that are worse.
    pub worse: Vec<String>,
}

/// Judges the policy called `name`.
///
/// # Errors
/// [`TooLittle`] names the first thing that is missing.
pub fn judge(
    report: &Report,
    name: &str,
    least: Least,
    now: Timestamp,
) -> Result<Verdict, TooLittle> {
    let whose = || name.to_owned();
    let Some(policy) = report.policies.iter().find(|each| each.policy == name) else {
        let known = report.policies.iter().map(|each| each.policy.clone()).collect();
        return Err(TooLittle::Unknown { name: whose(), known });
    };
    if let Some(fault) = &policy.fault {
        return Err(TooLittle::Fault { name: whose(), fault: fault.clone() });
    }
    if policy.decided < least.pods {
        return Err(TooLittle::Pods { name: whose(), seen: policy.decided, wanted: least.pods });
    }
    if report.watched_s < least.watched_s {
        let (seen_s, wanted_s) = (report.watched_s, least.watched_s);
        return Err(TooLittle::Watched { seen_s, wanted_s });
    }
    let oldest = SignedDuration::from_secs(i64::try_from(least.age_s).unwrap_or(i64::MAX));
    if now.duration_since(report.at) > oldest {
        return Err(TooLittle::Old { at: report.at, wanted_s: least.age_s });
    }
    if policy.only_live > 0 {
        return Err(TooLittle::Worse { name: whose(), only_live: policy.only_live });
    }
    Ok(verdict(&report.live, policy))
}

fn verdict(live: &Standing, policy: &Standing) -> Verdict {
    let mut verdict = Verdict::default();
    // By how much `ours` is better, and from how much on that is worth a line.
    let mut weigh = |what: &str, ours: f64, theirs: f64, better_by: f64, differs: f64| {
        let line = format!("{what} {theirs:.1} → {ours:.1}");
        if better_by >= differs {
            verdict.better.push(line);
        } else if better_by <= -differs {
            verdict.worse.push(line);
        }
    };
    let mut less = |what, ours: f64, theirs: f64, differs| {
        weigh(what, ours, theirs, theirs - ours, differs);
    };
    less("pods waiting", policy.waiting as f64, live.waiting as f64, 1.0);
    less("cores of no use, %", policy.cpu_fragments_percent, live.cpu_fragments_percent, 0.1);
    if let (Some(ours), Some(theirs)) = (policy.gpu_fragments_percent, live.gpu_fragments_percent) {
        less("devices of no use, %", ours, theirs, 0.1);
    }
    less("cores' deviation by node", policy.cpu_deviation, live.cpu_deviation, 0.5);
    let (ours, theirs) = (policy.empty_nodes as f64, live.empty_nodes as f64);
    weigh("empty nodes", ours, theirs, ours - theirs, 1.0);
    verdict
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (word, list) in [("better", &self.better), ("worse", &self.worse)] {
            for line in list {
                writeln!(f, "{word}: {line}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shadow::Counts;

    fn standing(policy: &str) -> Standing {
        let counts = Counts { decided: 100, ..Counts::default() };
        Standing {
            policy: policy.to_owned(),
            decided: counts.decided,
            same: 0,
            other: 0,
            refused: 0,
            waiting: 0,
            only_live: 0,
            displaced: 0,
            first_failure: None,
            cpu_percent: 50.0,
            gpu_percent: None,
            cpu_fragments_percent: 10.0,
            gpu_fragments_percent: None,
            cpu_deviation: 8.0,
            empty_nodes: 3,
            took: counts.took,
            fault: None,
        }
    }

    fn check(change: impl FnOnce(&mut Report), wanted: &str) {
        let at = Timestamp::UNIX_EPOCH;
        let mut report = Report {
            at,
            since: at,
            watched_s: 600,
            nodes: 10,
            pods: 100,
            live: standing("live"),
            policies: vec![standing("packed")],
        };
        change(&mut report);
        let now = at + SignedDuration::from_secs(3600);
        let said = match judge(&report, "packed", Least::default(), now) {
            Ok(verdict) => verdict.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(said, wanted);
    }

    #[test]
    fn too_little_is_refused_by_what_is_missing() {
        check(|_| (), "");
        check(
            |report| report.policies.clear(),
            "no policy of the shadow is called packed; there are ",
        );
        check(
            |report| report.policies[0].decided = 99,
            "packed has decided about 99 pods, 100 are wanted",
        );
        check(
            |report| report.watched_s = 599,
            "the shadow has watched for 599 s, 600 s are wanted",
        );
        check(
            |report| report.at -= SignedDuration::from_secs(1),
            "the shadow looked last at 1969-12-31T23:59:59Z, more than 3600 s ago",
        );
        check(
            |report| report.policies[0].fault = Some("shares".to_owned()),
            "packed could not judge this cluster: shares",
        );
        check(
            |report| report.policies[0].only_live = 2,
            "packed leaves 2 pods without a node that the live scheduler has placed",
        );
    }

    #[test]
    fn what_differs_is_better_or_worse() {
        check(
            |report| {
                report.live.waiting = 2;
                let policy = &mut report.policies[0];
                (policy.empty_nodes, policy.cpu_deviation) = (7, 40.0);
                policy.cpu_fragments_percent = 10.05;
            },
            "better: pods waiting 2.0 → 0.0\nbetter: empty nodes 3.0 → 7.0\n\
             worse: cores' deviation by node 8.0 → 40.0\n",
        );
    }
}
