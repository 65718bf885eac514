//! Types: `type NAME words` and below it ` FIELD TYPE words`, a line each.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{text, texts};

/// Long beginnings of type names and what stands for them in the facts.
const PREFIXES: [(&str, &str); 5] = [
    ("io.k8s.apiextensions-apiserver.pkg.apis.", ""),
    ("io.k8s.kube-aggregator.pkg.apis.", ""),
    ("io.k8s.apimachinery.pkg.apis.", ""),
    ("io.k8s.apimachinery.pkg.", "apimachinery."),
    ("io.k8s.api.", ""),
];

pub struct Types<'a> {
    definitions: &'a serde_json::Map<String, Value>,
    by_kind: BTreeMap<(String, String, String), String>,
}

impl<'a> Types<'a> {
    pub fn new(document: &'a Value) -> Result<Self> {
        let definitions =
            document["definitions"].as_object().context("the document has no definitions")?;
        let mut by_kind = BTreeMap::new();
        for (name, schema) in definitions {
            if let Some([only]) = kinds(schema) {
                by_kind.insert(triple(only), short(name));
            }
        }
        Ok(Self { definitions, by_kind })
    }

    /// The type that carries exactly this group, version and kind.
    pub fn of_kind(&self, group: &str, version: &str, kind: &str) -> Option<&str> {
        let key = (group.to_owned(), version.to_owned(), kind.to_owned());
        self.by_kind.get(&key).map(String::as_str)
    }

    pub fn facts(&self) -> Result<String> {
        let mut out = String::new();
        for (long, brief) in PREFIXES {
            let users = self.definitions.keys().filter(|name| name.starts_with(long));
            let mut packages: Vec<&str> = users
                .filter_map(|name| name.rsplit_once('.'))
                .map(|(package, _)| package)
                .collect();
            packages.dedup();
            for package in packages {
                if PREFIXES.iter().find(|(long, _)| package.starts_with(long))
                    == Some(&(long, brief))
                {
                    writeln!(out, "package {} {package}", package.replacen(long, brief, 1))?;
                }
            }
        }
        for (name, schema) in self.definitions {
            if basic(name).is_some() {
                continue;
            }
            self.one(&mut out, name, schema).with_context(|| format!("type {name}"))?;
        }
        Ok(out)
    }

    fn one(&self, out: &mut String, name: &str, schema: &Value) -> Result<()> {
        write!(out, "type {}", short(name))?;
        // Options and events carry every kind there is; no one asks for those.
        for kind in kinds(schema).filter(|kinds| kinds.len() == 1).unwrap_or_default() {
            let (group, version, kind) = triple(kind);
            let group = if group.is_empty() { "-".to_owned() } else { group };
            write!(out, " gvk={group}/{version}/{kind}")?;
        }
        if text(schema, "x-kubernetes-map-type") == "atomic" {
            out.push_str(" atomic");
        }
        out.push('\n');
        let required = texts(schema, "required", ",");
        let required: Vec<&str> = required.split(',').collect();
        let fields = schema["properties"].as_object();
        for (field, schema) in fields.into_iter().flatten() {
            let shape = shape(schema).with_context(|| format!("field {field}"))?;
            write!(out, " {field} {shape}")?;
            if required.contains(&field.as_str()) {
                out.push_str(" required");
            }
            words(out, schema)?;
            out.push('\n');
        }
        Ok(())
    }
}

/// What stands behind a field's type: list type, merge key, enum.
fn words(out: &mut String, schema: &Value) -> Result<()> {
    match text(schema, "x-kubernetes-list-type") {
        "map" => write!(out, " list={}", texts(schema, "x-kubernetes-list-map-keys", ","))?,
        "set" => out.push_str(" set"),
        "atomic" => out.push_str(" atomic"),
        "" => {}
        other => bail!("list type {other} is unknown"),
    }
    if text(schema, "x-kubernetes-map-type") == "atomic" {
        out.push_str(" atomic");
    }
    let strategy = text(schema, "x-kubernetes-patch-strategy");
    if !strategy.is_empty() {
        write!(out, " patch={strategy}")?;
    }
    let key = text(schema, "x-kubernetes-patch-merge-key");
    if !key.is_empty() {
        write!(out, " key={key}")?;
    }
    let allowed = texts(schema, "enum", "|");
    let allowed = if allowed.is_empty() { texts(&schema["items"], "enum", "|") } else { allowed };
    if !allowed.is_empty() {
        write!(out, " enum={}", allowed.replace(' ', "~"))?;
    }
    Ok(())
}

fn shape(schema: &Value) -> Result<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.strip_prefix("#/definitions/").context("a reference elsewhere")?;
        return Ok(basic(name).map_or_else(|| short(name), str::to_owned));
    }
    Ok(match (text(schema, "type"), text(schema, "format")) {
        ("string", "") => "string".to_owned(),
        ("string", "byte") => "bytes".to_owned(),
        ("integer", "") => "int64".to_owned(),
        ("integer", size @ ("int32" | "int64")) => size.to_owned(),
        ("number", _) => "double".to_owned(),
        ("boolean", _) => "bool".to_owned(),
        ("array", _) => format!("[]{}", shape(&schema["items"])?),
        ("object", _) if schema["additionalProperties"].is_object() => {
            format!("{{}}{}", shape(&schema["additionalProperties"])?)
        }
        ("object", _) => "raw".to_owned(),
        (kind, format) => bail!("type {kind} of format {format} is unknown"),
    })
}

/// Types of the document that are no objects to us.
fn basic(name: &str) -> Option<&'static str> {
    Some(match name.rsplit('.').next()? {
        "Quantity" => "quantity",
        "IntOrString" => "intstr",
        "Time" => "time",
        "MicroTime" => "microtime",
        "RawExtension" => "raw",
        "FieldsV1" => "fields",
        "Patch" => "any",
        "JSON" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool" => "any",
        "JSONSchemaPropsOrStringArray" => "any",
        _ => return None,
    })
}

pub fn short(name: &str) -> String {
    let found = PREFIXES.iter().find_map(|(long, brief)| Some((name.strip_prefix(long)?, brief)));
    found.map_or_else(|| name.to_owned(), |(rest, brief)| format!("{brief}{rest}"))
}

fn kinds(schema: &Value) -> Option<&[Value]> {
    schema["x-kubernetes-group-version-kind"].as_array().map(Vec::as_slice)
}

fn triple(kind: &Value) -> (String, String, String) {
    let word = |key| text(kind, key).to_owned();
    (word("group"), word("version"), word("kind"))
}
