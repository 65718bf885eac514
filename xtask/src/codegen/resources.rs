//! Resources: `resource GROUP VERSION PLURAL KIND SINGULAR SCOPE words`, below it ` sub NAME GVK
//! VERBS` and ` column NAME|TYPE|FORMAT|PRIORITY`.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::Value;

use super::types::Types;
use super::{text, texts};

/// Resources that would lie here: component statuses tell of processes that Berth has not.
const LEFT_OUT: [&str; 1] = ["componentstatuses"];

pub fn facts(
    documents: &[Value],
    tables: &BTreeMap<String, Value>,
    types: &Types<'_>,
) -> Result<String> {
    let mut out = String::new();
    for group in documents.iter().flat_map(|document| list(document, "items")) {
        let name = text(&group["metadata"], "name");
        for version in list(group, "versions") {
            for resource in list(version, "resources") {
                let plural = text(resource, "resource");
                if !LEFT_OUT.contains(&plural) {
                    let version = text(version, "version");
                    one(&mut out, (name, version), resource, tables, types)
                        .with_context(|| format!("{plural} of {name}/{version}"))?;
                }
            }
        }
    }
    Ok(out)
}

fn one(
    out: &mut String,
    (group, version): (&str, &str),
    resource: &Value,
    tables: &BTreeMap<String, Value>,
    types: &Types<'_>,
) -> Result<()> {
    let plural = text(resource, "resource");
    let kind = text(&resource["responseKind"], "kind");
    let singular = text(resource, "singularResource");
    let scope = if text(resource, "scope") == "Namespaced" { "namespaced" } else { "cluster" };
    let shown = if group.is_empty() { "-" } else { group };
    write!(out, "resource {shown} {version} {plural} {kind} {singular} {scope}")?;
    let type_name = types.of_kind(group, version, kind).context("no type has its kind")?;
    write!(out, " type={type_name} verbs={}", texts(resource, "verbs", ","))?;
    for (word, key) in [("short", "shortNames"), ("in", "categories")] {
        let names = texts(resource, key, ",");
        if !names.is_empty() {
            write!(out, " {word}={names}")?;
        }
    }
    out.push('\n');
    for sub in list(resource, "subresources") {
        let answer = &sub["responseKind"];
        let kind = text(answer, "kind");
        let (group, version) = match (text(answer, "group"), text(answer, "version")) {
            ("", "") => (group, version),
            given => given,
        };
        let group = if group.is_empty() { "-" } else { group };
        let verbs = texts(sub, "verbs", ",");
        writeln!(out, " sub {} {group}/{version}/{kind} {verbs}", text(sub, "subresource"))?;
    }
    let place = if group.is_empty() { "core" } else { group };
    let columns = tables.get(&format!("{place}.{version}.{plural}")).and_then(Value::as_array);
    for column in columns.into_iter().flatten() {
        let [name, kind, format] = ["name", "type", "format"].map(|key| text(column, key));
        writeln!(out, " column {name}|{kind}|{format}|{}", column["priority"])?;
    }
    Ok(())
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}
