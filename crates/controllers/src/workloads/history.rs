//! The templates that a DaemonSet or StatefulSet has had, kept as ControllerRevisions: what
//! `kubectl rollout history` lists and `kubectl rollout undo` restores.
//!
//! A template that comes back takes up its old revision under a new number. A revision is told by
//! its template, not by its name, so that revisions made by another controller are taken up too.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{Api, PostParams};
use serde_json::json;

use super::claim::controller_of;
use super::writes::{self, Owned};
use super::{hash, pod};
use crate::driver::{Cache, Error, World};

/// The label by which a revision, and often a pod, is told from others.
pub(crate) const HASH: &str = "controller-revision-hash";

/// Whose history it is.
pub(crate) struct Subject<'a> {
    pub meta: &'a ObjectMeta,
    pub owner: OwnerReference,
    pub template: &'a PodTemplateSpec,
    pub collisions: Option<i32>,
    /// How many revisions are kept besides those in use.
    pub limit: usize,
}

/// What is to become of a history.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct History {
    /// The current template's revision, as it is or is to be.
    pub current: ControllerRevision,
    /// Whether it must be written: it is new, or its number must rise.
    pub write: bool,
    /// Revisions that are no longer kept.
    pub forget: Vec<String>,
}

impl History {
    /// The name of the current template's revision.
    pub(crate) fn name(&self) -> &str {
        self.current.metadata.name.as_deref().unwrap_or_default()
    }
}

/// Decides: which revision the template has, and which are in nobody's use any more.
pub(crate) fn plan(
    subject: &Subject<'_>,
    revisions: &[ControllerRevision],
    is_used: impl Fn(&ControllerRevision) -> bool,
) -> History {
    let highest = revisions.iter().map(|one| one.revision).max().unwrap_or(0);
    // Read, not compared as bytes: others write empty fields that mean nothing.
    let same = |one: &&ControllerRevision| template_of(one).as_ref() == Some(subject.template);
    let known = revisions.iter().filter(same).max_by_key(|one| one.revision);
    let (current, write) = match known {
        Some(known) if known.revision == highest => (known.clone(), false),
        Some(known) => (ControllerRevision { revision: highest + 1, ..known.clone() }, true),
        None => (made(subject, highest + 1), true),
    };
    let mut idle: Vec<_> = revisions
        .iter()
        .filter(|one| one.metadata.name != current.metadata.name && !is_used(one))
        .collect();
    idle.sort_by_key(|one| one.revision);
    let surplus = idle.len().saturating_sub(subject.limit);
    let forget = idle.iter().take(surplus).filter_map(|one| one.metadata.name.clone()).collect();
    History { current, write, forget }
}

fn made(subject: &Subject<'_>, revision: i64) -> ControllerRevision {
    let hash = hash::of_template(subject.template, subject.collisions);
    let mut labels = subject.template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    labels.get_or_insert_default().insert(HASH.into(), hash.clone());
    let annotations = subject.meta.annotations.clone().map(|mut all| {
        all.remove("kubectl.kubernetes.io/last-applied-configuration");
        all
    });
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", subject.meta.name.as_deref().unwrap_or_default())),
            namespace: subject.meta.namespace.clone(),
            labels,
            annotations,
            owner_references: Some(vec![subject.owner.clone()]),
            ..Default::default()
        },
        data: Some(template_patch(subject.template)),
        revision,
    }
}

/// The patch that `kubectl rollout undo` sends to restore this template.
fn template_patch(template: &PodTemplateSpec) -> RawExtension {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    if let Some(fields) = template.as_object_mut() {
        fields.insert("$patch".into(), "replace".into());
    }
    RawExtension(json!({ "spec": { "template": template } }))
}

/// The template that a revision keeps.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// The hash that a revision is labelled with.
pub(crate) fn hash_of(revision: &ControllerRevision) -> &str {
    pod::label(&revision.metadata, HASH)
}

/// The revisions that the object at `owner` controls.
pub(crate) fn of(world: &World, owner: &ObjectMeta) -> Vec<ControllerRevision> {
    let namespace = owner.namespace.as_deref().unwrap_or_default();
    let own = |one: &ControllerRevision| {
        controller_of(&one.metadata).map(|by| &by.uid) == owner.uid.as_ref()
    };
    let all = world.revisions.list(namespace);
    all.iter().filter(|one| own(one)).map(|one| (**one).clone()).collect()
}

/// Whether a new revision has been written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Done,
    /// Its name belongs to another template: count one collision more and try again.
    Collides,
}

/// Writes what the plan says.
///
/// # Errors
/// Any refusal but the collision of a name.
pub(crate) async fn write<O: Owned>(
    world: &World,
    owner: &O,
    reference: &OwnerReference,
    history: &History,
) -> Result<Written, Error> {
    let namespace = owner.metadata().namespace.as_deref().unwrap_or_default();
    if history.write {
        let current = &history.current;
        if current.metadata.uid.is_some() {
            let patch = json!({ "revision": current.revision });
            writes::change(world, &world.revisions, &current.metadata, patch).await?;
        } else if record(world, owner, reference, current).await? == Written::Collides {
            return Ok(Written::Collides);
        }
    }
    for name in &history.forget {
        if let Some(old) = world.revisions.get(namespace, name) {
            writes::remove(world, &world.revisions, &*old).await?;
        }
    }
    Ok(Written::Done)
}

async fn record<O: Owned>(
    world: &World,
    owner: &O,
    reference: &OwnerReference,
    revision: &ControllerRevision,
) -> Result<Written, Error> {
    let namespace = owner.metadata().namespace.as_deref().unwrap_or_default();
    let api: Api<ControllerRevision> = world.api(namespace);
    match api.create(&PostParams::default(), revision).await {
        Ok(made) => {
            world.revisions.remember(made);
            return Ok(Written::Done);
        }
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error.into()),
    }
    let there = api.get(revision.metadata.name.as_deref().unwrap_or_default()).await?;
    if template_of(&there) != template_of(revision) {
        return Ok(Written::Collides);
    }
    if controller_of(&there.metadata).is_none() {
        writes::adopt(world, &world.revisions, &[Arc::new(there)], owner, reference).await?;
    }
    Ok(Written::Done)
}

/// Counts one collision more in the owner's status; the next run's revision has another name.
///
/// # Errors
/// Always one that asks for that run, or the refusal of the write.
pub(crate) async fn collide<O: Owned>(
    world: &World,
    cache: &Cache<O>,
    meta: &ObjectMeta,
    count: Option<i32>,
) -> Result<(), Error> {
    let patch = json!({ "status": { "collisionCount": count.unwrap_or(0) + 1 } });
    writes::change_status(world, cache, meta, patch).await?;
    Err(Error::Unfinished("the name of a revision is taken by another template".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        let value = json!({"metadata": {"labels": {"app": "a"}},
            "spec": {"containers": [{"name": "c", "image": image}]}});
        serde_json::from_value(value).expect("a template")
    }

    fn decide(image: &str, revisions: &[ControllerRevision], used: &[&str]) -> History {
        let meta = ObjectMeta { name: Some("db".into()), ..Default::default() };
        let template = template(image);
        let owner = OwnerReference::default();
        let subject =
            Subject { meta: &meta, owner, template: &template, collisions: None, limit: 1 };
        plan(&subject, revisions, |one| {
            used.contains(&one.metadata.name.as_deref().unwrap_or_default())
        })
    }

    fn stored(history: &History) -> ControllerRevision {
        let mut stored = history.current.clone();
        stored.metadata.uid = Some("u".into());
        stored
    }

    #[test]
    fn a_template_that_comes_back_takes_up_its_old_revision() {
        let one = decide("a:1", &[], &[]);
        assert!(one.write && one.current.revision == 1);
        assert_eq!(template_of(&one.current), Some(template("a:1")));
        let first = stored(&one);
        let two = decide("a:2", std::slice::from_ref(&first), &[]);
        assert_eq!((two.write, two.current.revision), (true, 2));
        let second = stored(&two);
        let back = decide("a:1", &[first.clone(), second], &[]);
        assert_eq!((back.name(), back.current.revision), (one.name(), 3));
        let again = decide("a:1", &[stored(&back)], &[]);
        assert!(!again.write);
    }

    #[test]
    fn history_keeps_what_is_used_and_the_latest_of_the_rest() {
        let all: Vec<ControllerRevision> = (1..=4)
            .map(|at| {
                let mut one = stored(&decide(&format!("a:{at}"), &[], &[]));
                one.revision = at;
                one
            })
            .collect();
        let name = |at: usize| all[at - 1].metadata.name.clone().unwrap_or_default();
        let used = name(1);
        let found = decide("a:4", &all, &[&used]);
        assert_eq!(found.forget, vec![name(2)]);
    }
}
