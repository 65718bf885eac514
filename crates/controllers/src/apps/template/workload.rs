//! The sets of an App's pods: its Deployment or StatefulSet, and a release's candidate.

use std::collections::BTreeMap;

use berth_api::app::{App, AppSpec, Strategy};
use berth_api::release;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, ReplicaSet, ReplicaSetSpec,
    RollingUpdateDeployment, RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PodTemplateSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{meta, selector, short_name};

/// The label by which Kubernetes tells the pods of one ReplicaSet from those of another.
const HASH: &str = "pod-template-hash";

/// What the main workload is to be at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The Release whose template it has; none before the first.
    pub release: Option<String>,
    /// How many instances.
    pub replicas: i32,
    /// Whether a Deployment leaves its pods as they are although its template changed.
    pub paused: bool,
    /// For a StatefulSet: instances below this number stay as they are.
    pub partition: i32,
    /// For a StatefulSet: instances stay as they are until they are deleted.
    pub on_delete: bool,
    /// So many go before as many come, instead of what the strategy says: their addresses are
    /// handed on.
    pub in_turn: Option<i32>,
}

/// The App's Deployment with these pods.
pub fn deployment(
    app: &App,
    template: PodTemplateSpec,
    target: &Target,
    strategy: &Strategy,
) -> Option<Deployment> {
    let meta = marked(app, target)?;
    let name = meta.name.clone()?;
    let (surge, unavailable) = match target.in_turn {
        Some(count) => (IntOrString::Int(0), IntOrString::Int(count)),
        None => (strategy.max_surge.clone(), strategy.max_unavailable.clone()),
    };
    Some(Deployment {
        metadata: meta,
        spec: Some(DeploymentSpec {
            replicas: Some(target.replicas),
            selector: LabelSelector {
                match_labels: Some(selector(&name)),
                ..LabelSelector::default()
            },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(surge),
                    max_unavailable: Some(unavailable),
                }),
            }),
            min_ready_seconds: (strategy.min_ready_seconds > 0)
                .then_some(strategy.min_ready_seconds),
            progress_deadline_seconds: i32::try_from(strategy.deadline_seconds).ok(),
            paused: target.paused.then_some(true),
            template,
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    })
}

/// The App's StatefulSet with these pods.
pub fn stateful_set(
    app: &App,
    spec: &AppSpec,
    template: PodTemplateSpec,
    target: &Target,
    strategy: &Strategy,
) -> Option<StatefulSet> {
    let meta = marked(app, target)?;
    let name = meta.name.clone()?;
    let update = if target.on_delete {
        StatefulSetUpdateStrategy { type_: Some("OnDelete".to_owned()), rolling_update: None }
    } else {
        StatefulSetUpdateStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(RollingUpdateStatefulSetStrategy {
                partition: Some(target.partition),
                max_unavailable: target.in_turn.map(IntOrString::Int),
            }),
        }
    };
    let claims: Vec<PersistentVolumeClaim> = spec
        .storage
        .iter()
        .map(|disk| PersistentVolumeClaim {
            metadata: ObjectMeta { name: Some(disk.name.clone()), ..ObjectMeta::default() },
            spec: Some(PersistentVolumeClaimSpec {
                access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
                storage_class_name: disk.class.clone(),
                resources: Some(VolumeResourceRequirements {
                    requests: Some(BTreeMap::from([(
                        "storage".to_owned(),
                        Quantity(disk.size.clone()),
                    )])),
                    ..VolumeResourceRequirements::default()
                }),
                ..PersistentVolumeClaimSpec::default()
            }),
            ..PersistentVolumeClaim::default()
        })
        .collect();
    Some(StatefulSet {
        metadata: meta,
        spec: Some(StatefulSetSpec {
            replicas: Some(target.replicas),
            selector: LabelSelector {
                match_labels: Some(selector(&name)),
                ..LabelSelector::default()
            },
            service_name: Some(format!("{name}-pods")),
            update_strategy: Some(update),
            min_ready_seconds: (strategy.min_ready_seconds > 0)
                .then_some(strategy.min_ready_seconds),
            volume_claim_templates: Some(claims).filter(|all| !all.is_empty()),
            template,
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    })
}

/// A release's own pods beside the main workload's.
pub fn candidate(
    app: &App,
    mut template: PodTemplateSpec,
    name: &str,
    replicas: i32,
    strategy: &Strategy,
) -> Option<ReplicaSet> {
    let mut meta = meta(app)?;
    let hash = short_name(&template);
    let mut picked = selector(meta.name.as_deref()?);
    picked.insert(HASH.to_owned(), hash.clone());
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash);
    meta.labels = Some(labels.clone());
    meta.name = Some(name.to_owned());
    meta.annotations = Some(BTreeMap::from([(release::OF.to_owned(), name.to_owned())]));
    Some(ReplicaSet {
        metadata: meta,
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: (strategy.min_ready_seconds > 0)
                .then_some(strategy.min_ready_seconds),
            selector: LabelSelector { match_labels: Some(picked), ..LabelSelector::default() },
            template: Some(template),
        }),
        status: None,
    })
}

/// The same where instances have names: theirs are other names, under the same Service. Only for an
/// App without disks.
pub fn stateful_candidate(app: &App, set: ReplicaSet) -> StatefulSet {
    let name = app.metadata.name.as_deref().unwrap_or_default();
    let mut meta = set.metadata;
    meta.name = meta.name.as_deref().map(stateful_candidate_name);
    let spec = set.spec.unwrap_or_default();
    StatefulSet {
        metadata: meta,
        spec: Some(StatefulSetSpec {
            replicas: spec.replicas,
            min_ready_seconds: spec.min_ready_seconds,
            selector: spec.selector,
            service_name: Some(format!("{name}-pods")),
            template: spec.template.unwrap_or_default(),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

/// The StatefulSet beside the main one, of this release. The release's own name may be another
/// App's: `web-2`.
pub fn stateful_candidate_name(release: &str) -> String {
    format!("{release}-preview")
}

fn marked(app: &App, target: &Target) -> Option<ObjectMeta> {
    let mut meta = meta(app)?;
    meta.annotations =
        target.release.clone().map(|name| BTreeMap::from([(release::OF.to_owned(), name)]));
    Some(meta)
}
