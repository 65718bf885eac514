//! Who owns which field after a row of applies and updates: the cases of Kubernetes' structured
//! merge diff and of its managed fields, as tables in `cases/`.
//!
//! A case says what each manager does, and then what the object and its managers are. `spec` is
//! what stands below that field; owned fields are paths below it, those of list items with their
//! keys in JSON.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml lets only test functions, not what they call

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_schema::apply::{ApplyError, apply, track};
use berth_schema::{Catalog, Resource};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Schemas of `spec`, by name.
    types: BTreeMap<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    r#type: String,
    steps: Vec<Step>,
    /// The object's `spec` after all steps; null: there is none.
    live: Option<Value>,
    /// By manager, the members of its set.
    owned: Option<BTreeMap<String, Vec<String>>>,
    /// By manager, the version of its set, where it is said.
    #[serde(default)]
    versions: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    #[serde(default)]
    apply: Option<String>,
    #[serde(default)]
    force: Option<String>,
    #[serde(default)]
    update: Option<String>,
    #[serde(default)]
    spec: Value,
    /// The version it is done in, `v1` if none is said.
    r#in: Option<String>,
    /// Whose fields are in the way, `MANAGER PATH`.
    #[serde(default)]
    conflicts: Vec<String>,
    /// It is malformed.
    #[serde(default)]
    refused: bool,
    /// From here on the type is another.
    becomes: Option<String>,
}

fn resources(schema: &Value) -> BTreeMap<String, Arc<Resource>> {
    let version = |name: &str| {
        let root = json!({"type": "object", "properties": {"spec": schema}});
        json!({"name": name, "served": true, "storage": name == "v1",
            "schema": {"openAPIV3Schema": root}})
    };
    let names = ["v1", "v2", "v3", "v4"];
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.test.example"},
        "spec": {
            "group": "test.example",
            "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": names.map(version),
        },
    });
    let mut catalog = Catalog::default();
    catalog.add_crd(&definition).unwrap_or_else(|wrong| panic!("{wrong}"));
    let found = |name: &str| catalog.resource("test.example", name, "things").unwrap().clone();
    names.iter().map(|name| ((*name).to_owned(), found(name))).collect()
}

fn object(version: &str, spec: &Value) -> Value {
    let mut object = json!({
        "apiVersion": format!("test.example/{version}"),
        "kind": "Thing",
        "metadata": {"name": "it"},
    });
    if !spec.is_null() {
        object["spec"] = spec.clone();
    }
    object
}

/// The members of a set, as paths below `spec`.
fn members(fields: &Value) -> Vec<String> {
    fn collect(node: &Map<String, Value>, path: &str, all: &mut Vec<String>) {
        for (step, below) in node {
            if step == "." {
                continue;
            }
            let (kind, rest) = step.split_once(':').expect("a step");
            let path = match kind {
                "f" => format!("{path}.{rest}"),
                "k" => format!("{path}{rest}"),
                "v" => format!("{path}[{rest}]"),
                _ => panic!("{step}"),
            };
            let below = below.as_object().expect("a node");
            if below.is_empty() || below.contains_key(".") {
                all.push(path.clone());
            }
            collect(below, &path, all);
        }
    }
    let mut all = Vec::new();
    collect(fields.as_object().expect("fields"), "", &mut all);
    let mut all: Vec<String> =
        all.iter().filter_map(|path| path.strip_prefix(".spec").map(str::to_owned)).collect();
    // The whole of `spec` is the root of the case.
    all.retain(|path| !path.is_empty());
    all.sort();
    all
}

/// Runs a case and says what is not as it should be.
fn run(table: &Table, case: &Case) -> Result<(), String> {
    let mut known = resources(&table.types[&case.r#type]);
    let mut live: Option<Value> = None;
    for (at, step) in case.steps.iter().enumerate() {
        if let Some(name) = &step.becomes {
            known = resources(&table.types[name]);
        }
        let version = step.r#in.as_deref().unwrap_or("v1");
        let resource = &known[version];
        let now = format!("2026-01-01T00:00:{at:02}Z");
        if let Some(live) = &mut live {
            live["apiVersion"] = json!(format!("test.example/{version}"));
        }
        let given = object(version, &step.spec);
        if let Some(manager) = &step.update {
            let mut new = given;
            track(resource, live.as_ref(), &mut new, manager, None, &now);
            live = Some(new);
            continue;
        }
        let (manager, force) = match (&step.apply, &step.force) {
            (Some(manager), None) => (manager, false),
            (None, Some(manager)) => (manager, true),
            (None, None) if step.becomes.is_some() => continue,
            _ => return Err(format!("step {at} is not one operation")),
        };
        let done = apply(resource, live.as_ref(), &given, manager, force, None, &now);
        match (done, step.refused) {
            (Ok(new), false) if step.conflicts.is_empty() => live = Some(new),
            (Err(ApplyError::Malformed(_)), true) => {}
            (Err(ApplyError::Conflicts(all)), false) => {
                let name = |shown: &str| shown.split('"').nth(1).unwrap_or_default().to_owned();
                let mut found: Vec<String> =
                    all.iter().map(|one| format!("{} {}", name(&one.manager), one.field)).collect();
                found.sort();
                if found != step.conflicts {
                    return Err(format!("step {at}: conflicts {found:?}"));
                }
            }
            (done, _) => return Err(format!("step {at}: {done:?}")),
        }
    }
    let Some(live) = live else {
        return if case.owned.is_none() { Ok(()) } else { Err("nothing is there".to_owned()) };
    };
    if let Some(wanted) = &case.live
        && live["spec"] != *wanted
    {
        return Err(format!("live is {}", live["spec"]));
    }
    let entries = live["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, key: &str| entry[key].as_str().expect("text").to_owned();
    let owned: BTreeMap<String, Vec<String>> = entries
        .iter()
        .map(|entry| (text(entry, "manager"), members(&entry["fieldsV1"])))
        .filter(|(_, fields)| !fields.is_empty())
        .collect();
    if let Some(wanted) = &case.owned {
        let mut wanted = wanted.clone();
        wanted.values_mut().for_each(|fields| fields.sort());
        if owned != wanted {
            return Err(format!("owned is {owned:#?}\nlive is {}", live["spec"]));
        }
    }
    for (manager, version) in &case.versions {
        let wanted = format!("test.example/{version}");
        let is_so =
            |entry: &Value| text(entry, "manager") == *manager && entry["apiVersion"] == wanted;
        if !entries.iter().any(is_so) {
            return Err(format!("{manager} is not in {version}"));
        }
    }
    Ok(())
}

fn check(text: &str) {
    let table: Table = serde_saphyr::from_str(text).unwrap();
    let wrong: Vec<String> = table
        .cases
        .iter()
        .filter_map(|case| {
            let wrong = run(&table, case).err()?;
            Some(format!("{}: {wrong}", case.name))
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {} cases failed\n{}",
        wrong.len(),
        table.cases.len(),
        wrong.join("\n")
    );
}

#[test]
fn fields_of_plain_values() {
    check(include_str!("cases/ownership-plain.yaml"));
}

#[test]
fn fields_of_lists_and_maps() {
    check(include_str!("cases/ownership-nested.yaml"));
}

#[test]
fn keys_of_lists() {
    check(include_str!("cases/ownership-keys.yaml"));
}

#[test]
fn schemas_that_change_and_none() {
    check(include_str!("cases/ownership-schemas.yaml"));
}
