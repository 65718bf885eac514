//! Pod security: a namespace's labels say how much its pods may do on their node.
//!
//! `pod-security.kubernetes.io/{enforce,audit,warn}` name a level, `…-version` the Kubernetes minor
//! whose rules count. Pods are refused by `enforce`; templates of workloads are warned of and
//! audited, never refused. A level nobody knows counts as the strictest.
//!
//! # Source
//! The Pod Security Standards; KEP-2579.

mod checks;

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Asked, Operation};
use crate::status::Failure;
use crate::{object, record};

/// A newly labelled namespace is looked through as far as this.
const PODS_LOOKED_AT: usize = 3000;
const PREFIX: &str = "pod-security.kubernetes.io/";

/// How much a pod may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level, and the Kubernetes minor whose rules count.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Policy {
    level: Level,
    /// None is the newest.
    minor: Option<u32>,
}

impl Policy {
    /// What the namespace's labels say for a mode.
    fn of(labels: &BTreeMap<String, String>, mode: &str) -> Self {
        let label = |name: String| labels.get(&name).map(String::as_str);
        let level = match label(format!("{PREFIX}{mode}")) {
            None | Some("privileged") => Level::Privileged,
            Some("baseline") => Level::Baseline,
            Some(_) => Level::Restricted,
        };
        let version = label(format!("{PREFIX}{mode}-version"));
        Self { level, minor: version.and_then(minor) }
    }

    fn shown(&self) -> String {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            Some(minor) => format!("{level}:v1.{minor}"),
            None => format!("{level}:latest"),
        }
    }

    /// What the pod does that the policy forbids, in one line.
    fn violations(&self, meta: &Value, spec: &Value) -> Option<String> {
        let said = checks::all(self.level, self.minor.unwrap_or(u32::MAX), meta, spec);
        (!said.is_empty()).then(|| said.join(", "))
    }
}

fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("v1.")?.parse().ok()
}

/// Judges pods, templates and the labels of namespaces.
pub(super) async fn check(asked: &Asked<'_>, new: &Value) -> Result<(), Failure> {
    if asked.operation == Operation::Delete {
        return Ok(());
    }
    match (asked.kind(), asked.subresource) {
        (("", "namespaces"), None) => namespace(asked, new).await,
        (("", "pods"), None | Some("ephemeralcontainers")) => pod(asked, new).await,
        (kind, None) => match template(kind, new) {
            Some(template) => told(asked, &template["metadata"], &template["spec"]).await,
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// The labels of the namespace; the rest of it is not built.
async fn labels_of(asked: &Asked<'_>) -> Result<BTreeMap<String, String>, Failure> {
    let key = format!("{}{}", record::kind_prefix("", "namespaces"), asked.namespace);
    let (found, _) = asked.core.store.get(key.as_bytes()).await?;
    Ok(found.map(|entry| record::labels(&entry.value)).unwrap_or_default())
}

async fn pod(asked: &Asked<'_>, new: &Value) -> Result<(), Failure> {
    // What a running pod does is changed by its spec alone.
    if asked.old.is_some_and(|old| old["spec"] == new["spec"]) {
        return Ok(());
    }
    let labels = labels_of(asked).await?;
    let enforced = Policy::of(&labels, "enforce");
    if enforced.level != Level::Privileged {
        let notes = &asked.call.notes;
        notes.annotate(format!("{PREFIX}enforce-policy"), enforced.shown());
        if let Some(said) = enforced.violations(&new["metadata"], &new["spec"]) {
            let shown = enforced.shown();
            return Err(asked.forbid(format!("violates PodSecurity \"{shown}\": {said}")));
        }
    }
    tell(asked, &labels, &new["metadata"], &new["spec"]);
    Ok(())
}

async fn told(asked: &Asked<'_>, meta: &Value, spec: &Value) -> Result<(), Failure> {
    tell(asked, &labels_of(asked).await?, meta, spec);
    Ok(())
}

fn tell(asked: &Asked<'_>, labels: &BTreeMap<String, String>, meta: &Value, spec: &Value) {
    let notes = &asked.call.notes;
    let said = |policy: &Policy| {
        let said = policy.violations(meta, spec)?;
        Some(format!("would violate PodSecurity \"{}\": {said}", policy.shown()))
    };
    if let Some(said) = said(&Policy::of(labels, "audit")) {
        notes.annotate(format!("{PREFIX}audit-violations"), said);
    }
    if let Some(said) = said(&Policy::of(labels, "warn")) {
        notes.warn(said);
    }
}

/// The pod that a workload makes.
fn template<'a>((group, plural): (&str, &str), object: &'a Value) -> Option<&'a Value> {
    match (group, plural) {
        ("apps", "deployments" | "replicasets" | "daemonsets" | "statefulsets")
        | ("batch", "jobs")
        | ("", "replicationcontrollers") => Some(&object["spec"]["template"]),
        ("batch", "cronjobs") => Some(&object["spec"]["jobTemplate"]["spec"]["template"]),
        ("", "podtemplates") => Some(&object["template"]),
        _ => None,
    }
    .filter(|template| template["spec"].is_object())
}

/// Labels must say something, and pods that are there already are told of.
async fn namespace(asked: &Asked<'_>, new: &Value) -> Result<(), Failure> {
    for mode in ["enforce", "audit", "warn"] {
        let labels = &new["metadata"]["labels"];
        let (level, version) = (format!("{PREFIX}{mode}"), format!("{PREFIX}{mode}-version"));
        let wrong = |key: &str, allowed: &str| {
            let value = &labels[key];
            let same = asked.old.is_some_and(|old| old["metadata"]["labels"][key] == *value);
            (!same).then(|| {
                let field = format!("metadata.labels[{key}]");
                let said = format!("Invalid value: {value}: {allowed}");
                Failure::invalid_field(asked.resource, asked.name, &field, said)
            })
        };
        if !matches!(labels[&level].as_str(), None | Some("privileged" | "baseline" | "restricted"))
            && let Some(failure) = wrong(&level, "must be one of privileged, baseline, restricted")
        {
            return Err(failure);
        }
        if labels[&version].as_str().is_some_and(|is| is != "latest" && minor(is).is_none())
            && let Some(failure) = wrong(&version, "must be \"latest\" or \"v1.x\"")
        {
            return Err(failure);
        }
    }
    let Some(old) = asked.old else { return Ok(()) };
    let enforced = |namespace: &Value| Policy::of(&object::labels(namespace), "enforce");
    let (before, after) = (enforced(old), enforced(new));
    if before == after || after.level == Level::Privileged {
        return Ok(());
    }
    let pods = asked.core.resource("", "v1", "pods")?;
    let prefix = crate::record::prefix(&pods, asked.name);
    let page = asked.core.store.list(prefix.as_bytes(), None, PODS_LOOKED_AT, None).await?;
    let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in &page.entries {
        let pod = crate::record::object(&pods, entry);
        if let Some(said) = after.violations(&pod["metadata"], &pod["spec"]) {
            by_reason.entry(said).or_default().push(object::name(&pod).to_owned());
        }
    }
    if by_reason.is_empty() {
        return Ok(());
    }
    let notes = &asked.call.notes;
    notes.warn(format!(
        "existing pods in namespace \"{}\" violate the new PodSecurity enforce level \"{}\"",
        asked.name,
        after.shown()
    ));
    for (said, names) in by_reason {
        let first = &names[0];
        notes.warn(match names.len() {
            1 => format!("{first}: {said}"),
            2 => format!("{first} (and 1 other pod): {said}"),
            many => format!("{first} (and {} other pods): {said}", many - 1),
        });
    }
    Ok(())
}
