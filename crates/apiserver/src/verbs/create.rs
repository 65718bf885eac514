//! Creating.

use std::sync::Arc;

use berth_schema::{Cause, Resource, apply};
use berth_store::{Expect, WriteError};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::read;
use crate::admission::{self, Asked, Operation};
use crate::call::Call;
use crate::respond::{self, Body};
use crate::server::Core;
use crate::status::Failure;
use crate::write::{Write, Written, set_revision};
use crate::{object, record, rules};

/// How many generated names are tried when they are taken already.
const NAME_TRIES: usize = 8;
/// Longest start of a generated name: five letters follow, and 63 is what a label holds.
const NAME_START: usize = 58;

pub(crate) async fn create(
    core: &Arc<Core>,
    call: &Call,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, Failure> {
    let mut warnings = Vec::new();
    let object = call.body_object(resource, &mut warnings)?;
    if !object::meta(&object, "resourceVersion").is_empty() {
        return Err(Failure::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let manager = call.manager()?;
    let write = Write {
        core,
        call,
        resource,
        subresource: None,
        dry_run: call.dry_run()?,
        manager: Some(&manager),
    };
    let created = commit(&write, object).await?;
    warnings.extend(rules::advice::on_create(resource, &created.object));
    let mut response = read::respond_written(call, resource, StatusCode::CREATED, &created)?;
    respond::warn(&mut response, &warnings);
    Ok(response)
}

/// Completes a new object, judges it and stores it.
pub(crate) async fn commit(write: &Write<'_>, mut new: Value) -> Result<Written, Failure> {
    let Write { core, call, resource, .. } = *write;
    let is_named = !object::name(&new).is_empty() || !call.target.name.is_empty();
    let start: String = object::meta(&new, "generateName").chars().take(NAME_START).collect();
    if is_named || start.is_empty() {
        return commit_once(write, new).await;
    }
    // Looked for before all else: of 14 million endings hardly one is taken, and none is likely to
    // be while this object is judged.
    for _ in 0..NAME_TRIES {
        let name = format!("{start}{}", object::suffix());
        let key = record::key(resource, &call.target.namespace, &name);
        if core.store.get(&key).await?.0.is_none() {
            object::set_meta(&mut new, "name", json!(name));
            return commit_once(write, new).await;
        }
    }
    Err(Failure::already_exists(resource, &start))
}

async fn commit_once(write: &Write<'_>, mut new: Value) -> Result<Written, Failure> {
    let Write { core, call, resource, .. } = *write;
    identify(call, resource, &mut new)?;
    let (name, namespace) = (object::name(&new).to_owned(), object::namespace(&new).to_owned());
    if resource.namespaced {
        rules::namespace::must_be_active(core, resource, &namespace, &name).await?;
    }
    let kept_fields = new["metadata"]["managedFields"].clone();
    fill_in(resource, &mut new);
    rules::fold(resource, &mut new);
    berth_schema::default(resource, &mut new);
    // What the client said is his; what the server and its owner add from here on is nobody's.
    if let Some(manager) = write.manager {
        object::set_meta(&mut new, "managedFields", Value::Null);
        apply::track(resource, None, &mut new, manager, None, &object::now());
    } else {
        object::set_meta(&mut new, "managedFields", kept_fields);
    }
    rules::prepare_create(resource, &mut new);
    berth_schema::default(resource, &mut new);
    let reserved = rules::before_create(core, call, resource, &mut new).await?;
    let asked = Asked {
        core,
        call,
        resource,
        subresource: None,
        operation: Operation::Create,
        namespace: &namespace,
        name: &name,
        dry_run: write.dry_run,
        old: None,
    };
    admission::mutate(&asked, &mut new).await?;
    berth_schema::default(resource, &mut new);
    berth_schema::complete(resource, &mut new);
    let causes = berth_schema::validate(resource, &new, None, None);
    if !causes.is_empty() {
        return Err(Failure::invalid(resource, &name, causes));
    }
    admission::validate(&asked, Some(&new)).await?;
    let key = record::key(resource, &namespace, &name);
    if write.dry_run {
        if core.store.get(&key).await?.0.is_some() {
            return Err(Failure::already_exists(resource, &name));
        }
        return Ok(Written { object: new, entry: None });
    }
    let value = record::encode(resource, &new)?;
    match reserved.spend(core.store.put(key, value, Expect::Absent)).await {
        Ok(written) => {
            set_revision(&mut new, written.modified.0);
            Ok(Written { object: new, entry: Some(written) })
        }
        Err(WriteError::Conflict { .. }) => Err(Failure::already_exists(resource, &name)),
        Err(error) => Err(error.into()),
    }
}

/// Name and namespace from the body and the path, which must agree.
fn identify(call: &Call, resource: &Resource, new: &mut Value) -> Result<(), Failure> {
    new["apiVersion"] = json!(record::api_version(resource));
    new["kind"] = json!(resource.kind);
    if resource.namespaced {
        let (path, body) = (&call.target.namespace, object::namespace(new));
        if !body.is_empty() && body != path {
            return Err(Failure::bad_request(
                "the namespace of the provided object does not match the namespace sent on the \
                 request",
            ));
        }
        object::set_meta(new, "namespace", json!(path));
    } else {
        object::set_meta(new, "namespace", Value::Null);
    }
    let wanted = &call.target.name;
    let of_path = if resource.plural == "namespaces" && call.target.verb == "create" {
        ""
    } else {
        wanted.as_str()
    };
    let name = object::name(new);
    if !of_path.is_empty() && !name.is_empty() && of_path != name {
        return Err(Failure::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({of_path})"
        )));
    }
    if name.is_empty() && !of_path.is_empty() {
        object::set_meta(new, "name", json!(of_path));
    } else if name.is_empty() {
        let cause = Cause::required("metadata.name", "name or generateName is required");
        return Err(Failure::invalid(resource, "", vec![cause]));
    }
    let name = object::name(new);
    // Whatever the kind allows in a name: these would make another key or another path of it.
    if matches!(name, "." | "..") || name.contains(['/', '%']) {
        let cause = Cause::invalid(
            "metadata.name",
            &json!(name),
            "may not be '.' or '..' or contain '/' or '%'",
        );
        return Err(Failure::invalid(resource, name, vec![cause]));
    }
    Ok(())
}

/// What the server alone gives an object.
fn fill_in(resource: &Resource, new: &mut Value) {
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"]
    {
        object::set_meta(new, field, Value::Null);
    }
    object::set_meta(new, "uid", json!(object::new_uid()));
    object::set_meta(new, "creationTimestamp", json!(object::now()));
    let generation = if rules::has_generation(resource, new) { json!(1) } else { Value::Null };
    object::set_meta(new, "generation", generation);
}
