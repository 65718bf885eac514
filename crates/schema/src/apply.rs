//! Server-side apply: who owns which field.
//!
//! Every write leaves in `metadata.managedFields` which manager set which fields. An apply names
//! all the fields its manager wants: what others own and it would change is a conflict, what it
//! named before and does not name now goes, unless another owns it too.
//!
//! ```text
//! live ──merge by schema──▶ merged ──prune what only this manager had──▶ new
//!                              │
//!          compare with live ──┴──▶ others' fields among the changed = conflicts
//! ```
//!
//! # Guarantees
//! Applying the same configuration again changes nothing, not even a time.
//!
//! # Source
//! KEP-555 and Kubernetes' structured merge diff.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::Resource;

mod compare;
mod fields;
mod kubectl;
mod managers;
mod merge;
mod set;
mod text;

use managers::{Managers, Operation};
use set::Set;

/// A write by anyone else than an apply of one manager, from before this was noted.
const BEFORE: &str = "before-first-apply";

/// Someone else's field that an apply would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Who owns it, as Kubernetes words it: `"kubectl"` or `"kubectl" using apps/v1`.
    pub manager: String,
    /// Its path, `.spec.replicas`.
    pub field: String,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "conflict with {}: {}", self.manager, self.field)
    }
}

/// Why an apply is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others own what it would change (409); force takes it over.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration is malformed (400).
    #[error("{0}")]
    Malformed(String),
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    let word = if conflicts.len() == 1 { "conflict" } else { "conflicts" };
    let each: Vec<String> = conflicts.iter().map(ToString::to_string).collect();
    let [only] = each.as_slice() else {
        let mut managers: Vec<&str> = conflicts.iter().map(|one| one.manager.as_str()).collect();
        managers.dedup();
        let of = |manager: &str| {
            let fields = conflicts.iter().filter(|one| one.manager == manager);
            let lines: Vec<String> = fields.map(|one| format!("\n- {}", one.field)).collect();
            format!("conflicts with {manager}:{}", lines.concat())
        };
        let all: Vec<String> = managers.into_iter().map(of).collect();
        return format!("Apply failed with {} {word}: {}", each.len(), all.join("\n"));
    };
    format!("Apply failed with 1 {word}: {only}")
}

/// Applies a configuration onto `live`; with none, the object is new.
///
/// `applied` and `live` are of the resource's version; `now` is RFC 3339 in seconds. What comes out
/// is to be read again, defaulted and validated.
///
/// # Errors
/// When others own what it would change and `force` is not set, or it is malformed: it carries
/// `managedFields`, or a list has an item without its keys or two of the same.
pub fn apply(
    resource: &Resource,
    live: Option<&Value>,
    applied: &Value,
    manager: &str,
    force: bool,
    subresource: Option<&str>,
    now: &str,
) -> Result<Value, ApplyError> {
    let managed = &applied["metadata"]["managedFields"];
    if managed.as_array().is_some_and(|list| !list.is_empty()) {
        return Err(ApplyError::Malformed("metadata.managedFields must be nil".to_owned()));
    }
    if manager.is_empty() {
        return Err(ApplyError::Malformed("fieldManager is required for apply patch".to_owned()));
    }
    let schema = Some(&resource.schema);
    // A body may be large, and each copy of it some twenty times as large: what can be lent is lent.
    let mut applied = Cow::Borrowed(applied);
    if applied["metadata"].get("managedFields").is_some() {
        managers::strip(applied.to_mut());
    }
    fields::check(&applied, schema).map_err(ApplyError::Malformed)?;
    let version = resource.api_version();
    let wanted = || {
        let mut wanted = fields::of(&applied, schema);
        owned(&mut wanted, resource, subresource);
        wanted
    };
    let Some(live) = live else {
        let mut new = merge::values(&json!({}), &applied, schema);
        let mut managers = Managers::default();
        managers.set(manager, Operation::Apply, &version, subresource, wanted(), now);
        managers.write(&mut new);
        return Ok(new);
    };
    let wanted = wanted();
    let mut current = live.clone();
    let mut managers = Managers::of_list(&managers::take_list(&mut current), &resource.schema);
    if managers.is_empty() {
        // As if somebody had created it so.
        let mut all = compare::values(&json!({}), &current, schema).changed();
        owned(&mut all, resource, None);
        managers.set(BEFORE, Operation::Update, &version, None, all, now);
    }
    let mut new = merge::values(&current, &applied, schema);
    let own = managers.take_apply(manager, subresource);
    let mut touched = compare::values(&current, &new, schema).changed();
    touched.keep(&wanted);
    let mut conflicts = managers.conflicts(&touched);
    if !conflicts.is_empty() && !force {
        if let Some(applied_before) = kubectl::applied_before(resource, manager, &current) {
            let mut rest = touched.clone();
            rest.subtract(&applied_before);
            conflicts = managers.conflicts(&rest);
        }
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
    }
    // What is taken over belongs to the others no more.
    managers.lose(&touched);
    drop(touched);
    if let Some(own) = &own {
        let mut kept = managers.all();
        kept.absorb(wanted.clone());
        merge::prune(&mut new, &own.set, Some(&kept), schema);
    }
    managers::restore(&mut new, live);
    let gone = compare::values(&current, &new, schema).removed;
    managers.lose(&gone);
    drop(gone);
    // An apply that changes nothing leaves the time of the one before.
    let time = match own {
        Some(own) if new == current => own.time,
        _ => now.to_owned(),
    };
    drop(current);
    managers.set(manager, Operation::Apply, &version, subresource, wanted, &time);
    kubectl::note(manager, &applied, &mut new);
    managers.write(&mut new);
    Ok(new)
}

/// Notes in `new.metadata.managedFields` who changed what, for everything but an apply. Both are
/// as they are stored: read, defaulted.
///
/// `new` may bring entries of its own (a client may drop some; a list of one empty entry clears
/// them all); without any, those of `old` go on. What is cleared stays so until an apply.
pub fn track(
    resource: &Resource,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    subresource: Option<&str>,
    now: &str,
) {
    let brought = new["metadata"]["managedFields"].as_array();
    let cleared = brought.is_some_and(|list| match list.as_slice() {
        [only] => only.as_object().is_some_and(serde_json::Map::is_empty),
        _ => false,
    });
    // By the door of a subresource nobody says who owns what.
    if cleared && subresource.is_none() {
        managers::drop_all(new);
        return;
    }
    let brought = managers::take_list(new);
    let list = match old {
        Some(old) if subresource.is_some() || !managers::is_valid(&brought) => {
            old["metadata"]["managedFields"].as_array().cloned().unwrap_or_default()
        }
        _ => brought,
    };
    // An object of which nothing is noted stays so until somebody applies to it.
    if old.is_some() && !managers::is_valid(&list) {
        return;
    }
    let empty = json!({});
    note(resource, list, old.unwrap_or(&empty), new, manager, subresource, now);
}

/// As [`track`] for a change through a subresource. Neither object has its entries: those of the
/// old one are `list`, and `fieldsV1` in them may be the text of it. So it is afterwards in those
/// that the change left as they were.
pub fn track_unread(
    resource: &Resource,
    list: Vec<Value>,
    old: &Value,
    new: &mut Value,
    manager: &str,
    subresource: &str,
    now: &str,
) {
    if managers::is_valid(&list) {
        note(resource, list, old, new, manager, Some(subresource), now);
    }
}

fn note(
    resource: &Resource,
    list: Vec<Value>,
    before: &Value,
    new: &mut Value,
    manager: &str,
    subresource: Option<&str>,
    now: &str,
) {
    let mut changes = compare::values(before, new, Some(&resource.schema));
    // The old one may still have its entries, which no one owns.
    if let Some(metadata) = changes.removed.child_field("metadata") {
        metadata.remove_field("managedFields");
    }
    changes.removed.drop_empty_field("metadata");
    let removed = std::mem::take(&mut changes.removed);
    let mut changed = changes.changed();
    owned(&mut changed, resource, subresource);
    let version = resource.api_version();
    if removed.is_empty()
        && let Some(list) = managers::again(&list, &changed, manager, subresource, &version, now)
    {
        managers::put_list(new, list);
        return;
    }
    let touched = [&changed, &removed];
    let (unread, list) = managers::part(list, &touched, manager, subresource, &version);
    let mut managers = Managers::of_list(&list, &resource.schema);
    let own = managers.take_update(manager, subresource, &version);
    managers.lose(&changed);
    managers.lose(&removed);
    let time = match &own {
        Some(own) if changed.is_empty() => own.time.clone(),
        _ => now.to_owned(),
    };
    let mut has = own.map(|own| own.set).unwrap_or_default();
    has.subtract_deep(&removed);
    has.absorb(changed);
    managers.set(manager, Operation::Update, &version, subresource, has, &time);
    if unread.is_empty() {
        managers.join_old();
        managers.write(new);
    } else {
        managers.write_among(unread, new);
    }
}

/// Leaves out what no one owns: what the server writes, and status where it has its own door.
fn owned(set: &mut Set, resource: &Resource, subresource: Option<&str>) {
    set.remove_field("apiVersion");
    set.remove_field("kind");
    let own = [
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "generation",
        "managedFields",
        "name",
        "namespace",
        "resourceVersion",
        "selfLink",
        "uid",
    ];
    if let Some(metadata) = set.child_field("metadata") {
        metadata.unmark();
        own.into_iter().for_each(|name| metadata.remove_field(name));
    }
    set.drop_empty_field("metadata");
    if subresource.is_none() && resource.subresource("status").is_some() {
        set.remove_field("status");
    }
    if subresource == Some("status") {
        set.remove_field("spec");
    }
}

#[cfg(test)]
mod tests;
