//! What routes are made from, followed in the cluster.

mod gateway;

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, IngressClass};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::{Notify, watch};

use berth_api::acme;
use berth_api::endpoints::SERVICE_NAME;
use berth_daemon::Tasks;

use super::{Sites, World};
use crate::follow::follow;

pub use gateway::GatewayObjects;

/// The annotation of a class that is meant when an Ingress names none.
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
/// How an Ingress named its class before there was a field.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// What routes are made from, in any order.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Every Ingress.
    pub ingresses: Vec<Arc<Ingress>>,
    /// Every IngressClass.
    pub classes: Vec<Arc<IngressClass>>,
    /// Every Service.
    pub services: Vec<Arc<Service>>,
    /// Every EndpointSlice of a Service.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Secrets of type `kubernetes.io/tls`.
    pub secrets: Vec<Arc<Secret>>,
    /// The ConfigMap that answers to ACME are made of.
    pub config_maps: Vec<Arc<ConfigMap>>,
    /// The Gateway API's.
    pub gateway: GatewayObjects,
    /// Where this process is, and what endpoints other clusters have.
    pub sites: Sites,
}

impl Snapshot {
    /// The Ingresses that `class` serves, oldest first: where two claim the same, it has it.
    pub(crate) fn served(&self, class: &str) -> Vec<&Arc<Ingress>> {
        let ours = self.classes.iter().find(|candidate| candidate.name_any() == class);
        let ours_is_default = ours.is_some_and(|class| is_default(class));
        let served = self.ingresses.iter();
        let mut served: Vec<_> =
            served.filter(|ingress| is_served(ingress, class, ours_is_default)).collect();
        served.sort_by_cached_key(|ingress| {
            let created = ingress.creation_timestamp().map(|time| time.0);
            (created, ingress.namespace(), ingress.name_any())
        });
        served
    }

    /// The part that `class` needs: what is worth keeping in a file.
    pub(super) fn relevant(&self, class: &str) -> Self {
        let mut services = HashSet::new();
        let mut secrets = HashSet::new();
        let mut config_maps = HashSet::new();
        let served = self.served(class);
        for ingress in &served {
            let namespace = ingress.namespace().unwrap_or_default();
            for backend in backends(ingress) {
                if let Some(service) = &backend.service {
                    services.insert((namespace.clone(), service.name.clone()));
                }
            }
            let tls = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
            secrets
                .extend(tls.filter_map(|tls| Some((namespace.clone(), tls.secret_name.clone()?))));
        }
        self.gateway.names(&mut services, &mut secrets);
        let key = |namespace: Option<String>, name: &str| {
            (namespace.unwrap_or_default(), name.to_owned())
        };
        for service in &self.services {
            if let Some((_, authority)) = super::secured::wanted(service.annotations())
                && services.contains(&key(service.namespace(), &service.name_any()))
            {
                secrets.insert(key(service.namespace(), authority));
            }
        }
        let of_service = |slice: &EndpointSlice| {
            let service = slice.labels().get(SERVICE_NAME);
            service.is_some_and(|name| services.contains(&key(slice.namespace(), name)))
        };
        let is_named =
            |names: &HashSet<_>, namespace, name: String| names.contains(&key(namespace, &name));
        let classes = self.classes.iter().filter(|candidate| candidate.name_any() == class);
        let service = |s: &&Arc<Service>| is_named(&services, s.namespace(), s.name_any());
        let secret = |s: &&Arc<Secret>| is_named(&secrets, s.namespace(), s.name_any());
        let acme = (acme::NAMESPACE.to_owned(), acme::CONFIG_MAP.to_owned());
        config_maps.insert(acme);
        let config_map = |m: &&Arc<ConfigMap>| is_named(&config_maps, m.namespace(), m.name_any());
        Self {
            classes: classes.cloned().collect(),
            services: self.services.iter().filter(service).cloned().collect(),
            slices: self.slices.iter().filter(|slice| of_service(slice)).cloned().collect(),
            secrets: self.secrets.iter().filter(secret).cloned().collect(),
            config_maps: self.config_maps.iter().filter(config_map).cloned().collect(),
            ingresses: served.into_iter().cloned().collect(),
            gateway: self.gateway.clone(),
            sites: self.sites.clone(),
        }
    }
}

/// Whether a class is meant where none is named.
pub(super) fn is_default(class: &IngressClass) -> bool {
    class.annotations().get(DEFAULT_CLASS).is_some_and(|value| value == "true")
}

/// Whether `ingress` is for `class`, which is the default or not.
pub(super) fn is_served(ingress: &Ingress, class: &str, is_default: bool) -> bool {
    let field = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
    match field.or_else(|| ingress.annotations().get(CLASS_ANNOTATION)) {
        Some(name) => name == class,
        None => is_default,
    }
}

/// Every backend that `ingress` names.
fn backends(ingress: &Ingress) -> impl Iterator<Item = &IngressBackend> {
    let spec = ingress.spec.iter();
    spec.flat_map(|spec| {
        let rules = spec.rules.iter().flatten().filter_map(|rule| rule.http.as_ref());
        let paths = rules.flat_map(|http| &http.paths).map(|path| &path.backend);
        spec.default_backend.iter().chain(paths)
    })
}

/// Sends the cluster's world after each change, once all kinds are known.
pub(super) fn follow_cluster(
    client: &kube::Client,
    mut sites: watch::Receiver<Sites>,
    sender: watch::Sender<Option<World>>,
    tasks: &Tasks,
) {
    let changed = Arc::new(Notify::new());
    let all = watcher::Config::default;
    macro_rules! following {
        ($name:literal, $kind:ty, $config:expr) => {
            follow(
                $name,
                watcher(Api::<$kind>::all(client.clone()), $config),
                changed.clone(),
                tasks,
            )
        };
    }
    let ingresses = following!("ingresses", Ingress, all());
    let classes = following!("ingressclasses", IngressClass, all());
    let services = following!("services", Service, all());
    let slices =
        follow("endpoints", berth_api::endpoints::follow(client.clone()), changed.clone(), tasks);
    let of_acme = Api::<ConfigMap>::namespaced(client.clone(), acme::NAMESPACE);
    let named = all().fields(&format!("metadata.name={}", acme::CONFIG_MAP));
    let config_maps = follow("configmaps", watcher(of_acme, named), changed.clone(), tasks);
    let secrets = following!("secrets", Secret, all().fields("type=kubernetes.io/tls"));
    let gateway = gateway::follow_gateways(client, changed.clone(), tasks);
    tasks.spawn_until_stop("ingress-snapshots", async move {
        let mut before = World::default();
        loop {
            tokio::select! {
                () = changed.notified() => {}
                Ok(()) = sites.changed() => {}
            }
            let mut world = before.clone();
            let complete = (|| {
                world.ingresses = ingresses.kept()?;
                world.classes = classes.kept()?;
                world.services = services.kept()?;
                world.slices = before.slices.following(slices.kept()?);
                world.secrets = secrets.kept()?;
                world.config_maps = config_maps.kept()?;
                gateway.fill(&mut world)
            })();
            if complete.is_some() {
                world.at(sites.borrow_and_update().clone());
                before = world.clone();
                sender.send_replace(Some(world));
            }
        }
    });
}
