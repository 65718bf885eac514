//! Writes an App's objects, and finds out who else does.
//!
//! Everything is written by server-side apply under one field manager. An annotation holds the
//! digest of what was applied: a difference while the digest is the same was made by somebody else.

use berth_api::app::{App, Drift, Drifted};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::api::{DeleteParams, PatchParams, Preconditions};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{MANAGER, drift, owned};
use crate::driver::{Cache, Error, Kept, Key, World, gone_is_none};

/// On every object of an App: the digest of what was applied last.
const APPLIED: &str = "berth.dev/applied";

/// What became of the differences that others made.
#[derive(Debug, Default)]
pub struct Found {
    /// Field by field.
    pub drifted: Vec<Drifted>,
    /// What is to change in the App's spec, each a merge patch of it.
    pub adopt: Vec<Value>,
}

/// Writes the objects of one App.
pub struct Put<'a> {
    /// The world.
    pub world: &'a World,
    /// The App.
    pub app: &'a App,
    /// Its namespace and name.
    pub key: &'a Key,
    /// What is done about differences.
    pub drift: Drift,
    /// What was found so far.
    pub found: Found,
}

impl Put<'_> {
    /// Makes `object` be there as it says.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn put<K>(&mut self, cache: &Cache<K>, object: &K) -> Result<(), Error>
    where
        K: Kept + Serialize + Resource<Scope = NamespaceResourceScope>,
    {
        let mut wanted = serde_json::to_value(object)
            .map_err(|_| Error::Incomplete("a form that can be written"))?;
        let digest = digest(&wanted);
        let key = Key::new(&self.key.namespace, object.meta().name.clone().unwrap_or_default());
        if let Some(live) = cache.at(&key) {
            let annotations = live.meta().annotations.as_ref();
            let applied = annotations.and_then(|all| all.get(APPLIED)) == Some(&digest);
            let value = serde_json::to_value(&*live).unwrap_or_default();
            let differences = drift::between(&wanted, &value);
            if applied && differences.is_empty() {
                return Ok(());
            }
            let what = format!("{}/{}", K::kind(&()), key.name);
            if applied {
                self.note(&what, &differences);
                if self.drift == Drift::Adopt {
                    return Ok(());
                }
            } else if self.drift == Drift::Adopt {
                self.leave_out(&what, &differences, &mut wanted);
            }
        }
        wanted["metadata"]["annotations"][APPLIED] = json!(digest);
        let params = PatchParams::apply(MANAGER).force();
        let (ground, client) = (&self.world.ground, &self.world.client);
        let call = ground.apply(client, &self.key.namespace, &key.name, &params, wanted);
        cache.remember(call.await?);
        Ok(())
    }

    /// Removes what an earlier spec asked for, if it is the App's own.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn remove<K>(&self, cache: &Cache<K>, name: &str) -> Result<(), Error>
    where
        K: Kept + Resource<Scope = NamespaceResourceScope>,
    {
        let key = Key::new(&self.key.namespace, name);
        let Some(object) = cache.at(&key).filter(|object| owned(object.as_ref(), self.app)) else {
            return Ok(());
        };
        if object.meta().deletion_timestamp.is_some() {
            return Ok(());
        }
        let uid = object.meta().uid.clone();
        let params =
            DeleteParams::background().preconditions(Preconditions { uid, resource_version: None });
        let (ground, client) = (&self.world.ground, &self.world.client);
        gone_is_none(ground.delete::<K>(client, &key.namespace, &key.name, &params).await)?;
        Ok(())
    }

    /// One of both.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn put_or_remove<K>(
        &mut self,
        cache: &Cache<K>,
        object: Option<&K>,
        name: &str,
    ) -> Result<(), Error>
    where
        K: Kept + Serialize + Resource<Scope = NamespaceResourceScope>,
    {
        match object {
            Some(object) => self.put(cache, object).await,
            None => self.remove(cache, name).await,
        }
    }

    fn note(&mut self, object: &str, differences: &[drift::Difference]) {
        let name = self.key.name.as_str();
        let workload = object.starts_with("Deployment/") || object.starts_with("StatefulSet/");
        for difference in differences {
            let taken = (self.drift == Drift::Adopt && workload)
                .then(|| drift::adopted(name, difference))
                .flatten();
            let outcome = match (self.drift, &taken) {
                (Drift::Repair, _) => "repaired",
                (Drift::Adopt, Some(_)) => "adopted",
                (Drift::Adopt, None) => "kept",
            };
            self.found.adopt.extend(taken);
            self.found.drifted.push(Drifted {
                object: object.to_owned(),
                field: difference.field(),
                wanted: difference.wanted.to_string(),
                found: match &difference.found {
                    Value::Null => String::new(),
                    found => found.to_string(),
                },
                by: String::new(),
                outcome: outcome.to_owned(),
                at: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            });
        }
    }

    /// Fields that others keep are not taken back by the next change of ours.
    fn leave_out(&self, object: &str, differences: &[drift::Difference], wanted: &mut Value) {
        let known = self.app.status.as_ref().map(|status| status.drift.as_slice());
        let kept = |difference: &drift::Difference| {
            let found = difference.found.to_string();
            known.unwrap_or_default().iter().any(|one| {
                one.outcome == "kept"
                    && one.object == object
                    && one.field == difference.field()
                    && one.found == found
            })
        };
        for difference in differences.iter().filter(|one| kept(one)) {
            drift::without(wanted, &difference.path);
        }
    }
}

fn digest(value: &Value) -> String {
    let whole = Sha256::digest(value.to_string());
    whole.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
