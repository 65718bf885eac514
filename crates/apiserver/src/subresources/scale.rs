//! `scale`: one number of an object, under the same name for every kind that has one.

use std::sync::Arc;

use berth_schema::{Cause, Resource};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::call::Call;
use crate::respond::{self, Body};
use crate::server::Core;
use crate::status::Failure;
use crate::verbs;
use crate::write::Write;
use crate::{object, record};

/// Where a kind keeps what its scale shows.
struct Places {
    spec: String,
    status: String,
    selector: Option<String>,
}

impl Places {
    fn of(resource: &Resource) -> Self {
        let pointer = |path: &str| path.replace('.', "/");
        match resource.custom.as_ref().and_then(|custom| custom.scale.as_ref()) {
            Some(scale) => Self {
                spec: pointer(&scale.spec_path),
                status: pointer(&scale.status_path),
                selector: scale.selector_path.as_deref().map(pointer),
            },
            None => Self {
                spec: "/spec/replicas".to_owned(),
                status: "/status/replicas".to_owned(),
                selector: Some("/spec/selector".to_owned()),
            },
        }
    }
}

pub(super) async fn answer(
    core: &Arc<Core>,
    call: &Call,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, Failure> {
    let places = Places::of(resource);
    let target = &call.target;
    let manager = call.manager()?;
    let write = Write {
        core,
        call,
        resource,
        subresource: Some("scale"),
        dry_run: call.dry_run()?,
        manager: Some(&manager),
    };
    if target.verb == "get" {
        let live = write.live(&target.namespace, &target.name).await;
        let entry = live.map_err(|failure| match resource.custom {
            None if failure.code == 404 => failure.of_subresource(resource, "scale"),
            _ => failure,
        })?;
        let scale = show(&places, &record::object(resource, &entry));
        return Ok(respond::value(StatusCode::OK, &scale, &call.output));
    }
    let body = if target.verb == "update" { call.body_value()? } else { Value::Null };
    let kind = if target.verb == "patch" { Some(verbs::PatchKind::of(call)?) } else { None };
    let updated = write
        .update(&target.namespace, &target.name, |live| {
            let before = show(&places, live);
            let scale = match kind {
                Some(kind) => verbs::patch_scale(kind, &before, call)?,
                None => body.clone(),
            };
            let replicas = match &scale["spec"]["replicas"] {
                Value::Null => 0,
                value => value.as_i64().filter(|count| *count >= 0).ok_or_else(|| {
                    let wrong = "must be greater than or equal to 0";
                    let cause = Cause::invalid("spec.replicas", value, wrong);
                    Failure::invalid_of("autoscaling", "Scale", &target.name, vec![cause])
                })?,
            };
            let mut new = live.clone();
            put(&mut new, &places.spec, json!(replicas));
            let revision = object::meta(&scale, "resourceVersion");
            if !revision.is_empty() {
                object::set_meta(&mut new, "resourceVersion", json!(revision));
            }
            Ok(new)
        })
        .await?;
    let scale = show(&places, updated.object());
    Ok(respond::value(StatusCode::OK, &scale, &call.output))
}

/// What the scale of an object shows.
pub(crate) fn view(resource: &Resource, object: &Value) -> Value {
    show(&Places::of(resource), object)
}

/// Takes the replicas that a scale wants back into its object.
pub(crate) fn back(resource: &Resource, object: &mut Value, scale: &Value) {
    if let Some(replicas) = scale["spec"]["replicas"].as_i64() {
        put(object, &Places::of(resource).spec, json!(replicas));
    }
}

fn put(object: &mut Value, pointer: &str, value: Value) {
    let mut place = object;
    for part in pointer.split('/').filter(|part| !part.is_empty()) {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[part];
    }
    *place = value;
}

fn show(places: &Places, object: &Value) -> Value {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let mut meta = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            meta[field] = value.clone();
        }
    }
    let mut status = json!({"replicas": number(&places.status)});
    let selector = places.selector.as_deref().and_then(|pointer| object.pointer(pointer));
    if let Some(selector) = selector.map(selector_text).filter(|text| !text.is_empty()) {
        status["selector"] = json!(selector);
    }
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": meta,
        "spec": {"replicas": number(&places.spec)},
        "status": status,
    })
}

/// A label selector in the form of a query.
fn selector_text(selector: &Value) -> String {
    if let Some(text) = selector.as_str() {
        return text.to_owned();
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let structured =
        selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    let labels = if structured { &selector["matchLabels"] } else { selector };
    let mut terms: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", text(value)))
        .collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = text(&expression["key"]);
        let values: Vec<String> =
            expression["values"].as_array().into_iter().flatten().map(text).collect();
        let values = values.join(",");
        terms.push(match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key,
        });
    }
    terms.join(",")
}
