//! ConfigMaps and Secrets: their keys, their size, what each type of Secret holds.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_api::names;
use serde_json::{Value, json};

use super::path::Path;
use super::rules::{Fields, object, text};
use crate::Cause;

/// All values together.
const MOST: usize = 1024 * 1024;

pub fn config_map(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let mut size = keys(path, fields, "data", causes);
    size += keys(path, fields, "binaryData", causes) / 4 * 3;
    let twice = object(fields, "binaryData").into_iter().flatten().map(|(key, _)| key);
    for key in
        twice.filter(|key| object(fields, "data").is_some_and(|data| data.contains_key(*key)))
    {
        let wrong = "duplicate of key present in data";
        causes.push(Cause::invalid(path.field("data").key(key), &json!(key), wrong));
    }
    if size > MOST {
        causes.push(Cause::too_long(path, MOST));
    }
}

/// Checks the keys of a map and adds up its values.
fn keys(path: &Path<'_>, fields: &Fields, name: &str, causes: &mut Vec<Cause>) -> usize {
    let mut size = 0;
    for (key, value) in object(fields, name).into_iter().flatten() {
        if let Err(wrong) = names::config_key(key) {
            causes.push(Cause::invalid(path.field(name).key(key), &json!(key), &wrong));
        }
        size += value.as_str().map_or(0, str::len);
    }
    size
}

pub fn secret(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    // Base64 takes four characters for three bytes.
    let size = keys(path, fields, "data", causes) / 4 * 3;
    keys(path, fields, "stringData", causes);
    if size > MOST {
        causes.push(Cause::too_long(path.field("data"), MOST));
    }
    let has = |key: &str| {
        let within = |name: &str| object(fields, name).is_some_and(|map| map.contains_key(key));
        within("data") || within("stringData")
    };
    let data = path.field("data");
    let mut need = |wanted: &[&str]| {
        for key in wanted.iter().filter(|key| !has(key)) {
            causes.push(Cause::required(data.key(key), ""));
        }
    };
    match text(fields, "type") {
        "kubernetes.io/tls" => need(&["tls.crt", "tls.key"]),
        "kubernetes.io/dockerconfigjson" => {
            need(&[".dockerconfigjson"]);
            is_json(&data, fields, ".dockerconfigjson", causes);
        }
        "kubernetes.io/dockercfg" => {
            need(&[".dockercfg"]);
            is_json(&data, fields, ".dockercfg", causes);
        }
        "kubernetes.io/ssh-auth" => need(&["ssh-privatekey"]),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            need(&["username", "password"]);
        }
        "kubernetes.io/service-account-token" => {
            let account = "kubernetes.io/service-account.name";
            let annotations =
                fields.get("metadata").map_or(&Value::Null, |one| &one["annotations"]);
            if annotations[account].as_str().unwrap_or_default().is_empty() {
                let here = path.field("metadata");
                let here = here.field("annotations");
                causes.push(Cause::required(here.key(account), ""));
            }
        }
        _ => {}
    }
}

/// The value under `key` is JSON; what it is instead is nobody's business.
fn is_json(data: &Path<'_>, fields: &Fields, key: &str, causes: &mut Vec<Cause>) {
    let Some(found) = object(fields, "data").and_then(|data| data.get(key)) else { return };
    let bytes = STANDARD.decode(found.as_str().unwrap_or_default()).unwrap_or_default();
    if let Err(wrong) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
        let shown = json!("<secret contents redacted>");
        causes.push(Cause::invalid(data.key(key), &shown, &wrong.to_string()));
    }
}
