//! What every write has in common: reading back, checking what may not change, writing when nobody
//! else did, and the end of objects that were only waiting for their finalizers.

mod slim;

use std::sync::Arc;

use berth_schema::{Cause, Resource, apply};
use berth_store::{Entry, Expect, WriteError};
use serde_json::{Value, json};

use crate::admission::{self, Asked, Operation};
use crate::call::Call;
use crate::server::Core;
use crate::status::Failure;
use crate::{object, record, rules};

/// How often a write is tried anew when somebody else was faster.
const TRIES: usize = 12;

/// One write: who, to what, how.
pub(crate) struct Write<'a> {
    pub(crate) core: &'a Arc<Core>,
    pub(crate) call: &'a Call,
    pub(crate) resource: &'a Arc<Resource>,
    pub(crate) subresource: Option<&'a str>,
    pub(crate) dry_run: bool,
    /// Who owns the fields that change; none when the change has noted that itself.
    pub(crate) manager: Option<&'a str>,
}

/// What an update did.
pub(crate) enum Updated {
    /// The object as it is now, and as it was stored; none when nothing was written.
    Kept(Value, Option<Entry>),
    /// The object as it last was: its last finalizer went, and so did it.
    Removed(Value),
}

impl Updated {
    pub(crate) fn object(&self) -> &Value {
        match self {
            Self::Kept(object, _) | Self::Removed(object) => object,
        }
    }

    pub(crate) fn into_written(self) -> Written {
        match self {
            Self::Kept(object, entry) => Written { object, entry },
            Self::Removed(object) => Written { object, entry: None },
        }
    }
}

/// An object that was written, and its bytes in the store, which spare the answer to write it
/// once more.
pub(crate) struct Written {
    pub(crate) object: Value,
    pub(crate) entry: Option<Entry>,
}

impl Write<'_> {
    /// Reads the object, 404 when it is not there.
    pub(crate) async fn live(&self, namespace: &str, name: &str) -> Result<Entry, Failure> {
        let key = record::key(self.resource, namespace, name);
        let (entry, _) = self.core.store.get(&key).await?;
        entry.ok_or_else(|| Failure::not_found(self.resource, name))
    }

    /// Replaces an object by what `change` makes of it; again and again when others write
    /// meanwhile, unless the change insists on a revision.
    pub(crate) async fn update<F>(
        &self,
        namespace: &str,
        name: &str,
        mut change: F,
    ) -> Result<Updated, Failure>
    where
        F: FnMut(&Value) -> Result<Value, Failure> + Send,
    {
        for _ in 0..TRIES {
            let entry = self.live(namespace, name).await?;
            let old = record::object(self.resource, &entry);
            let new = change(&old)?;
            // A revision other than the live one was put there by the client.
            let wanted = object::meta(&new, "resourceVersion");
            if !wanted.is_empty() && wanted != object::meta(&old, "resourceVersion") {
                return Err(Failure::modified_meanwhile(self.resource, name));
            }
            match self.replace(&entry, &old, new).await? {
                Some(updated) => return Ok(updated),
                None => continue,
            }
        }
        Err(Failure::modified_meanwhile(self.resource, name))
    }

    /// Writes `new` in place of `entry`; none when somebody else wrote first.
    pub(crate) async fn replace(
        &self,
        entry: &Entry,
        old: &Value,
        mut new: Value,
    ) -> Result<Option<Updated>, Failure> {
        let Self { core, resource, .. } = *self;
        let name = object::name(old).to_owned();
        keep_identity(resource, old, &mut new)?;
        rules::confine(resource, self.subresource, old, &mut new);
        berth_schema::default(resource, &mut new);
        // What the client said is his; what the server and its owner add from here on is nobody's.
        if let Some(manager) = self.manager {
            apply::track(resource, Some(old), &mut new, manager, self.subresource, &object::now());
        }
        let reserved =
            rules::before_update(core, &self.call.user, resource, self.subresource, old, &mut new)
                .await?;
        let namespace = object::namespace(old);
        let asked = Asked {
            core,
            call: self.call,
            resource,
            subresource: self.subresource,
            operation: Operation::Update,
            namespace,
            name: &name,
            dry_run: self.dry_run,
            old: Some(old),
        };
        admission::mutate(&asked, &mut new).await?;
        berth_schema::default(resource, &mut new);
        berth_schema::complete(resource, &mut new);
        rules::bump_generation(resource, old, &mut new);
        let causes = berth_schema::validate(resource, &new, Some(old), self.subresource);
        if !causes.is_empty() {
            return Err(Failure::invalid(resource, &name, causes));
        }
        admission::validate(&asked, Some(&new)).await?;
        if rules::is_finished(resource, &new) {
            return self.finish(entry, new).await;
        }
        let value = record::encode(resource, &new)?;
        if value == entry.value || same_but_for_times(old, &new) {
            return Ok(Some(Updated::Kept(old.clone(), None)));
        }
        if self.dry_run {
            return Ok(Some(Updated::Kept(new, None)));
        }
        let expect = Expect::Modified(entry.modified);
        let put = core.store.put(entry.key.clone(), value, expect);
        match reserved.spend(put).await {
            Ok(written) => {
                rules::after_update(core, resource, old, &new);
                set_revision(&mut new, written.modified.0);
                Ok(Some(Updated::Kept(new, Some(written))))
            }
            Err(WriteError::Conflict { .. } | WriteError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an object that only waited for its finalizers.
    async fn finish(&self, entry: &Entry, mut last: Value) -> Result<Option<Updated>, Failure> {
        if self.dry_run {
            return Ok(Some(Updated::Removed(last)));
        }
        let store = &self.core.store;
        match store.delete(&entry.key, Expect::Modified(entry.modified)).await {
            Ok((_, revision)) => {
                rules::after_delete(self.core, self.resource, &last);
                set_revision(&mut last, revision.0);
                Ok(Some(Updated::Removed(last)))
            }
            Err(WriteError::Conflict { .. } | WriteError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

pub(crate) fn set_revision(object: &mut Value, revision: u64) {
    object::set_meta(object, "resourceVersion", json!(revision.to_string()));
}

/// What the server alone decides stays as it was; a name or UID that differs is refused.
fn keep_identity(resource: &Resource, old: &Value, new: &mut Value) -> Result<(), Failure> {
    let name = object::name(old);
    for field in ["name", "namespace"] {
        let (was, is) = (object::meta(old, field), object::meta(new, field));
        if !is.is_empty() && was != is {
            return Err(Failure::bad_request(format!(
                "the {field} of the object ({is}) does not match the {field} on the URL ({was})"
            )));
        }
    }
    let (was, is) = (object::uid(old), object::uid(new));
    if !is.is_empty() && was != is {
        return Err(Failure::conflict(
            resource,
            name,
            &format!("Precondition failed: UID in precondition: {is}, UID in object meta: {was}"),
        ));
    }
    if object::is_deleting(old) {
        let before = object::finalizers(old);
        let added: Vec<String> =
            object::finalizers(new).into_iter().filter(|one| !before.contains(one)).collect();
        if !added.is_empty() {
            let cause = Cause::forbidden(
                "metadata.finalizers",
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new \
                     finalizers {added:?}"
                ),
            );
            return Err(Failure::invalid(resource, name, vec![cause]));
        }
    }
    let kept = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ];
    for field in kept {
        object::set_meta(new, field, old["metadata"][field].clone());
    }
    object::set_meta(new, "selfLink", Value::Null);
    new["apiVersion"] = json!(record::api_version(resource));
    new["kind"] = json!(resource.kind);
    Ok(())
}

/// A write that would change nothing but the times in managedFields is none.
fn same_but_for_times(old: &Value, new: &Value) -> bool {
    same(old, new, |key, old, new| match key {
        "metadata" => same(old, new, |key, old, new| match key {
            "managedFields" => same_managers(old, new),
            _ => old == new,
        }),
        _ => old == new,
    })
}

fn same_managers(old: &Value, new: &Value) -> bool {
    let (Some(old), Some(new)) = (old.as_array(), new.as_array()) else { return old == new };
    let same_entry = |(old, new): (&Value, &Value)| {
        let times = |key: &str, old: &Value, new: &Value| key == "time" || old == new;
        same(old, new, times)
    };
    old.len() == new.len() && old.iter().zip(new).all(same_entry)
}

/// Whether two objects have the same fields, and each is the same.
fn same(old: &Value, new: &Value, each: impl Fn(&str, &Value, &Value) -> bool) -> bool {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return old == new };
    old.len() == new.len()
        && old.iter().all(|(key, old)| new.get(key).is_some_and(|new| each(key, old, new)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_times_of_managers_make_no_write() {
        let object = |time: &str, manager: &str, data: &str| {
            json!({
                "metadata": {
                    "name": "a",
                    "managedFields": [
                        {"manager": manager, "time": time, "fieldsV1": {"f:data": {}}},
                        {"manager": "other", "time": "1", "fieldsV1": {}},
                    ],
                },
                "data": {"x": data, "time": data},
            })
        };
        let old = object("1", "m", "x");
        assert!(same_but_for_times(&old, &old));
        assert!(same_but_for_times(&old, &object("2", "m", "x")));
        assert!(!same_but_for_times(&old, &object("1", "n", "x")));
        assert!(!same_but_for_times(&old, &object("1", "m", "y")));
        let mut more = object("2", "m", "x");
        more["metadata"]["labels"] = json!({});
        assert!(!same_but_for_times(&old, &more) && !same_but_for_times(&more, &old));
        let mut fewer = object("2", "m", "x");
        fewer["metadata"]["managedFields"] = json!([]);
        assert!(!same_but_for_times(&old, &fewer) && !same_but_for_times(&fewer, &old));
    }
}
