//! Patching: JSON patch, JSON merge patch, strategic merge patch, server-side apply.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_schema::apply::{self, ApplyError};
use berth_schema::patch::{self, PatchError};
use berth_schema::{Cause, Format, Resource};
use http::{Response, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{create, read};
use crate::call::Call;
use crate::respond::{self, Body};
use crate::server::Core;
use crate::status::Failure;
use crate::write::Write;
use crate::{object, record, rules};

const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, \
                        application/strategic-merge-patch+json, application/apply-patch+yaml";

/// What custom resources take: their schemas know no merge keys.
const ACCEPTED_CUSTOM: &str = "application/json-patch+json, application/merge-patch+json, \
                               application/apply-patch+yaml";

/// How a patch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl Kind {
    pub(crate) fn of(call: &Call) -> Result<Self, Failure> {
        match call.content_type() {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            other => Err(Failure::unsupported_media_type(other, ACCEPTED)),
        }
    }
}

pub(crate) async fn patch(
    core: &Arc<Core>,
    call: &Call,
    resource: &Arc<Resource>,
    subresource: Option<&str>,
) -> Result<Response<Body>, Failure> {
    let kind = Kind::of(call)?;
    if kind == Kind::Strategic && resource.custom.is_some() {
        return Err(Failure::unsupported_media_type(call.content_type(), ACCEPTED_CUSTOM));
    }
    if kind == Kind::Apply {
        return apply(core, call, resource, subresource).await;
    }
    if call.query.get("force").is_some() {
        let cause = Cause::forbidden("force", "may not be specified for non-apply patch");
        return Err(Failure::invalid_options("PatchOptions", vec![cause]));
    }
    let manager = call.manager()?;
    let write = Write {
        core,
        call,
        resource,
        subresource,
        dry_run: call.dry_run()?,
        manager: Some(&manager),
    };
    let target = &call.target;
    let namespace = if resource.namespaced { target.namespace.as_str() } else { "" };
    let mut warnings = Vec::new();
    if write.is_slim() && matches!(kind, Kind::Merge | Kind::Strategic) && is_of_status(&call.body)
    {
        let done = write.update_slim(namespace, &target.name, |live| {
            warnings.clear();
            let made = patched(resource, kind, live, &call.body)?;
            call.retype(resource, made, || None, &mut warnings)
        });
        if let Some(entry) = done.await? {
            let mut response = read::respond_entry(call, resource, StatusCode::OK, &entry)?;
            respond::warn(&mut response, &warnings);
            return Ok(response);
        }
    }
    let updated = write
        .update(namespace, &target.name, |live| {
            warnings.clear();
            let make = || patched(resource, kind, live, &call.body);
            // What the patch brought in is judged as a body would be.
            call.retype(resource, make()?, || make().ok(), &mut warnings)
        })
        .await?;
    let mut response =
        read::respond_written(call, resource, StatusCode::OK, &updated.into_written())?;
    respond::warn(&mut response, &warnings);
    Ok(response)
}

/// Whether a patch is about the status and plain metadata, and says so in no odd way.
fn is_of_status(body: &[u8]) -> bool {
    type Fields<'a> = BTreeMap<String, &'a RawValue>;
    let Ok(fields) = serde_json::from_slice::<Fields<'_>>(body) else { return false };
    let is_known = |name: &str| matches!(name, "apiVersion" | "kind" | "metadata" | "status");
    let is_plain = |text: &RawValue| {
        let fields = serde_json::from_str::<Fields<'_>>(text.get());
        fields.is_ok_and(|fields| {
            !fields.keys().any(|name| name == "managedFields" || name.starts_with('$'))
        })
    };
    fields.keys().all(|name| is_known(name))
        && fields.get("metadata").is_none_or(|own| is_plain(own))
}

fn patched(resource: &Resource, kind: Kind, live: &Value, body: &[u8]) -> Result<Value, Failure> {
    let done = match kind {
        Kind::Json => patch::json(live, body),
        Kind::Merge => patch::merge(live, body),
        Kind::Strategic | Kind::Apply => {
            let body: Value = serde_json::from_slice(body)
                .map_err(|error| Failure::bad_request(format!("the patch is no JSON: {error}")))?;
            patch::strategic(resource, live, &body)
        }
    };
    done.map_err(|error| match error {
        PatchError::Unfit(why) => Failure::unfit_patch(resource, object::name(live), why),
        other => Failure::bad_request(other.to_string()),
    })
}

async fn apply(
    core: &Arc<Core>,
    call: &Call,
    resource: &Arc<Resource>,
    subresource: Option<&str>,
) -> Result<Response<Body>, Failure> {
    let Some(manager) = call.query.get("fieldManager") else {
        let cause = Cause::required("fieldManager", "is required for apply patch");
        return Err(Failure::invalid_options("PatchOptions", vec![cause]));
    };
    let force = call.query.is_on("force");
    let mut warnings = Vec::new();
    let mut applied = call.decode(resource, &call.body, Format::Yaml, &mut warnings)?;
    let target = &call.target;
    let own = object::name(&applied);
    if !own.is_empty() && own != target.name {
        return Err(Failure::bad_request(format!(
            "the name of the object ({own}) does not match the name on the URL ({})",
            target.name
        )));
    }
    if applied["metadata"].get("managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    applied["apiVersion"] = json!(record::api_version(resource));
    applied["kind"] = json!(resource.kind);
    let write =
        Write { core, call, resource, subresource, dry_run: call.dry_run()?, manager: None };
    let namespace = if resource.namespaced { target.namespace.as_str() } else { "" };
    let merge = |live: Option<&Value>| {
        apply::apply(resource, live, &applied, manager, force, subresource, &object::now())
            .map_err(refused)
    };
    let (mut code, mut tries) = (StatusCode::OK, 3);
    let written = loop {
        tries -= 1;
        match write.update(namespace, &target.name, |live| merge(Some(live))).await {
            Ok(updated) => break updated.into_written(),
            Err(failure) if failure.code == 404 && subresource.is_none() => {
                if !object::meta(&applied, "uid").is_empty() {
                    return Err(Failure::conflict(
                        resource,
                        &target.name,
                        "uid mismatch: the provided object specified a uid, and no existing \
                         object was found",
                    ));
                }
                code = StatusCode::CREATED;
                match create::commit(&write, merge(None)?).await {
                    // Somebody else created it meanwhile.
                    Err(failure) if failure.reason == "AlreadyExists" && tries > 0 => {
                        code = StatusCode::OK;
                    }
                    done => break done?,
                }
            }
            Err(failure) => return Err(failure),
        }
    };
    if code == StatusCode::CREATED {
        warnings.extend(rules::advice::on_create(resource, &written.object));
    }
    let mut response = read::respond_written(call, resource, code, &written)?;
    respond::warn(&mut response, &warnings);
    Ok(response)
}

fn refused(error: ApplyError) -> Failure {
    let message = error.to_string();
    let ApplyError::Conflicts(conflicts) = error else { return Failure::bad_request(message) };
    let causes = conflicts
        .into_iter()
        .map(|conflict| Cause {
            reason: "FieldManagerConflict",
            message: format!("conflict with {}", conflict.manager),
            field: conflict.field,
        })
        .collect::<Vec<_>>();
    Failure::apply_conflict(message, causes)
}

/// A patch of a `Scale`; the few fields it has merge the same way in every kind of patch.
pub(crate) fn scale(kind: Kind, live: &Value, call: &Call) -> Result<Value, Failure> {
    let done = match kind {
        Kind::Json => patch::json(live, &call.body),
        Kind::Merge | Kind::Strategic => patch::merge(live, &call.body),
        Kind::Apply => return Err(Failure::unsupported_media_type(call.content_type(), ACCEPTED)),
    };
    done.map_err(|error| Failure::bad_request(error.to_string()))
}
