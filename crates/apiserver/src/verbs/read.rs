//! Getting one object, and answering with one.

use std::sync::Arc;

use berth_schema::Resource;
use berth_schema::table::{self, IncludeObject};
use berth_store::Entry;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::call::Call;
use crate::media::Shape;
use crate::respond::{self, Body};
use crate::server::Core;
use crate::status::Failure;
use crate::write::Written;
use crate::{object, record};

pub(crate) async fn get(
    core: &Arc<Core>,
    call: &Call,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, Failure> {
    let target = &call.target;
    let key = record::key(resource, &target.namespace, &target.name);
    let (entry, revision) = core.store.get(&key).await?;
    if let Some(wanted) = call.query.get("resourceVersion") {
        let wanted: u64 = wanted
            .parse()
            .map_err(|_| Failure::bad_request(format!("invalid resource version {wanted:?}")))?;
        if wanted > revision.0 {
            return Err(Failure::revision_too_large(wanted, revision.0));
        }
    }
    let entry = entry.ok_or_else(|| Failure::not_found(resource, &target.name))?;
    respond_entry(call, resource, StatusCode::OK, &entry)
}

/// An answer with one stored object in the shape asked for.
pub(crate) fn respond_entry(
    call: &Call,
    resource: &Arc<Resource>,
    code: StatusCode,
    entry: &Entry,
) -> Result<Response<Body>, Failure> {
    if call.output.shape == Shape::Whole {
        let mut out = Vec::with_capacity(entry.value.len() + 96);
        record::splice(&mut out, resource, &entry.value, entry.modified.0);
        return Ok(respond::json(code, out, &call.output));
    }
    respond_object(call, resource, code, &record::object(resource, entry))
}

/// An object of the core group that must be there for this request to make sense.
pub(crate) async fn found(
    core: &Core,
    plural: &str,
    namespace: &str,
    name: &str,
) -> Result<Value, Failure> {
    let found = core.core_object(plural, namespace, name).await?;
    found.ok_or_else(|| Failure::no_such(plural, name))
}

/// An answer with one object in the shape asked for.
pub(crate) fn respond_object(
    call: &Call,
    resource: &Resource,
    code: StatusCode,
    object: &Value,
) -> Result<Response<Body>, Failure> {
    let shaped = match &call.output.shape {
        Shape::Whole | Shape::Discovery(_) => {
            return Ok(respond::value(code, object, &call.output));
        }
        Shape::Table(version) => {
            let list_meta = json!({"resourceVersion": object::meta(object, "resourceVersion")});
            to_table(call, resource, std::slice::from_ref(object), version, list_meta, false)?
        }
        Shape::Metadata(version) => to_metadata(object, version),
    };
    Ok(respond::value(code, &shaped, &call.output))
}

/// As [`respond_object`], from the stored bytes where there are some.
pub(crate) fn respond_written(
    call: &Call,
    resource: &Arc<Resource>,
    code: StatusCode,
    written: &Written,
) -> Result<Response<Body>, Failure> {
    match &written.entry {
        Some(entry) if call.output.shape == Shape::Whole && !record::is_converted(resource) => {
            respond_entry(call, resource, code, entry)
        }
        _ => respond_object(call, resource, code, &written.object),
    }
}

pub(crate) fn to_table(
    call: &Call,
    resource: &Resource,
    objects: &[Value],
    version: &str,
    list_meta: Value,
    omit_headers: bool,
) -> Result<Value, Failure> {
    let include = match call.query.get("includeObject") {
        None | Some("Metadata") => IncludeObject::Metadata,
        Some("None") => IncludeObject::None,
        Some("Object") => IncludeObject::Object,
        Some(other) => {
            return Err(Failure::bad_request(format!(
                "includeObject: {other:?} is none of None, Metadata, Object"
            )));
        }
    };
    let now = jiff::Timestamp::now();
    Ok(table::render(resource, objects, include, version, now, list_meta, omit_headers))
}

pub(crate) fn to_metadata(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object["metadata"],
    })
}
