//! Labels, annotations and selectors.

use berth_api::names;
use serde_json::{Value, json};

use super::path::Path;
use super::rules::{Fields, list, object, text};
use crate::Cause;

/// All annotations of an object together.
const MOST_ANNOTATIONS: usize = 256 * 1024;

/// The metadata of a template; an object's own is checked for more.
pub fn metadata(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    labels(&path.field("labels"), object(fields, "labels"), causes);
    annotations(&path.field("annotations"), object(fields, "annotations"), causes);
}

pub fn labels(path: &Path<'_>, labels: Option<&Fields>, causes: &mut Vec<Cause>) {
    for (key, value) in labels.into_iter().flatten() {
        if let Err(wrong) = names::qualified_name(key) {
            causes.push(Cause::invalid(path, &json!(key), &wrong));
        }
        if let Err(wrong) = names::label_value(value.as_str().unwrap_or_default()) {
            causes.push(Cause::invalid(path, value, &wrong));
        }
    }
}

pub fn annotations(path: &Path<'_>, annotations: Option<&Fields>, causes: &mut Vec<Cause>) {
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        if let Err(wrong) = names::qualified_name(&key.to_lowercase()) {
            causes.push(Cause::invalid(path, &json!(key), &wrong));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MOST_ANNOTATIONS {
        causes.push(Cause::too_long(path, MOST_ANNOTATIONS));
    }
}

pub fn selector(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    labels(&path.field("matchLabels"), object(fields, "matchLabels"), causes);
    let all = path.field("matchExpressions");
    for (at, one) in list(fields, "matchExpressions").iter().enumerate() {
        let Some(one) = one.as_object() else { continue };
        let here = all.index(at);
        let values = list(one, "values");
        match text(one, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                let wrong = "must be specified when `operator` is 'In' or 'NotIn'";
                causes.push(Cause::required(here.field("values"), wrong));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let wrong = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                causes.push(Cause::forbidden(here.field("values"), wrong));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "" => {}
            other => {
                let wrong = "not a valid selector operator";
                causes.push(Cause::invalid(here.field("operator"), &json!(other), wrong));
            }
        }
        key(&here, one, causes);
        for (at, value) in values.iter().enumerate() {
            if let Err(wrong) = names::label_value(value.as_str().unwrap_or_default()) {
                causes.push(Cause::invalid(here.field("values").index(at), value, &wrong));
            }
        }
    }
}

fn key(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let found = text(fields, "key");
    if let (false, Err(wrong)) = (found.is_empty(), names::qualified_name(found)) {
        causes.push(Cause::invalid(path.field("key"), &json!(found), &wrong));
    }
}

/// One demand on a node's labels or, in `matchFields`, its name.
pub fn node_requirement(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let values = list(fields, "values");
    let values_path = path.field("values");
    match text(fields, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            let wrong = "must be specified when `operator` is 'In' or 'NotIn'";
            causes.push(Cause::required(values_path, wrong));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let wrong = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            causes.push(Cause::forbidden(values_path, wrong));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let wrong = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            causes.push(Cause::required(values_path, wrong));
        }
        "Gt" | "Lt" => {
            let whole =
                |value: &Value| value.as_str().is_some_and(|text| text.parse::<i64>().is_ok());
            if !values.iter().all(whole) {
                let wrong = "must be an integer when `operator` is 'Lt' or 'Gt'";
                causes.push(Cause::invalid(values_path, &json!(values), wrong));
            }
        }
        _ => {}
    }
    if path.name() != "matchFields" {
        key(path, fields, causes);
    } else if text(fields, "key") != "metadata.name" {
        let wrong = "not a valid field selector key";
        causes.push(Cause::invalid(path.field("key"), &json!(text(fields, "key")), wrong));
    }
}

/// Whether a selector selects these labels.
pub fn selects(selector: &Value, labels: &Value) -> bool {
    let find = |key: &str| labels.get(key).and_then(Value::as_str);
    berth_api::Selector::from_json(selector).is_ok_and(|read| read.matches_with(find))
}
