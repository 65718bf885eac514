//! ResourceQuota: `status.used`, counted from what there is.
//!
//! Admission adds to `used` when an object is let in; this counts anew, which gives back what has
//! gone. What counts for how much is [`berth_api::quota`], the same as for admission.
//!
//! Admission charges a quota before the object is stored, and the caches here follow later still:
//! less than was charged is told only when nobody has charged for [`SETTLED`]. A count in between
//! would miss the object that was just let in, and let in one too many.
//!
//! Pods, services, claims and quotas are in the caches and wake their namespace's quotas. Other
//! kinds are only counted: a list of one object and the number of the rest tells, asked for every
//! ten seconds while a quota wants it.
//!
//! # Source
//! Kubernetes' resource-quota controller.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use berth_api::Quantity;
use berth_api::quota::{Usage, add, counts, matches_scopes, usage};
use k8s_openapi::api::core::v1::{Pod, ResourceQuotaStatus};
use kube::Api;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject};
use serde::Serialize;
use serde_json::Value;

use crate::driver::{Cache, Controller, Error, Kept, Key, Queue, World};
use crate::kinds::{self, Kind};
use crate::workloads::{wake, writes};

#[cfg(test)]
mod tests;

/// A burst of changes is counted once.
const CALM: Duration = Duration::from_millis(200);
/// What was charged this long ago is stored and in the caches, or will never be.
const SETTLED: Duration = Duration::from_secs(1);
/// How often kinds are counted that nothing wakes us for.
const COUNT: Duration = Duration::from_secs(10);
/// Kubernetes' own: everything is counted anew.
const RESYNC: Duration = Duration::from_secs(300);
/// Which kinds are served is asked again after that.
const KINDS_KEPT: Duration = Duration::from_secs(60);

/// Keeps the status of ResourceQuotas.
#[derive(Default)]
pub struct Quotas {
    kinds: Mutex<Option<(Instant, Vec<Kind>)>>,
    /// The version in which each quota was seen last, and since when.
    versions: Mutex<HashMap<Key, (Option<String>, Instant)>>,
}

impl Controller for Quotas {
    const NAME: &'static str = "resourcequota-controller";
    type Key = Key;

    fn wire(&self, world: &World, queue: &Queue<Key>) {
        wake::themselves(&world.quotas, queue);
        self.follow(&world.pods, world, queue, |old, new| relevant(old) != relevant(new));
        self.follow(&world.services, world, queue, |old, new| old.spec != new.spec);
        self.follow(&world.claims, world, queue, |old, new| {
            old.spec != new.spec || old.status != new.status
        });
    }

    async fn reconcile(&self, world: &World, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(quota) = world.quotas.at(key) else {
            self.versions.lock().expect("no holder of the lock panics").remove(key);
            return Ok(None);
        };
        let quiet = self.quiet(key, quota.metadata.resource_version.as_ref());
        let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
        let mut counted = Vec::new();
        values(&world.pods, &key.namespace, ("", "pods"), &mut counted);
        values(&world.services, &key.namespace, ("", "services"), &mut counted);
        values(&world.claims, &key.namespace, ("", "persistentvolumeclaims"), &mut counted);
        values(&world.quotas, &key.namespace, ("", "resourcequotas"), &mut counted);
        let stored = serde_json::to_value(&*quota).unwrap_or_default();
        let names: Vec<&str> = hard.keys().map(String::as_str).collect();
        let mut used = total(&stored, &names, &counted);
        let others = others(&names);
        for name in &others {
            let count = self.count(world, &key.namespace, name).await?;
            used.insert((*name).to_owned(), Quantity::from_whole(count));
        }
        let mut status = ResourceQuotaStatus { hard: Some(hard.clone()), used: None };
        let text = |(name, amount): (String, Quantity)| {
            let amount =
                k8s_openapi::apimachinery::pkg::api::resource::Quantity(amount.to_string());
            (name, amount)
        };
        status.used = Some(used.into_iter().map(text).collect());
        let before = quota.status.as_ref();
        if quiet < SETTLED && before.is_some_and(|before| gives_back(before, &status)) {
            return Ok(Some(SETTLED - quiet));
        }
        if before.is_none_or(|before| !is_same(before, &status)) {
            writes::status(world, &world.quotas, &quota.metadata, before, &status).await?;
        }
        Ok(Some(if others.is_empty() { RESYNC } else { COUNT }))
    }
}

impl Quotas {
    fn follow<K: Kept>(
        &self,
        cache: &Cache<K>,
        world: &World,
        queue: &Queue<Key>,
        differs: impl Fn(&K, &K) -> bool + Send + Sync + 'static,
    ) {
        let (waiting, quotas) = (queue.clone(), world.quotas.clone());
        cache.subscribe(move |change| {
            if let (Some(old), Some(new)) = (change.old, change.new)
                && !differs(old, new)
            {
                return;
            }
            let namespace = change.latest().meta().namespace.clone().unwrap_or_default();
            for quota in quotas.list(&namespace) {
                waiting.add_after(Key::of(&quota.metadata), CALM);
            }
        });
    }

    /// How long the quota has stood in this version.
    fn quiet(&self, key: &Key, version: Option<&String>) -> Duration {
        let mut versions = self.versions.lock().expect("no holder of the lock panics");
        let now = Instant::now();
        let seen = versions.entry(key.clone()).or_insert_with(|| (version.cloned(), now));
        if seen.0.as_ref() != version {
            *seen = (version.cloned(), now);
        }
        seen.1.elapsed()
    }

    /// How many objects there are of the kind that `count/PLURAL.GROUP` or an old name means; none
    /// of a kind that is not served.
    async fn count(&self, world: &World, namespace: &str, name: &str) -> Result<i64, Error> {
        let Some(resource) = self.kind(world, name).await? else { return Ok(0) };
        let api: Api<DynamicObject> =
            Api::namespaced_with(world.client.clone(), namespace, &resource);
        let list = api.list_metadata(&ListParams::default().limit(1)).await?;
        let here = i64::try_from(list.items.len()).unwrap_or(i64::MAX);
        Ok(here.saturating_add(list.metadata.remaining_item_count.unwrap_or(0)))
    }

    async fn kind(&self, world: &World, name: &str) -> Result<Option<ApiResource>, Error> {
        let find = |kinds: &[Kind]| {
            let is = |kind: &&Kind| {
                kind.namespaced && counts(name, &kind.resource.group, &kind.resource.plural)
            };
            kinds.iter().find(is).map(|kind| kind.resource.clone())
        };
        {
            let known = self.kinds.lock().expect("no holder of the lock panics");
            if let Some((at, kinds)) = &*known
                && at.elapsed() < KINDS_KEPT
            {
                return Ok(find(kinds));
            }
        }
        let kinds = kinds::discover(&world.client).await?;
        let found = find(&kinds);
        *self.kinds.lock().expect("no holder of the lock panics") = Some((Instant::now(), kinds));
        Ok(found)
    }
}

/// What of a pod can change what it counts for.
fn relevant(pod: &Pod) -> impl PartialEq + use<> {
    let status = pod.status.clone().unwrap_or_default();
    let held = status.container_statuses.into_iter().flatten();
    let held: Vec<_> = held.map(|one| (one.resources, one.allocated_resources)).collect();
    (pod.spec.clone(), status.phase, status.qos_class, held)
}

fn values<K: Kept + Serialize>(
    cache: &Cache<K>,
    namespace: &str,
    (group, plural): (&'static str, &'static str),
    into: &mut Vec<(&'static str, &'static str, Value)>,
) {
    let objects = cache.list(namespace).into_iter();
    into.extend(
        objects.map(|one| (group, plural, serde_json::to_value(&*one).unwrap_or_default())),
    );
}

/// What of `names` the objects use that `quota` counts; nothing where there is none.
fn total(quota: &Value, names: &[&str], objects: &[(&str, &str, Value)]) -> Usage {
    let mut sum = Usage::new();
    for (group, plural, object) in objects {
        let wanted = names.iter().any(|name| counts(name, group, plural));
        if wanted && matches_scopes(quota, group, plural, object) {
            add(&mut sum, &usage(group, plural, object));
        }
    }
    let found = |name: &&str| ((*name).to_owned(), sum.get(*name).copied());
    names.iter().map(found).map(|(name, sum)| (name, sum.unwrap_or(Quantity::ZERO))).collect()
}

/// The names that no cached kind counts for.
fn others<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let cached = ["pods", "services", "persistentvolumeclaims", "resourcequotas"];
    let is_cached = |name: &str| cached.iter().any(|plural| counts(name, "", plural));
    names.iter().filter(|name| !is_cached(name)).copied().collect()
}

type Amounts = BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

/// The amounts; nothing when one of them cannot be read.
fn read(amounts: &Option<Amounts>) -> Option<Usage> {
    let amounts = amounts.iter().flatten();
    amounts.map(|(name, text)| Some((name.clone(), text.0.parse().ok()?))).collect()
}

/// Whether both say the same amounts, however they are written.
fn is_same(before: &ResourceQuotaStatus, after: &ResourceQuotaStatus) -> bool {
    read(&before.hard) == read(&after.hard) && read(&before.used) == read(&after.used)
}

/// Whether less of something is used than was said before.
fn gives_back(before: &ResourceQuotaStatus, after: &ResourceQuotaStatus) -> bool {
    let (Some(before), Some(after)) = (read(&before.used), read(&after.used)) else { return false };
    before.iter().any(|(name, was)| after.get(name).is_some_and(|is| is < was))
}
