//! Volumes and where they are mounted.

use berth_api::names;
use serde_json::json;

use super::path::Path;
use super::rules::{Fields, at_least, list, named, text};
use crate::Cause;

/// The shortest life of a projected token, as Kubernetes has it.
const SHORTEST_TOKEN: i64 = 600;
/// Pod fields that a file or variable can show.
const SHOWN: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Exactly one source.
pub fn volume(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    named(path, fields, "name", names::dns_label, causes);
    let mut sources = fields.keys().filter(|key| *key != "name");
    if sources.next().is_none() {
        causes.push(Cause::required(path, "must specify a volume type"));
    }
    for source in sources {
        let wrong = "may not specify more than 1 volume type";
        causes.push(Cause::forbidden(path.field(source), wrong));
    }
    for (source, key) in [("configMap", "name"), ("secret", "secretName")] {
        let missing = fields
            .get(source)
            .is_some_and(|from| from[key].as_str().unwrap_or_default().is_empty());
        if missing {
            let here = path.field(source);
            causes.push(Cause::required(here.field(key), ""));
        }
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        let mode = fields.get(source).and_then(|from| from["defaultMode"].as_i64());
        if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
            let here = path.field(source);
            let wrong = "must be a number between 0 and 0777 (octal), both inclusive";
            causes.push(Cause::invalid(here.field("defaultMode"), &json!(mode), wrong));
        }
    }
}

pub fn mount(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    for name in ["subPath", "subPathExpr"] {
        inside(path, fields, name, causes);
    }
    if !text(fields, "subPath").is_empty() && !text(fields, "subPathExpr").is_empty() {
        let wrong = "subPathExpr and subPath are mutually exclusive";
        causes.push(Cause::invalid(path.field("subPathExpr"), &fields["subPathExpr"], wrong));
    }
}

/// A path below its volume: not absolute, and no step up.
fn inside(path: &Path<'_>, fields: &Fields, name: &str, causes: &mut Vec<Cause>) {
    let found = text(fields, name);
    if found.starts_with('/') {
        causes.push(Cause::invalid(path.field(name), &json!(found), "must be a relative path"));
    }
    if found.split('/').any(|step| step == "..") {
        causes.push(Cause::invalid(path.field(name), &json!(found), "must not contain '..'"));
    }
}

pub fn projected_file(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    inside(path, fields, "path", causes);
    if let Some(mode) = fields
        .get("mode")
        .filter(|mode| !mode.as_i64().is_some_and(|mode| (0..=0o777).contains(&mode)))
    {
        let wrong = "must be a number between 0 and 0777 (octal), both inclusive";
        causes.push(Cause::invalid(path.field("mode"), mode, wrong));
    }
}

pub fn host_path(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let found = text(fields, "path");
    if found.split('/').any(|step| step == "..") {
        causes.push(Cause::invalid(path.field("path"), &json!(found), "must not contain '..'"));
    }
}

pub fn projected(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    for (at, source) in list(fields, "sources").iter().enumerate() {
        if source.as_object().is_some_and(|source| source.len() > 1) {
            let all = path.field("sources");
            let wrong = "may not specify more than 1 volume type";
            causes.push(Cause::forbidden(all.index(at), wrong));
        }
    }
}

pub fn object_field(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let found = text(fields, "fieldPath");
    let subscript = |name: &str| {
        found.strip_prefix(name).is_some_and(|rest| rest.starts_with("['") && rest.ends_with("']"))
    };
    let whole = matches!(found, "metadata.labels" | "metadata.annotations");
    let fits = SHOWN.contains(&found)
        || whole
        || subscript("metadata.labels")
        || subscript("metadata.annotations");
    if !found.is_empty() && !fits {
        causes.push(Cause::not_supported(path.field("fieldPath"), &json!(found), &SHOWN));
    }
}

pub fn token(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    inside(path, fields, "path", causes);
    at_least(path, fields, &["expirationSeconds"], SHORTEST_TOKEN, causes);
}
