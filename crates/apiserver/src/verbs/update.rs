//! Replacing an object, or the part of it that a subresource is.

use std::sync::Arc;

use berth_schema::{Cause, Resource};
use http::{Response, StatusCode};
use serde_json::json;

use super::{create, read};
use crate::call::Call;
use crate::object;
use crate::respond::{self, Body};
use crate::server::Core;
use crate::status::Failure;
use crate::write::Write;

/// What Kubernetes lets a PUT create.
const CREATED_BY_PUT: &[(&str, &str)] = &[
    ("", "configmaps"),
    ("", "endpoints"),
    ("", "events"),
    ("", "limitranges"),
    ("", "services"),
    ("coordination.k8s.io", "leases"),
    ("discovery.k8s.io", "endpointslices"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("scheduling.k8s.io", "priorityclasses"),
];

pub(crate) async fn put(
    core: &Arc<Core>,
    call: &Call,
    resource: &Arc<Resource>,
    subresource: Option<&str>,
) -> Result<Response<Body>, Failure> {
    let mut warnings = Vec::new();
    let new = call.body_object(resource, &mut warnings)?;
    let target = &call.target;
    if object::name(&new).is_empty() {
        let cause = Cause::required("metadata.name", "name must be provided");
        return Err(Failure::invalid(resource, &target.name, vec![cause]));
    }
    if resource.custom.is_some() && object::meta(&new, "resourceVersion").is_empty() {
        let wrong = "must be specified for an update";
        let cause = Cause::invalid("metadata.resourceVersion", &json!(0), wrong);
        let (group, kind) = (&resource.group, &resource.plural);
        return Err(Failure::invalid_of(group, kind, &target.name, vec![cause]));
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
    let namespace = if resource.namespaced { target.namespace.as_str() } else { "" };
    let updated = write.update(namespace, &target.name, |_| Ok(new.clone())).await;
    let may_create = subresource.is_none()
        && object::meta(&new, "resourceVersion").is_empty()
        && CREATED_BY_PUT
            .iter()
            .any(|(group, plural)| *group == resource.group && *plural == resource.plural);
    let (code, written) = match updated {
        Ok(updated) => (StatusCode::OK, updated.into_written()),
        Err(failure) if failure.code == 404 && may_create => {
            (StatusCode::CREATED, create::commit(&write, new).await?)
        }
        Err(failure) => return Err(failure),
    };
    let mut response = read::respond_written(call, resource, code, &written)?;
    respond::warn(&mut response, &warnings);
    Ok(response)
}
