//! What a cluster has from its first moment: roles in lines of their own, the rest as one line of
//! JSON an object.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{read, text, texts};

pub fn facts(data: &Path) -> Result<String> {
    let mut out = String::new();
    for role in items(data, "clusterroles")? {
        role_facts(&mut out, &role)?;
    }
    for binding in items(data, "clusterrolebindings")? {
        write!(out, "binding {} {}", text(&binding["metadata"], "name"), labels(&binding))?;
        writeln!(out, " {}", text(&binding["roleRef"], "name"))?;
        for subject in binding["subjects"].as_array().into_iter().flatten() {
            let [kind, name] = ["kind", "name"].map(|key| text(subject, key));
            let namespace = subject["namespace"].as_str().unwrap_or("-");
            writeln!(out, " subject {kind} {name} {namespace}")?;
        }
    }
    let rest = [
        ("priorityclasses", "scheduling.k8s.io/v1", "PriorityClass"),
        (
            "prioritylevelconfigurations",
            "flowcontrol.apiserver.k8s.io/v1",
            "PriorityLevelConfiguration",
        ),
        ("flowschemas", "flowcontrol.apiserver.k8s.io/v1", "FlowSchema"),
    ];
    for (file, api_version, kind) in rest {
        for mut object in items(data, file)? {
            let fields = object.as_object_mut().context("an item is an object")?;
            fields.remove("status");
            fields.insert("apiVersion".to_owned(), json!(api_version));
            fields.insert("kind".to_owned(), json!(kind));
            if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("generation");
            }
            writeln!(out, "object {object}")?;
        }
    }
    Ok(out)
}

fn role_facts(out: &mut String, role: &Value) -> Result<()> {
    writeln!(out, "role {} {}", text(&role["metadata"], "name"), labels(role))?;
    let selectors = role["aggregationRule"]["clusterRoleSelectors"].as_array();
    for selector in selectors.into_iter().flatten() {
        writeln!(out, " aggregate {}", pairs(&selector["matchLabels"]))?;
    }
    for rule in role["rules"].as_array().into_iter().flatten() {
        let keys = ["verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs"];
        let words = keys.map(|key| match rule[key].as_array().map(Vec::len) {
            None => "-".to_owned(),
            // The core group has no name of its own.
            Some(_) => texts(rule, key, ",")
                .split(',')
                .map(|word| if word.is_empty() { "core" } else { word })
                .collect::<Vec<_>>()
                .join(","),
        });
        writeln!(out, " rule {}", words.join(" "))?;
    }
    Ok(())
}

fn labels(object: &Value) -> String {
    pairs(&object["metadata"]["labels"])
}

fn pairs(map: &Value) -> String {
    let pairs = map.as_object().into_iter().flatten();
    let words: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(",") }
}

fn items(data: &Path, name: &str) -> Result<Vec<Value>> {
    let document = read(&data.join(format!("bootstrap-{name}.json")))?;
    Ok(document["items"].as_array().context("a list has items")?.clone())
}
