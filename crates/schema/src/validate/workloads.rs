//! What makes pods: their selectors, templates, counts and schedules.

use serde_json::{Value, json};

use super::labels;
use super::path::Path;
use super::rules::{Fields, at_least, list, not_negative, number, number_or_percent, object, text};
use crate::Cause;

/// The selector selects something, and what the template makes.
fn selection(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let Some(selector) = fields.get("selector").filter(|found| !found.is_null()) else {
        // No selector selects nothing, the template's pods neither.
        causes.push(Cause::required(path.field("selector"), ""));
        mismatch(path, fields, causes);
        return;
    };
    if selector.as_object().is_some_and(serde_json::Map::is_empty) {
        let wrong = "empty selector is invalid for deployment";
        causes.push(Cause::invalid(path.field("selector"), selector, wrong));
        return;
    }
    let made = fields.get("template").map_or(&Value::Null, |one| &one["metadata"]["labels"]);
    if fields.contains_key("template") && !labels::selects(selector, made) {
        mismatch(path, fields, causes);
    }
}

fn mismatch(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let made = fields.get("template").map_or(&Value::Null, |one| &one["metadata"]["labels"]);
    let here = path.field("template");
    let here = here.field("metadata");
    let shown = if made.is_null() { json!({}) } else { made.clone() };
    let wrong = "`selector` does not match template `labels`";
    causes.push(Cause::invalid(here.field("labels"), &shown, wrong));
}

/// The template's pods restart as the kind wants it.
fn restarts(path: &Path<'_>, fields: &Fields, allowed: &[&str], causes: &mut Vec<Cause>) {
    let spec = fields.get("template").map_or(&Value::Null, |template| &template["spec"]);
    let here = path.field("template");
    let here = here.field("spec");
    if let Some(policy) = spec["restartPolicy"].as_str()
        && !allowed.contains(&policy)
    {
        let here = here.field("restartPolicy");
        if policy == "Always" {
            causes.push(Cause::required(here, "valid values: \"OnFailure\", \"Never\""));
        } else {
            causes.push(Cause::not_supported(here, &json!(policy), allowed));
        }
    }
    if spec["activeDeadlineSeconds"].is_number() && allowed == ["Always"] {
        let wrong = "activeDeadlineSeconds in this kind is not Supported";
        causes.push(Cause::forbidden(here.field("activeDeadlineSeconds"), wrong));
    }
}

pub fn deployment(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let counts = ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"];
    not_negative(path, fields, &counts, causes);
    selection(path, fields, causes);
    restarts(path, fields, &["Always"], causes);
    let ready = number(fields, "minReadySeconds").unwrap_or(0);
    if let Some(deadline) = number(fields, "progressDeadlineSeconds").filter(|most| *most <= ready)
    {
        let wrong = "must be greater than minReadySeconds";
        causes.push(Cause::invalid(path.field("progressDeadlineSeconds"), &json!(deadline), wrong));
    }
    let Some(strategy) = object(fields, "strategy") else { return };
    let here = path.field("strategy");
    match (text(strategy, "type"), object(strategy, "rollingUpdate")) {
        ("Recreate", Some(_)) => {
            let wrong = "may not be specified when strategy `type` is 'Recreate'";
            causes.push(Cause::forbidden(here.field("rollingUpdate"), wrong));
        }
        ("RollingUpdate", Some(update)) => rolling(&here.field("rollingUpdate"), update, causes),
        _ => {}
    }
}

fn rolling(path: &Path<'_>, update: &Fields, causes: &mut Vec<Cause>) {
    let less = number_or_percent(path, update, "maxUnavailable", causes);
    let more = number_or_percent(path, update, "maxSurge", causes);
    if less.is_some_and(|(part, percent)| percent && part > 100) {
        let found = &update["maxUnavailable"];
        causes.push(Cause::invalid(
            path.field("maxUnavailable"),
            found,
            "must not be greater than 100%",
        ));
    }
    if let (Some((0, _)), Some((0, _))) = (less, more) {
        let found = &update["maxUnavailable"];
        let wrong = "may not be 0 when `maxSurge` is 0";
        causes.push(Cause::invalid(path.field("maxUnavailable"), found, wrong));
    }
}

pub fn replica_set(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    not_negative(path, fields, &["replicas", "minReadySeconds"], causes);
    selection(path, fields, causes);
    restarts(path, fields, &["Always"], causes);
}

pub fn replication_controller(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    not_negative(path, fields, &["replicas", "minReadySeconds"], causes);
    restarts(path, fields, &["Always"], causes);
    let selector = object(fields, "selector");
    if selector.is_none_or(serde_json::Map::is_empty) {
        causes.push(Cause::required(path.field("selector"), ""));
        return;
    }
    let wanted = json!({"matchLabels": selector});
    let made = fields.get("template").map_or(&Value::Null, |one| &one["metadata"]["labels"]);
    if !labels::selects(&wanted, made) {
        let here = path.field("template");
        let here = here.field("metadata");
        let wrong = "`selector` does not match template `labels`";
        causes.push(Cause::invalid(here.field("labels"), made, wrong));
    }
}

pub fn daemon_set(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    not_negative(path, fields, &["minReadySeconds", "revisionHistoryLimit"], causes);
    selection(path, fields, causes);
    restarts(path, fields, &["Always"], causes);
    let update = object(fields, "updateStrategy").and_then(|one| object(one, "rollingUpdate"));
    if let Some(update) = update {
        let here = path.field("updateStrategy");
        rolling(&here.field("rollingUpdate"), update, causes);
    }
}

pub fn stateful_set(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    not_negative(path, fields, &["replicas", "minReadySeconds", "revisionHistoryLimit"], causes);
    selection(path, fields, causes);
    restarts(path, fields, &["Always"], causes);
    if let Some(update) =
        object(fields, "updateStrategy").and_then(|one| object(one, "rollingUpdate"))
    {
        let here = path.field("updateStrategy");
        not_negative(&here.field("rollingUpdate"), update, &["partition"], causes);
    }
}

pub fn job(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let counts = [
        "parallelism",
        "completions",
        "backoffLimit",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    not_negative(path, fields, &counts, causes);
    restarts(path, fields, &["Never", "OnFailure"], causes);
    let indexed = text(fields, "completionMode") == "Indexed";
    if indexed && !fields.contains_key("completions") {
        let wrong = "when completion mode is Indexed";
        causes.push(Cause::required(path.field("completions"), wrong));
    }
    let selector = fields.get("selector");
    let made = fields.get("template").map_or(&Value::Null, |one| &one["metadata"]["labels"]);
    if let Some(selector) = selector.filter(|selector| !labels::selects(selector, made)) {
        // A selector that is still to be made has nothing to match.
        if selector.as_object().is_some_and(|selector| !selector.is_empty()) {
            let here = path.field("template");
            let here = here.field("metadata");
            let wrong = "`selector` does not match template `labels`";
            causes.push(Cause::invalid(here.field("labels"), made, wrong));
        }
    }
}

pub fn cron_job(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let counts =
        ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
    not_negative(path, fields, &counts, causes);
    let schedule = text(fields, "schedule");
    if let (false, Err(wrong)) = (schedule.is_empty(), cron(schedule)) {
        causes.push(Cause::invalid(path.field("schedule"), &json!(schedule), &wrong));
    }
    let zone = text(fields, "timeZone");
    if !zone.is_empty() && jiff::tz::TimeZone::get(zone).is_err() {
        let wrong = format!("unknown time zone {zone}");
        causes.push(Cause::invalid(path.field("timeZone"), &json!(zone), &wrong));
    }
    let template = fields.get("jobTemplate").map_or(&Value::Null, |one| &one["spec"]);
    let here = path.field("jobTemplate");
    let here = here.field("spec");
    if template["manualSelector"] == true {
        let wrong = "`selector` and `manualSelector` are set by the Job";
        causes.push(Cause::forbidden(here.field("manualSelector"), wrong));
    }
}

/// Five fields, each of numbers, names, ranges, lists and steps; or one of the known words.
fn cron(text: &str) -> Result<(), String> {
    const MONTHS: &str = "jan feb mar apr may jun jul aug sep oct nov dec";
    const DAYS: &str = "sun mon tue wed thu fri sat";
    if let Some(word) = text.strip_prefix('@') {
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
        if known.contains(&word) || word.starts_with("every ") {
            return Ok(());
        }
        return Err(format!("unrecognized descriptor: {text}"));
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: [{text}]", fields.len()));
    }
    let bounds = [(0, 59, ""), (0, 23, ""), (1, 31, ""), (1, 12, MONTHS), (0, 7, DAYS)];
    for (field, (least, most, words)) in fields.into_iter().zip(bounds) {
        for part in field.split(',') {
            cron_part(part, least, most, words)?;
        }
    }
    Ok(())
}

fn cron_part(part: &str, least: u32, most: u32, words: &str) -> Result<(), String> {
    let (range, step) =
        part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    let read = |text: &str| -> Result<u32, String> {
        let word =
            words.split(' ').position(|word| word == text.to_lowercase() && !word.is_empty());
        let number = match word {
            Some(at) => u32::try_from(at).unwrap_or(0) + least.min(1),
            None => text.parse().map_err(|_| format!("failed to parse int from {text}"))?,
        };
        if (least..=most).contains(&number) {
            return Ok(number);
        }
        Err(format!("value ({number}) is outside of the range ({least}-{most}): {part}"))
    };
    if let Some(step) = step
        && step.parse::<u32>().ok().is_none_or(|step| step == 0)
    {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    match range.split_once('-') {
        _ if range == "*" || range == "?" => Ok(()),
        Some((from, to)) if read(from)? > read(to)? => {
            Err(format!("beginning of range beyond end of range: {part}"))
        }
        Some(_) => Ok(()),
        None => read(range).map(|_| ()),
    }
}

pub fn autoscaler(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    at_least(path, fields, &["minReplicas"], 1, causes);
    let most = number(fields, "maxReplicas").unwrap_or(0);
    if most < 1 {
        causes.push(Cause::invalid(
            path.field("maxReplicas"),
            &json!(most),
            "must be greater than 0",
        ));
    }
    let least = number(fields, "minReplicas").unwrap_or(1);
    if most < least {
        let wrong = "must be greater than or equal to `minReplicas`";
        causes.push(Cause::invalid(path.field("maxReplicas"), &json!(most), wrong));
    }
    at_least(path, fields, &["targetCPUUtilizationPercentage"], 1, causes);
    let sources = ["resource", "containerResource", "pods", "object", "external"];
    for (at, metric) in list(fields, "metrics").iter().enumerate() {
        let Some(metric) = metric.as_object() else { continue };
        let kind = text(metric, "type");
        let wanted = kind
            .chars()
            .next()
            .map(|first| format!("{}{}", first.to_lowercase(), &kind[first.len_utf8()..]));
        let wanted = wanted.unwrap_or_default();
        let all = path.field("metrics");
        if sources.contains(&wanted.as_str()) && !metric.contains_key(&wanted) {
            let wrong = "must populate information for the given metric source";
            causes.push(Cause::required(all.index(at).field(&wanted), wrong));
        }
    }
}

pub fn budget(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let least = number_or_percent(path, fields, "minAvailable", causes);
    let most = number_or_percent(path, fields, "maxUnavailable", causes);
    if least.is_some() && most.is_some() {
        let wrong = "minAvailable and maxUnavailable cannot be both set";
        causes.push(Cause::invalid(path, &Value::Object(fields.clone()), wrong));
    }
}

#[cfg(test)]
mod tests {
    use super::cron;

    #[test]
    fn schedules_are_read() {
        for good in [
            "* * * * *",
            "*/5 0-6 1,15 jan MON-FRI",
            "@hourly",
            "@every 1h",
            "0 0 * * 7",
            "5-10/2 * * * ?",
        ] {
            assert_eq!(cron(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "10-5 * * * *",
            "*/0 * * * *",
            "x * * * *",
            "@never",
            "* * * * fun",
        ] {
            assert!(cron(bad).is_err(), "{bad}");
        }
    }
}
