//! What `metadata.managedFields` says after applies and updates: the cases of Kubernetes' field
//! managers, as a table.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml lets only test functions, not what they call

use std::collections::BTreeMap;

use berth_schema::Catalog;
use berth_schema::apply::{ApplyError, apply, track};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// Group, version and plural.
    of: (String, String, String),
    /// What is there at first.
    #[serde(default)]
    object: Value,
    steps: Vec<Step>,
    /// In their order: manager, operation, subresource, second of its time, fields.
    entries: Option<Vec<Entry>>,
    /// JSON pointers into the object, and what is there.
    #[serde(default)]
    has: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    apply: Option<String>,
    force: Option<String>,
    update: Option<String>,
    /// The door it comes by.
    by: Option<String>,
    object: Value,
    /// Fields in the way.
    #[serde(default)]
    conflicts: Vec<String>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Entry {
    manager: String,
    operation: String,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    subresource: Option<String>,
    /// The step whose time it has; of those there from the start, their own second.
    #[serde(default)]
    second: Option<u64>,
    #[serde(default)]
    fields: Option<Value>,
}

fn time(second: usize) -> String {
    format!("2026-01-01T00:01:{second:02}Z")
}

/// What is found, as far as the case says it.
fn said(found: &Value, wanted: &Entry) -> Entry {
    let text = |key: &str| found[key].as_str().map(str::to_owned);
    let second = || {
        let time = text("time")?;
        let (minute, second) = time.trim_end_matches('Z').rsplit_once(':')?;
        let second: u64 = second.parse().ok()?;
        // What was there from the start is of the minute before.
        Some(if minute.ends_with("00:01") { second } else { 100 + second })
    };
    Entry {
        manager: text("manager").unwrap_or_default(),
        operation: text("operation").unwrap_or_default(),
        version: wanted.version.as_ref().and_then(|_| text("apiVersion")),
        subresource: text("subresource"),
        second: wanted.second.and_then(|_| second()),
        fields: wanted.fields.as_ref().map(|_| found["fieldsV1"].clone()),
    }
}

fn run(case: &Case) -> Result<(), String> {
    let catalog = Catalog::builtin();
    let (group, version, plural) = &case.of;
    let resource = catalog.resource(group, version, plural).expect("it is built in");
    let mut live = Some(case.object.clone()).filter(|object| !object.is_null());
    for (at, step) in case.steps.iter().enumerate() {
        let now = time(at);
        let mut given = step.object.clone();
        given["apiVersion"] = json!(resource.api_version());
        given["kind"] = json!(resource.kind);
        given["metadata"]["name"] = json!("it");
        let by = step.by.as_deref();
        let (manager, force) = match (&step.update, &step.apply, &step.force) {
            (Some(manager), None, None) => {
                track(resource, live.as_ref(), &mut given, manager, by, &now);
                live = Some(given);
                continue;
            }
            (None, Some(manager), None) => (manager, false),
            (None, None, Some(manager)) => (manager, true),
            _ => panic!("step {at} is not one operation"),
        };
        match apply(resource, live.as_ref(), &given, manager, force, by, &now) {
            Ok(new) if step.conflicts.is_empty() => live = Some(new),
            Err(ApplyError::Conflicts(all)) => {
                let mut found: Vec<String> = all.into_iter().map(|one| one.field).collect();
                found.sort();
                if found != step.conflicts {
                    return Err(format!("step {at}: conflicts {found:?}"));
                }
            }
            other => return Err(format!("step {at}: {other:?}")),
        }
    }
    let live = live.expect("something is there");
    for (pointer, wanted) in &case.has {
        let found = live.pointer(pointer).cloned().unwrap_or_default();
        if found != *wanted {
            return Err(format!("{pointer} is {found}"));
        }
    }
    let Some(wanted) = &case.entries else { return Ok(()) };
    let list = live["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let found: Vec<Entry> =
        list.iter().zip(wanted).map(|(found, wanted)| said(found, wanted)).collect();
    if found != *wanted || list.len() != wanted.len() {
        return Err(format!("{}", json!(list)));
    }
    Ok(())
}

#[test]
fn entries_of_managers() {
    let cases: Vec<Case> = serde_saphyr::from_str(include_str!("cases/managers.yaml")).unwrap();
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| Some(format!("{}: {}", case.name, run(case).err()?)))
        .collect();
    assert!(wrong.is_empty(), "{} of {} failed\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
