//! What a custom resource's own schema demands beyond types: JSON schema's value validations.
//!
//! # Source
//! JSON Schema Validation (draft 4, the one that OpenAPI 3.0 took up); the sentences are those of
//! Kubernetes.

use std::collections::{BTreeMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine;
use regex::Regex;
use serde_json::{Map, Value};

use crate::Cause;

/// Checks a value against a schema as it was given.
pub struct Rules<'a> {
    pub patterns: &'a BTreeMap<String, Regex>,
}

impl Rules<'_> {
    /// All that is wrong with `value`, at `path`.
    pub fn check(&self, path: &str, value: &Value, schema: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        let Some(rules) = schema.as_object() else { return causes };
        if !typed(path, value, rules, &mut causes) {
            return causes;
        }
        allowed(path, value, rules, &mut causes);
        match value {
            Value::Number(_) => number(path, value, rules, &mut causes),
            Value::String(text) => self.text(path, text, rules, &mut causes),
            Value::Array(list) => self.list(path, list, rules, &mut causes),
            Value::Object(map) => self.map(path, map, rules, &mut causes),
            Value::Null | Value::Bool(_) => {}
        }
        self.combined(path, value, schema, &mut causes);
        causes
    }

    fn text(&self, path: &str, text: &str, rules: &Map<String, Value>, causes: &mut Vec<Cause>) {
        let length = text.chars().count() as u64;
        let shown = Value::from(text);
        if let Some(least) = limit(rules, "minLength").filter(|least| length < *least) {
            let wrong = format!("{path} in body should be at least {least} chars long");
            causes.push(Cause::invalid(path, &shown, &wrong));
        }
        if let Some(most) = limit(rules, "maxLength").filter(|most| length > *most) {
            causes.push(Cause::too_long(path, usize::try_from(most).unwrap_or(usize::MAX)));
        }
        if let Some(pattern) = rules.get("pattern").and_then(Value::as_str)
            && self.patterns.get(pattern).is_some_and(|ready| !ready.is_match(text))
        {
            let wrong = format!("{path} in body should match '{pattern}'");
            causes.push(Cause::invalid(path, &shown, &wrong));
        }
        if let Some(format) = rules.get("format").and_then(Value::as_str)
            && !has_format(text, format)
        {
            let wrong = format!("{path} in body must be of type {format}: {shown}");
            causes.push(Cause::invalid(path, &shown, &wrong));
        }
    }

    fn list(
        &self,
        path: &str,
        list: &[Value],
        rules: &Map<String, Value>,
        causes: &mut Vec<Cause>,
    ) {
        let length = list.len() as u64;
        if let Some(least) = limit(rules, "minItems").filter(|least| length < *least) {
            let wrong = format!("{path} in body should have at least {least} items");
            causes.push(Cause::invalid(path, &Value::from(length), &wrong));
        }
        if let Some(most) = limit(rules, "maxItems").filter(|most| length > *most) {
            causes.push(Cause::too_many(
                path,
                list.len(),
                usize::try_from(most).unwrap_or(usize::MAX),
            ));
        }
        let kind = rules.get("x-kubernetes-list-type").and_then(Value::as_str).unwrap_or_default();
        let unique = rules.get("uniqueItems") == Some(&Value::Bool(true));
        let keys = rules.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
        let identity = |item: &Value| -> Value {
            match (kind, keys) {
                ("map", Some(keys)) => {
                    let named = keys.iter().filter_map(Value::as_str);
                    named
                        .map(|key| (key.to_owned(), item[key].clone()))
                        .collect::<Map<_, _>>()
                        .into()
                }
                _ => item.clone(),
            }
        };
        let told_apart = unique || matches!(kind, "set" | "map");
        let mut seen: HashSet<Value> = HashSet::new();
        for (at, item) in list.iter().enumerate() {
            let path = format!("{path}[{at}]");
            if let Some(schema) = rules.get("items") {
                causes.extend(self.check(&path, item, schema));
            }
            if told_apart {
                let identity = identity(item);
                if seen.contains(&identity) {
                    causes.push(Cause::duplicate(&path, &identity));
                }
                seen.insert(identity);
            }
        }
    }

    fn map(
        &self,
        path: &str,
        map: &Map<String, Value>,
        rules: &Map<String, Value>,
        causes: &mut Vec<Cause>,
    ) {
        let length = map.len() as u64;
        if let Some(least) = limit(rules, "minProperties").filter(|least| length < *least) {
            let wrong = format!("{path} in body should have at least {least} properties");
            causes.push(Cause::invalid(path, &Value::from(length), &wrong));
        }
        if let Some(most) = limit(rules, "maxProperties").filter(|most| length > *most) {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            causes.push(Cause::too_many(path, map.len(), most));
        }
        let required = rules.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if !map.contains_key(name) {
                causes.push(Cause::required(join(path, name), ""));
            }
        }
        let properties = rules.get("properties").and_then(Value::as_object);
        let additional = rules.get("additionalProperties").filter(|found| found.is_object());
        for (name, value) in map {
            // The object's own metadata is checked as that of every object.
            if path.is_empty() && matches!(name.as_str(), "metadata" | "apiVersion" | "kind") {
                continue;
            }
            let schema = properties.and_then(|all| all.get(name)).or(additional);
            if let Some(schema) = schema {
                causes.extend(self.check(&join(path, name), value, schema));
            }
        }
    }

    fn combined(&self, path: &str, value: &Value, schema: &Value, causes: &mut Vec<Cause>) {
        let fits = |schema: &Value| self.check(path, value, schema).is_empty();
        let all = |word: &str| schema[word].as_array().map(Vec::as_slice).unwrap_or_default();
        for schema in all("allOf") {
            causes.extend(self.check(path, value, schema));
        }
        let any = all("anyOf");
        if !any.is_empty() && !any.iter().any(fits) {
            let wrong = format!("{path:?} must validate at least one schema (anyOf)");
            causes.push(Cause::invalid(path, value, &wrong));
        }
        let one = all("oneOf");
        if !one.is_empty() && one.iter().filter(|schema| fits(schema)).count() != 1 {
            let wrong = format!("{path:?} must validate one and only one schema (oneOf)");
            causes.push(Cause::invalid(path, value, &wrong));
        }
        if schema["not"].is_object() && fits(&schema["not"]) {
            let wrong = format!("{path:?} must not validate the schema (not)");
            causes.push(Cause::invalid(path, value, &wrong));
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Whether a value is of its schema's type.
fn typed(path: &str, value: &Value, rules: &Map<String, Value>, causes: &mut Vec<Cause>) -> bool {
    let wanted = rules.get("type").and_then(Value::as_str).unwrap_or_default();
    let is = |word: &str| rules.get(word) == Some(&Value::Bool(true));
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let right = match (wanted, found) {
        (_, "null") => is("nullable") || wanted.is_empty(),
        ("", "integer" | "string") if is("x-kubernetes-int-or-string") => true,
        ("", _) => !is("x-kubernetes-int-or-string"),
        ("number", "integer") => true,
        (wanted, found) => wanted == found,
    };
    if !right {
        let wanted = if wanted.is_empty() { "integer,string" } else { wanted };
        let wrong = format!("{path} in body must be of type {wanted}: {found:?}");
        causes.push(Cause::type_invalid(path, &Value::from(found), &wrong));
    }
    right && !value.is_null()
}

fn allowed(path: &str, value: &Value, rules: &Map<String, Value>, causes: &mut Vec<Cause>) {
    let Some(allowed) = rules.get("enum").and_then(Value::as_array) else { return };
    if !allowed.contains(value) {
        let plain = |one: &Value| one.as_str().map_or_else(|| one.to_string(), str::to_owned);
        let words: Vec<String> = allowed.iter().map(plain).collect();
        causes.push(Cause::not_supported(path, value, &words));
    }
}

fn number(path: &str, value: &Value, rules: &Map<String, Value>, causes: &mut Vec<Cause>) {
    let found = value.as_f64().unwrap_or_default();
    let bound = |word: &str| rules.get(word).and_then(Value::as_f64);
    let exclusive = |word: &str| rules.get(word) == Some(&Value::Bool(true));
    let mut wrong = |what: String| {
        causes.push(Cause::invalid(path, value, &format!("{path} in body should be {what}")));
    };
    if let Some(least) = bound("minimum") {
        match exclusive("exclusiveMinimum") {
            true if found <= least => wrong(format!("greater than {least}")),
            false if found < least => wrong(format!("greater than or equal to {least}")),
            _ => {}
        }
    }
    if let Some(most) = bound("maximum") {
        match exclusive("exclusiveMaximum") {
            true if found >= most => wrong(format!("less than {most}")),
            false if found > most => wrong(format!("less than or equal to {most}")),
            _ => {}
        }
    }
    if let Some(of) = bound("multipleOf").filter(|of| *of != 0.0) {
        let times = found / of;
        if (times - times.round()).abs() > 1e-9 {
            wrong(format!("a multiple of {of}"));
        }
    }
    let narrow = rules.get("format").and_then(Value::as_str) == Some("int32");
    if narrow && value.as_i64().is_none_or(|found| i32::try_from(found).is_err()) {
        wrong("of type int32".to_owned());
    }
}

fn limit(rules: &Map<String, Value>, word: &str) -> Option<u64> {
    rules.get(word).and_then(Value::as_u64)
}

/// Whether text is of a format; one that is not known allows everything.
fn has_format(text: &str, format: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "uuid" => {
            let plain = text.replace('-', "");
            plain.len() == 32 && plain.bytes().all(|c| c.is_ascii_hexdigit())
        }
        _ => true,
    }
}
