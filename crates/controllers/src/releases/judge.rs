//! Whether a release does well: what Prometheus answers, held against what a check asks for.
//!
//! No answer counts as a wrong one: a version that cannot be judged is not promoted.

use std::time::Duration;

use berth_api::answers::Count;
use berth_api::app::Check;
use berth_api::release::{Answers, Measured, StepStatus};
use jiff::Timestamp;
use serde_json::Value;

/// One answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The check's name.
    pub check: String,
    /// The number, or why there is none.
    pub value: Result<f64, String>,
    /// When it was asked.
    pub at: Timestamp,
}

/// Writes `readings` into `step`; why the release fails, if it does.
pub fn take_in(checks: &[Check], readings: &[Reading], step: &mut StepStatus) -> Option<String> {
    for reading in readings {
        let Some(check) = checks.iter().find(|check| check.name == reading.check) else { continue };
        let known = step.checks.iter().position(|one| one.name == check.name);
        let index = known.unwrap_or_else(|| {
            step.checks.push(Measured { name: check.name.clone(), ..Measured::default() });
            step.checks.len() - 1
        });
        let measured = &mut step.checks[index];
        measured.at = reading.at.to_string();
        measured.value = reading.value.as_ref().ok().copied().filter(|value| value.is_finite());
        measured.message = reading.value.clone().err().unwrap_or_default();
        if measured.value.is_some_and(|value| holds(check, value)) {
            measured.good += 1;
            measured.bad = 0;
        } else {
            measured.bad += 1;
        }
    }
    checks.iter().find_map(|check| {
        let measured = step.checks.iter().find(|one| one.name == check.name)?;
        (measured.bad >= check.failures).then(|| complaint(check, measured))
    })
}

/// Adds to `step` what the balancer counted since the last time.
pub fn count(step: &mut StepStatus, counted: Count, now: Timestamp) {
    if counted.answers < 1.0 {
        return;
    }
    let before = step.answers.take().unwrap_or_default();
    let requests = before.requests + counted.answers.round() as i64;
    let failures = before.failures + counted.failures.round() as i64;
    let milliseconds = before.latency * before.requests as f64 + 1000.0 * counted.seconds;
    let rounded = |number: f64| (number * 100.0).round() / 100.0;
    step.answers = Some(Answers {
        requests,
        failures,
        success: rounded(100.0 * (requests - failures) as f64 / requests as f64),
        latency: rounded(milliseconds / requests as f64),
        at: now.to_string(),
    });
}

fn holds(check: &Check, value: f64) -> bool {
    check.min.is_none_or(|min| value >= min) && check.max.is_none_or(|max| value <= max)
}

fn complaint(check: &Check, measured: &Measured) -> String {
    let said = match measured.value {
        Some(value) => value.to_string(),
        None if measured.message.is_empty() => "no number".to_owned(),
        None => measured.message.clone(),
    };
    let limits = match (check.min, check.max) {
        (Some(min), Some(max)) => format!("between {min} and {max}"),
        (Some(min), None) => format!("at least {min}"),
        (None, Some(max)) => format!("at most {max}"),
        (None, None) => "any number".to_owned(),
    };
    let times = measured.bad;
    format!("check {} says {said}, {limits} is wanted ({times} times in a row)", check.name)
}

/// The checks to ask now, and when the next is due.
pub fn due(checks: &[Check], step: &StepStatus, now: Timestamp) -> (Vec<usize>, Duration) {
    let mut ask = Vec::new();
    let mut next = i64::MAX;
    for (index, check) in checks.iter().enumerate() {
        let last = step.checks.iter().find(|one| one.name == check.name);
        let since = last
            .and_then(|measured| measured.at.parse::<Timestamp>().ok())
            .map(|at| now.duration_since(at).as_secs());
        match since {
            Some(since) if since < check.every_seconds => {
                next = next.min(check.every_seconds - since);
            }
            _ => {
                ask.push(index);
                next = next.min(check.every_seconds);
            }
        }
    }
    let next = if checks.is_empty() { 3600 } else { next.clamp(1, 3600) };
    (ask, Duration::from_secs(next.unsigned_abs()))
}

/// Whether every check has said yes since the step was reached, and none says no.
pub fn all_good(checks: &[Check], step: &StepStatus) -> bool {
    let reached: Option<Timestamp> = step.reached_at.as_deref().and_then(|at| at.parse().ok());
    checks.iter().all(|check| {
        step.checks.iter().any(|measured| {
            let at: Option<Timestamp> = measured.at.parse().ok();
            measured.name == check.name
                && measured.bad == 0
                && measured.good > 0
                && at.zip(reached).is_some_and(|(at, reached)| at >= reached)
        })
    })
}

/// The query with the App's own names in it.
pub fn query(check: &Check, namespace: &str, app: &str, revision: i64) -> String {
    check
        .query
        .replace("{{app}}", app)
        .replace("{{namespace}}", namespace)
        .replace("{{release}}", &revision.to_string())
}

/// The one number in an answer of `/api/v1/query`.
///
/// # Errors
/// What the answer is instead.
pub fn number(answer: &Value) -> Result<f64, String> {
    if answer["status"] != "success" {
        let error = answer["error"].as_str().unwrap_or("no answer of Prometheus");
        return Err(error.to_owned());
    }
    let data = &answer["data"];
    let sample = match data["resultType"].as_str() {
        Some("scalar") => &data["result"][1],
        Some("vector") => match data["result"].as_array().map_or(0, Vec::len) {
            1 => &data["result"][0]["value"][1],
            0 => return Err("no series answers the query".to_owned()),
            many => return Err(format!("{many} series answer the query; one is wanted")),
        },
        other => return Err(format!("{} is no number", other.unwrap_or("nothing"))),
    };
    let text = sample.as_str().unwrap_or_default();
    text.parse::<f64>().map_err(|_| format!("`{text}` is no number"))
}
