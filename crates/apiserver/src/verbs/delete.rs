//! Deleting: at once, or by stages when finalizers or a pod's grace stand in between.

use std::sync::Arc;

use berth_schema::{Cause, Resource};
use berth_store::{Entry, Expect, WriteError};
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::list::{self, Selection};
use super::read;
use crate::admission::{self, Asked, Operation};
use crate::call::Call;
use crate::respond::{self, Body};
use crate::server::Core;
use crate::status::{self, Failure};
use crate::write::{Updated, set_revision};
use crate::{object, record, rules};

const TRIES: usize = 12;
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// Of the core group: what a deletion answers with as it last was.
const ANSWERED_WHOLE: [&str; 7] = [
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
    "services",
];

/// How to delete.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) grace_seconds: Option<i64>,
    /// What becomes of dependents; none leaves it to the finalizers that are there.
    pub(crate) propagation: Option<String>,
    pub(crate) uid: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) dry_run: bool,
}

impl Options {
    /// From the body's `DeleteOptions` and the query.
    pub(crate) fn parse(call: &Call) -> Result<Self, Failure> {
        let body = call.body_value()?;
        let mut options = Self::from_value(&body)?;
        options.dry_run |= call.dry_run()?;
        if let Some(seconds) =
            call.query.integer("gracePeriodSeconds").map_err(Failure::bad_request)?
        {
            options.grace_seconds = Some(seconds);
        }
        if let Some(policy) = call.query.get("propagationPolicy") {
            options.propagation = Some(policy.to_owned());
        }
        if let (Some(policy), Some(_)) =
            (call.query.get("propagationPolicy"), call.query.get("orphanDependents"))
        {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            let cause = Cause::invalid("propagationPolicy", &json!(policy), why);
            return Err(Failure::invalid_options("DeleteOptions", vec![cause]));
        }
        if call.query.is_on("orphanDependents") {
            options.propagation = Some("Orphan".to_owned());
        }
        options.check()
    }

    pub(crate) fn from_value(body: &Value) -> Result<Self, Failure> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let options = Self {
            grace_seconds: body["gracePeriodSeconds"].as_i64(),
            propagation: text(&body["propagationPolicy"]).or_else(|| {
                let orphan = body["orphanDependents"].as_bool()?;
                Some(if orphan { "Orphan" } else { "Background" }.to_owned())
            }),
            uid: text(&body["preconditions"]["uid"]),
            revision: text(&body["preconditions"]["resourceVersion"]),
            dry_run: body["dryRun"].as_array().is_some_and(|list| !list.is_empty()),
        };
        options.check()
    }

    fn check(self) -> Result<Self, Failure> {
        match self.propagation.as_deref() {
            None | Some("Background" | "Foreground" | "Orphan") => Ok(self),
            Some(other) => {
                let allowed = ["Foreground", "Background", "Orphan", "nil"];
                let cause = Cause::not_supported("propagationPolicy", &json!(other), &allowed);
                Err(Failure::invalid_options("DeleteOptions", vec![cause]))
            }
        }
    }
}

pub(crate) async fn delete(
    core: &Arc<Core>,
    call: &Call,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, Failure> {
    let options = Options::parse(call)?;
    let target = &call.target;
    let namespace = if resource.namespaced { target.namespace.as_str() } else { "" };
    let removed = remove(core, Some(call), resource, namespace, &target.name, &options).await?;
    let answers_object =
        resource.group.is_empty() && ANSWERED_WHOLE.contains(&resource.plural.as_str());
    match removed {
        Updated::Removed(last) if !answers_object => {
            let status = status::deleted(resource, &target.name, object::uid(&last));
            Ok(respond::value(StatusCode::OK, &status, &call.output))
        }
        other => read::respond_object(call, resource, StatusCode::OK, other.object()),
    }
}

pub(crate) async fn delete_collection(
    core: &Arc<Core>,
    call: &Call,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, Failure> {
    let options = Options::parse(call)?;
    let selection = Selection::parse(call, resource)?;
    let found = list::find(core, call, resource, &selection).await?;
    let mut items = Vec::new();
    for entry in &found.entries {
        let (namespace, name) = record::identity(resource, &entry.key);
        match remove(core, Some(call), resource, namespace, name, &options).await {
            Ok(removed) => {
                let mut item = removed.object().clone();
                if resource.custom.is_none() {
                    record::nameless(&mut item);
                }
                items.push(item);
            }
            Err(failure) if failure.code == 404 => {}
            Err(failure) => return Err(failure),
        }
    }
    let list = json!({
        "kind": format!("{}List", resource.kind),
        "apiVersion": record::api_version(resource),
        "metadata": {"resourceVersion": found.revision.to_string()},
        "items": items,
    });
    Ok(respond::value(StatusCode::OK, &list, &call.output))
}

/// Deletes an object, or sets about it: [`Updated::Kept`] is one that still waits for something.
/// Admission is asked when there is a `call`, that is somebody's wish.
pub(crate) async fn remove(
    core: &Arc<Core>,
    call: Option<&Call>,
    resource: &Arc<Resource>,
    namespace: &str,
    name: &str,
    options: &Options,
) -> Result<Updated, Failure> {
    let key = record::key(resource, namespace, name);
    for _ in 0..TRIES {
        let (entry, _) = core.store.get(&key).await?;
        let entry = entry.ok_or_else(|| Failure::not_found(resource, name))?;
        if let Some(done) = remove_once(core, call, resource, &entry, options).await? {
            return Ok(done);
        }
    }
    Err(Failure::modified_meanwhile(resource, name))
}

async fn remove_once(
    core: &Arc<Core>,
    call: Option<&Call>,
    resource: &Arc<Resource>,
    entry: &Entry,
    options: &Options,
) -> Result<Option<Updated>, Failure> {
    let old = record::object(resource, entry);
    let name = object::name(&old).to_owned();
    let name = name.as_str();
    let precondition = |what: &str, wanted: &Option<String>, own: &str, then: &str| match wanted {
        Some(wanted) if wanted != own => {
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record \
                 ({own}). The object might have been {then}"
            );
            Err(Failure::unmet(resource, name, &why))
        }
        _ => Ok(()),
    };
    let revision = object::meta(&old, "resourceVersion");
    precondition("UID", &options.uid, object::uid(&old), "deleted and then recreated")?;
    precondition("ResourceVersion", &options.revision, revision, "modified")?;
    rules::may_delete(resource, &old)?;
    if let Some(call) = call {
        let asked = Asked {
            core,
            call,
            resource,
            subresource: None,
            operation: Operation::Delete,
            namespace: object::namespace(&old),
            name,
            dry_run: options.dry_run,
            old: Some(&old),
        };
        admission::validate(&asked, None).await?;
    }

    let new = marked(resource, &old, options, Timestamp::now());
    let done = if rules::is_finished(resource, &new) {
        if options.dry_run {
            return Ok(Some(Updated::Removed(old)));
        }
        let deleted = core.store.delete(&entry.key, Expect::Modified(entry.modified)).await;
        deleted.map(|(_, revision)| {
            // What could have had a grace tells that its end was wished for.
            let graceful = new["metadata"]["deletionGracePeriodSeconds"].is_number()
                && resource.storage_plural == "pods";
            let mut last = if graceful { new } else { old };
            rules::after_delete(core, resource, &last);
            set_revision(&mut last, revision.0);
            Updated::Removed(last)
        })
    } else {
        if options.dry_run || new == old {
            return Ok(Some(Updated::Kept(new, None)));
        }
        let value = record::encode(resource, &new)?;
        let put = core.store.put(entry.key.clone(), value, Expect::Modified(entry.modified)).await;
        put.map(|written| {
            rules::after_update(core, resource, &old, &new);
            let mut new = new;
            set_revision(&mut new, written.modified.0);
            Updated::Kept(new, None)
        })
    };
    match done {
        Ok(done) => Ok(Some(done)),
        Err(WriteError::Conflict { .. }) => Ok(None),
        Err(WriteError::NotFound) => Err(Failure::not_found(resource, name)),
        Err(error) => Err(error.into()),
    }
}

/// The object with deletion asked for; finished when nothing stands in its way.
fn marked(resource: &Resource, old: &Value, options: &Options, now: Timestamp) -> Value {
    let mut new = old.clone();
    let mut finalizers = object::finalizers(old);
    if let Some(policy) = options.propagation.as_deref() {
        finalizers.retain(|one| one != FOREGROUND && one != ORPHAN);
        match policy {
            "Foreground" => finalizers.push(FOREGROUND.to_owned()),
            "Orphan" => finalizers.push(ORPHAN.to_owned()),
            _ => {}
        }
        object::set_finalizers(&mut new, finalizers);
    }
    let grace = rules::grace(resource, old, options.grace_seconds);
    let already = old["metadata"]["deletionGracePeriodSeconds"].as_i64();
    let grace = match already {
        Some(already) if object::is_deleting(old) => {
            if grace >= already {
                return new;
            }
            grace
        }
        _ => grace,
    };
    if rules::ends_without_grace(resource) {
        if !object::is_deleting(old) {
            object::set_meta(&mut new, "deletionTimestamp", json!(object::time(now)));
            rules::mark_deleting(resource, &mut new);
        }
        return new;
    }
    let at = now + SignedDuration::from_secs(grace);
    object::set_meta(&mut new, "deletionTimestamp", json!(object::time(at)));
    object::set_meta(&mut new, "deletionGracePeriodSeconds", json!(grace));
    if !object::is_deleting(old)
        && let Some(generation) = old["metadata"]["generation"].as_i64()
        && generation > 0
    {
        object::set_meta(&mut new, "generation", json!(generation + 1));
    }
    rules::mark_deleting(resource, &mut new);
    new
}
