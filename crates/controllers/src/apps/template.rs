//! What an App asks for, as standard objects.
//!
//! No request is lost in an update: a new pod is added before an old one goes; an old one is taken
//! out of the Service first and told to end only after a pause, in which the balancers hear of it.
//!
//! The workload itself is made from a pod template and a [`Target`]: which release's template it
//! has and how many instances is decided by the releases' plan.

mod clock;
mod config;
mod network;
mod pod;
mod scale;
mod sizes;
mod trial;
mod workload;

use std::collections::BTreeMap;

use berth_api::app::{App, AppSpec, Header};
use berth_api::gateway::{Gateway, HTTPRoute};
use berth_api::{labels, release};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, PodTemplateSpec, Service};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use serde::Serialize;

pub use workload::{
    Target, candidate, deployment, stateful_candidate, stateful_candidate_name, stateful_set,
};

use crate::workloads::hash;

/// How long an instance goes on taking requests after it was taken out of its Service: many times
/// what endpoints take to reach kernel and balancers, little enough not to slow an update down.
pub const DRAIN_SECONDS: i64 = 3;
/// The name of an App's HTTP port, on container and Service.
const PORT_NAME: &str = "http";

/// Where Apps are reached.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Apps answer under `NAME.` and this.
    pub name: String,
    /// The balancer's HTTP port, as clients reach it.
    pub http_port: u16,
    /// The balancer's TLS port, as clients reach it.
    pub https_port: u16,
}

/// Which pods get an App's requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Those of this release alone (its number).
    pub only: Option<String>,
    /// Only those that are marked as taking requests.
    pub marked: bool,
    /// Those of this release get the preview's.
    pub preview: Option<String>,
    /// Requests with it get the preview's, whatever name they come by.
    pub header: Option<Header>,
    /// What each pod gets of what comes through the balancer, in relation to the others; all alike
    /// where none is named.
    pub weights: BTreeMap<String, u32>,
}

/// The objects that an App stands for, but for its workload.
#[derive(Debug, Serialize)]
pub struct Wanted {
    /// Its address in the cluster, if it has a port.
    pub service: Option<Service>,
    /// The same for a blue-green release that waits for its switch.
    pub preview: Option<Service>,
    /// Names of its instances, if they have any.
    pub headless: Option<Service>,
    /// Its ports on every node, if it wants any.
    pub doors: Option<Service>,
    /// Its names, if it has a port and routes.
    pub ingress: Option<Ingress>,
    /// The preview's name.
    pub preview_ingress: Option<Ingress>,
    /// Where requests with a canary's header come in, while there is one.
    pub trial: Option<Gateway>,
    /// Which of them go to the new version.
    pub trial_routes: Vec<HTTPRoute>,
    /// What scales it.
    pub autoscaler: Option<HorizontalPodAutoscaler>,
    /// What runs by the clock.
    pub cron_jobs: Vec<CronJob>,
    /// This version of its configuration.
    pub config: Option<ConfigMap>,
    /// Where it answers.
    pub url: Option<String>,
}

/// What `app` asks for beside its workload; `None` for an object without name and UID.
pub fn plan(app: &App, domain: &Domain, traffic: &Traffic) -> Option<Wanted> {
    let name = app.metadata.name.clone()?;
    let meta = meta(app)?;
    let spec = &app.spec;
    let network = network::Network { spec, name: &name, meta: &meta, domain };
    let preview = traffic.preview.as_deref().filter(|_| network.has_service());
    let header = traffic.header.as_ref().filter(|_| preview.is_some());
    let trial = header.map(|header| network.trial(header)).unwrap_or_default();
    Some(Wanted {
        service: network.service(traffic),
        preview: preview.map(|release| network.preview(release)),
        headless: spec.is_stateful().then(|| network.headless()),
        doors: network.doors(traffic),
        url: network.url(),
        ingress: network.ingress(traffic),
        preview_ingress: preview.and_then(|_| network.preview_ingress()),
        trial: trial.gateway,
        trial_routes: trial.routes,
        autoscaler: spec.scale.as_ref().map(|rule| scale::autoscaler(rule, &meta)),
        cron_jobs: clock::cron_jobs(spec, &name, &meta),
        config: config::map(spec, &meta),
    })
}

/// What all objects of `app` have in common.
fn meta(app: &App) -> Option<ObjectMeta> {
    let name = app.metadata.name.as_deref()?;
    let mut owner: OwnerReference = app.controller_owner_ref(&())?;
    owner.block_owner_deletion = Some(true);
    let part_of = app.metadata.labels.as_ref().and_then(|all| all.get(labels::PART_OF));
    let mut all = selector(name);
    all.insert(labels::MANAGED_BY.to_owned(), labels::BERTH.to_owned());
    all.insert(labels::PART_OF.to_owned(), part_of.map_or(name, String::as_str).to_owned());
    Some(ObjectMeta {
        name: Some(name.to_owned()),
        namespace: app.metadata.namespace.clone(),
        labels: Some(all),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    })
}

/// The labels that tell the App's pods from all others; they never change.
pub fn selector(name: &str) -> BTreeMap<String, String> {
    [labels::NAME, labels::INSTANCE].map(|key| (key.to_owned(), name.to_owned())).into()
}

/// The pods that `spec` asks for in `app`; of no release yet.
pub fn pods(app: &App, spec: &AppSpec) -> Option<PodTemplateSpec> {
    let meta = meta(app)?;
    Some(pod::template(spec, meta.name.as_deref()?, &meta))
}

/// The same, of release number `revision`.
pub fn released(mut template: PodTemplateSpec, revision: i64) -> PodTemplateSpec {
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(release::LABEL.to_owned(), revision.to_string());
    template
}

/// The same, with its containers told what `spec` lets them use.
pub fn sized(mut template: PodTemplateSpec, spec: &AppSpec) -> PodTemplateSpec {
    if let Some(pod) = &mut template.spec {
        sizes::tell(pod, spec);
    }
    template
}

/// The name of the ConfigMap that `spec` needs in `app`.
pub fn config_name(app: &App, spec: &AppSpec) -> Option<String> {
    config::name(spec, app.metadata.name.as_deref()?)
}

/// What one instance of `spec` asks its node for: processor and memory.
pub fn requested(spec: &AppSpec) -> (Option<String>, Option<String>) {
    pod::requested(spec)
}

/// The short name of a template: two that differ in anything differ in it.
pub fn short_name(template: &PodTemplateSpec) -> String {
    hash::of_template(template, None)
}

#[cfg(test)]
mod tests;
