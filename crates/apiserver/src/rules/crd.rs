//! Custom resource definitions: from their creation to the moment they are served, and their end.
//!
//! ```text
//! created ─▶ follower takes it into the catalogue ─▶ NamesAccepted, Established = True
//! deleted ─▶ Terminating, objects deleted ─▶ none left ─▶ finalizer removed, no longer served
//! ```

use std::sync::Arc;
use std::time::Duration;

use berth_schema::Resource;
use berth_store::{Change, Expect, Revision};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::follow::{self, Seen};
use crate::server::Core;
use crate::status::Failure;
use crate::verbs::{self, DeleteOptions};
use crate::{object, record};

pub(crate) const PREFIX: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/";
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Names of definitions that wait for attention.
const QUEUE: usize = 1024;
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// A new definition is held until its objects are gone.
pub(super) fn prepare(new: &mut Value) {
    let mut finalizers = object::finalizers(new);
    if !finalizers.iter().any(|one| one == CLEANUP) {
        finalizers.push(CLEANUP.to_owned());
    }
    object::set_finalizers(new, finalizers);
    complete(new);
    let stored = storage_version(new);
    new["status"] = json!({
        "conditions": [],
        "acceptedNames": {"plural": "", "kind": ""},
        "storedVersions": [stored],
    });
}

fn storage_version(definition: &Value) -> String {
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let storage = versions.into_iter().find(|version| version["storage"] == true);
    storage.and_then(|version| version["name"].as_str()).unwrap_or_default().to_owned()
}

/// Fills in what a definition may leave out.
pub(super) fn complete(new: &mut Value) {
    if !new["spec"].is_object() {
        return;
    }
    let kind = new["spec"]["names"]["kind"].as_str().unwrap_or_default().to_owned();
    if new["spec"]["names"].is_object() {
        if new["spec"]["names"]["singular"].is_null() {
            new["spec"]["names"]["singular"] = json!(kind.to_lowercase());
        }
        if new["spec"]["names"]["listKind"].is_null() {
            new["spec"]["names"]["listKind"] = json!(format!("{kind}List"));
        }
    }
    if new["spec"]["conversion"].is_null() {
        new["spec"]["conversion"] = json!({"strategy": "None"});
    }
}

/// A definition on its way out says so.
pub(super) fn mark_terminating(new: &mut Value) {
    set_condition(
        new,
        "Terminating",
        "True",
        "InstanceDeletionPending",
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    );
}

fn set_condition(object: &mut Value, kind: &str, status: &str, reason: &str, message: &str) {
    let mut conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let before = conditions.iter().find(|condition| condition["type"] == kind);
    let same = before.is_some_and(|condition| condition["status"] == status);
    let since = match before {
        Some(before) if same => before["lastTransitionTime"].clone(),
        _ => json!(object::now()),
    };
    let condition = json!({
        "type": kind,
        "status": status,
        "lastTransitionTime": since,
        "reason": reason,
        "message": message,
    });
    match conditions.iter_mut().find(|condition| condition["type"] == kind) {
        Some(before) => *before = condition,
        None => conditions.push(condition),
    }
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    object["status"]["conditions"] = json!(conditions);
}

/// Takes the definitions there are into the catalogue.
pub(crate) async fn load(core: &Arc<Core>) -> Result<Revision, berth_store::ReadError> {
    let prefix = Bytes::from_static(PREFIX.as_bytes());
    follow::load(core.store.as_ref(), &prefix, |seen| {
        serve(core, &seen);
    })
    .await
}

/// Follows the definitions until it is dropped.
pub(crate) async fn run(core: Arc<Core>, from: Revision) {
    let (waiting, mut queue) = mpsc::channel::<String>(QUEUE);
    // Those that a stop interrupted half way.
    let known = definition_names(&core).await;
    let noticed = async {
        for name in known {
            let _ = waiting.send(name).await;
        }
        let prefix = Bytes::from_static(PREFIX.as_bytes());
        follow::follow(core.store.clone(), prefix, from, |seen| {
            for name in serve(&core, &seen) {
                if waiting.try_send(name).is_err() {
                    tracing::warn!("more custom resource definitions than can be attended to");
                }
            }
        })
        .await;
    };
    let attended = async {
        while let Some(name) = queue.recv().await {
            loop {
                match attend(&core, &name).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, name, "custom resource definition"),
                }
                // Objects end in their own time: their finalizers are other programs' work.
                tokio::time::sleep(TRY_AGAIN).await;
                if let Ok(next) = queue.try_recv()
                    && next != name
                    && let Err(error) = attend(&core, &next).await
                {
                    tracing::warn!(%error, name = next, "custom resource definition");
                }
            }
        }
    };
    tokio::join!(noticed, attended);
}

async fn definition_names(core: &Core) -> Vec<String> {
    let Ok(page) = core.store.list(PREFIX.as_bytes(), None, 0, None).await else {
        return Vec::new();
    };
    let keys = page.entries.iter().filter_map(|entry| std::str::from_utf8(&entry.key).ok());
    keys.filter_map(|key| Some(key.strip_prefix(PREFIX)?.to_owned())).collect()
}

/// Brings the catalogue in step; answers the names that need attention.
fn serve(core: &Core, seen: &Seen<'_>) -> Vec<String> {
    // Compiling takes its time: not while everybody waits for the catalogue.
    let define = |value: &[u8]| {
        if let Ok(definition) = serde_json::from_slice::<Value>(value) {
            core.guards.define(&definition);
        }
    };
    match seen {
        Seen::All(entries) => entries.iter().for_each(|entry| define(&entry.value)),
        Seen::Change(Change::Put { entry, .. }) => define(&entry.value),
        Seen::Change(Change::Delete { .. }) => {}
    }
    let mut catalog = core.catalog.write().expect("nothing panics while holding it");
    let mut put = |value: &[u8]| -> Option<String> {
        let definition: Value = serde_json::from_slice(value).ok()?;
        if taken(catalog.resources(), &definition).is_some() {
            return Some(object::name(&definition).to_owned());
        }
        if let Err(error) = catalog.add_crd(&definition) {
            tracing::warn!(%error, name = object::name(&definition), "definition not served");
        }
        Some(object::name(&definition).to_owned())
    };
    match seen {
        Seen::All(entries) => entries.iter().filter_map(|entry| put(&entry.value)).collect(),
        Seen::Change(Change::Put { entry, .. }) => put(&entry.value).into_iter().collect(),
        Seen::Change(Change::Delete { previous, .. }) => {
            let key = std::str::from_utf8(&previous.key).unwrap_or_default();
            if let Some(name) = key.strip_prefix(PREFIX) {
                catalog.remove_crd(name);
                core.guards.undefine(name);
            }
            core.guards.defined()
        }
    }
}

/// Does for one definition what is to be done; whether that is all.
async fn attend(core: &Arc<Core>, name: &str) -> Result<bool, Failure> {
    let key = Bytes::from(format!("{PREFIX}{name}"));
    let resource = core.resource("apiextensions.k8s.io", "v1", "customresourcedefinitions")?;
    let (Some(entry), _) = core.store.get(&key).await? else { return Ok(true) };
    let old = record::object(&resource, &entry);
    if !object::is_deleting(&old) {
        let mut new = old.clone();
        let taken = {
            let catalog = core.catalog.read().expect("nothing panics while holding it");
            taken(catalog.resources(), &old)
        };
        match taken {
            Some((reason, message)) => refuse(&mut new, reason, &message),
            None => {
                let mut catalog = core.catalog.write().expect("nothing panics while holding it");
                // It waited for a name that is free by now.
                if !catalog.resources().any(|one| is_of(one, name))
                    && let Err(error) = catalog.add_crd(&old)
                {
                    tracing::warn!(%error, name, "definition not served");
                }
                drop(catalog);
                establish(&mut new);
            }
        }
        if new == old {
            return Ok(true);
        }
        let value = record::encode(&resource, &new)?;
        return Ok(core.store.put(key, value, Expect::Modified(entry.modified)).await.is_ok());
    }
    if !object::finalizers(&old).iter().any(|one| one == CLEANUP) {
        return Ok(true);
    }
    if !empty(core, &old).await? {
        return Ok(false);
    }
    let mut new = old.clone();
    let mut finalizers = object::finalizers(&old);
    finalizers.retain(|one| one != CLEANUP);
    object::set_finalizers(&mut new, finalizers.clone());
    let expect = Expect::Modified(entry.modified);
    if finalizers.is_empty() {
        return Ok(core.store.delete(&key, expect).await.is_ok());
    }
    let value = record::encode(&resource, &new)?;
    Ok(core.store.put(key, value, expect).await.is_ok())
}

fn is_of(resource: &Resource, definition: &str) -> bool {
    resource.custom.as_ref().is_some_and(|own| own.definition == definition)
}

/// Which of a definition's names belongs to somebody else in its group: reason and message.
fn taken<'a>(
    resources: impl Iterator<Item = &'a Arc<Resource>>,
    definition: &Value,
) -> Option<(&'static str, String)> {
    let (own, names) = (object::name(definition), &definition["spec"]["names"]);
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    let text = |key: &str| names[key].as_str().unwrap_or_default();
    let short: Vec<&str> =
        names["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let others = resources.filter(|one| one.group == group && !is_of(one, own));
    for other in others {
        let used = |name: &str| {
            !name.is_empty()
                && (other.plural == name
                    || other.singular == name
                    || other.short_names.iter().any(|short| short == name))
        };
        let clash = [("PluralConflict", text("plural")), ("SingularConflict", text("singular"))]
            .into_iter()
            .chain(short.iter().map(|name| ("ShortNamesConflict", *name)))
            .find(|(_, name)| used(name))
            .or_else(|| (other.kind == text("kind")).then(|| ("KindConflict", text("kind"))));
        if let Some((reason, name)) = clash {
            return Some((reason, format!("\"{name}\" is already in use")));
        }
    }
    None
}

/// Notes that a definition is not served, for one of its names is taken.
fn refuse(definition: &mut Value, reason: &str, message: &str) {
    set_condition(definition, "NamesAccepted", "False", reason, message);
    let why = "not all names are accepted";
    set_condition(definition, "Established", "False", "NotAccepted", why);
}

/// The definition is in the catalogue: it may say so.
fn establish(definition: &mut Value) {
    let names = berth_schema::condition_names(definition);
    definition["status"]["acceptedNames"] = names;
    let stored = storage_version(definition);
    let mut versions =
        definition["status"]["storedVersions"].as_array().cloned().unwrap_or_default();
    if !versions.iter().any(|version| *version == stored) {
        versions.push(json!(stored));
    }
    definition["status"]["storedVersions"] = json!(versions);
    set_condition(definition, "NamesAccepted", "True", "NoConflicts", "no conflicts found");
    set_condition(
        definition,
        "Established",
        "True",
        "InitialNamesAccepted",
        "the initial names have been accepted",
    );
}

/// Deletes all objects of a definition; whether none is left.
async fn empty(core: &Arc<Core>, definition: &Value) -> Result<bool, Failure> {
    let of_it = |resource: &Arc<Resource>| {
        resource.custom.as_ref().is_some_and(|own| own.definition == object::name(definition))
    };
    let resource = {
        let catalog = core.catalog.read().expect("nothing panics while holding it");
        catalog.resources().find(|resource| of_it(resource)).cloned()
    };
    let Some(resource) = resource else { return Ok(true) };
    let prefix = record::prefix(&resource, "");
    let page = core.store.list(prefix.as_bytes(), None, 0, None).await?;
    for entry in &page.entries {
        let (namespace, name) = record::identity(&resource, &entry.key);
        let options = DeleteOptions::default();
        match verbs::remove(core, None, &resource, namespace, name, &options).await {
            Ok(_) => {}
            Err(failure) if failure.code == 404 => {}
            Err(failure) => return Err(failure),
        }
    }
    let left = core.store.list(prefix.as_bytes(), None, 1, None).await?;
    Ok(left.entries.is_empty())
}
