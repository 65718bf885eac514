//! What routes are made from, in maps whose copies share what is the same.
//!
//! A [`Snapshot`](super::Snapshot) is the same as plain lists. Of two worlds it is known at once
//! what differs, so a table is carried on from one to the next by what that touches.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::core::PartialObjectMeta;
use kube::{Resource, ResourceExt};

use berth_api::endpoints::SERVICE_NAME;
use berth_api::gateway::{
    GRPCRoute, Gateway, GatewayClass, HTTPRoute, ReferenceGrant, TCPRoute, TLSRoute, UDPRoute,
};

use super::lenient::Lenient;
use super::snapshot::{GatewayObjects, Snapshot};
use super::{Elsewhere, Sites, snapshot};
use crate::follow::key_of;
use crate::kept::{Kept, Key};

/// Objects by namespace and name.
pub(crate) type Objects<K> = Kept<Key, K>;

/// What routes are made from.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub(crate) ingresses: Objects<Ingress>,
    pub(crate) classes: Objects<IngressClass>,
    pub(crate) services: Objects<Service>,
    pub(crate) secrets: Objects<Secret>,
    /// What answers to ACME are made of.
    pub(crate) config_maps: Objects<ConfigMap>,
    pub(crate) http: Objects<Lenient<HTTPRoute>>,
    pub(crate) grpc: Objects<Lenient<GRPCRoute>>,
    pub(crate) tls: Objects<Lenient<TLSRoute>>,
    pub(crate) tcp: Objects<Lenient<TCPRoute>>,
    pub(crate) udp: Objects<Lenient<UDPRoute>>,
    pub(crate) gateway_classes: Objects<Lenient<GatewayClass>>,
    pub(crate) gateways: Objects<Lenient<Gateway>>,
    pub(crate) grants: Objects<Lenient<ReferenceGrant>>,
    pub(crate) namespaces: Objects<PartialObjectMeta<Namespace>>,
    pub(crate) slices: Slices,
    /// The versions of the Gateway API's kinds that are followed, by plural.
    pub(crate) versions: BTreeMap<String, String>,
    /// Where this process is.
    pub(crate) zone: Option<String>,
    /// The first cluster's name.
    pub(crate) own: String,
    /// What endpoints the others have.
    pub(crate) others: Vec<(String, Slices)>,
}

/// EndpointSlices, by themselves and by their Service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slices {
    all: Objects<EndpointSlice>,
    by_service: Kept<Key, Vec<Arc<EndpointSlice>>>,
}

impl Slices {
    /// These, made from ours by what differs.
    pub(crate) fn following(&self, all: Objects<EndpointSlice>) -> Self {
        let mut next = self.clone();
        let service = |slice: &EndpointSlice| {
            let name = slice.labels().get(SERVICE_NAME)?.clone();
            Some((slice.namespace().unwrap_or_default(), name))
        };
        for key in self.all.differing(&all) {
            let (old, new) = (self.all.get(&key), all.get(&key));
            if let (Some(old), Some(of)) = (old, old.and_then(|old| service(old))) {
                let group = next.by_service.get(&of).map(|group| group.as_ref().clone());
                let mut group = group.unwrap_or_default();
                group.retain(|slice| !Arc::ptr_eq(slice, old));
                next.put(of, group);
            }
            if let (Some(new), Some(of)) = (new, new.and_then(|new| service(new))) {
                let group = next.by_service.get(&of).map(|group| group.as_ref().clone());
                let mut group = group.unwrap_or_default();
                group.push(new.clone());
                next.put(of, group);
            }
        }
        next.all = all;
        next
    }

    fn put(&mut self, service: Key, group: Vec<Arc<EndpointSlice>>) {
        if group.is_empty() {
            self.by_service.remove(&service);
        } else {
            self.by_service.insert(service, Arc::new(group));
        }
    }

    fn of(&self, service: &Key) -> &[Arc<EndpointSlice>] {
        self.by_service.get(service).map_or(&[], |group| group.as_slice())
    }

    /// The Services whose slices differ.
    pub(crate) fn differing(&self, other: &Self) -> Vec<Key> {
        self.by_service.differing(&other.by_service)
    }
}

impl World {
    /// The slices of a Service at each site, the own one first.
    pub(crate) fn sites(
        &self,
        service: &Key,
    ) -> impl Iterator<Item = (&str, &[Arc<EndpointSlice>])> {
        let own = (self.own.as_str(), self.slices.of(service));
        let others = self.others.iter();
        std::iter::once(own).chain(others.map(|(name, all)| (name.as_str(), all.of(service))))
    }

    /// With the sites that `sites` tells of, made from ours by what differs.
    pub(crate) fn at(&mut self, sites: Sites) {
        let known = std::mem::take(&mut self.others);
        let slices = |name: &str, all| {
            let known = known.iter().find(|(known, _)| known == name);
            known.map(|(_, slices)| slices.clone()).unwrap_or_default().following(all)
        };
        let others = sites.others.into_iter();
        self.others = others
            .map(|(name, all)| {
                let all = slices(&name, all.0);
                (name, all)
            })
            .collect();
        (self.own, self.zone) = (sites.own, sites.zone);
    }

    /// Puts a slice in, in place of the one of its name.
    pub fn put_slice(&mut self, slice: Arc<EndpointSlice>) {
        let mut all = self.slices.all.clone();
        all.insert(key_of(slice.as_ref()), slice);
        self.slices = self.slices.following(all);
    }

    /// The same as lists, as far as `class` needs it.
    pub(super) fn relevant(&self, class: &str) -> Snapshot {
        let list = Snapshot {
            ingresses: self.ingresses.values().cloned().collect(),
            classes: self.classes.values().cloned().collect(),
            services: self.services.values().cloned().collect(),
            slices: self.slices.all.values().cloned().collect(),
            secrets: self.secrets.values().cloned().collect(),
            config_maps: self.config_maps.values().cloned().collect(),
            gateway: self.gateway(),
            sites: Sites {
                own: self.own.clone(),
                zone: self.zone.clone(),
                others: self
                    .others
                    .iter()
                    .map(|(name, s)| (name.clone(), Elsewhere(s.all.clone())))
                    .collect(),
            },
        };
        list.relevant(class)
    }

    /// The Gateway API's objects as lists.
    pub(super) fn gateway(&self) -> GatewayObjects {
        GatewayObjects {
            classes: self.gateway_classes.values().cloned().collect(),
            gateways: self.gateways.values().cloned().collect(),
            http: self.http.values().cloned().collect(),
            grpc: self.grpc.values().cloned().collect(),
            tls: self.tls.values().cloned().collect(),
            tcp: self.tcp.values().cloned().collect(),
            udp: self.udp.values().cloned().collect(),
            grants: self.grants.values().cloned().collect(),
            namespaces: self.namespaces.values().cloned().collect(),
        }
    }

    /// The Ingresses that `class` serves, oldest first: where two claim the same, it has it.
    pub(super) fn served(&self, class: &str) -> Vec<Arc<Ingress>> {
        let is_default = self.is_default(class);
        let all = self.ingresses.values();
        let served = all.filter(|ingress| snapshot::is_served(ingress, class, is_default));
        let mut served: Vec<_> = served.cloned().collect();
        served.sort_by_cached_key(|ingress| {
            let created = ingress.creation_timestamp().map(|time| time.0);
            (created, key_of(ingress.as_ref()))
        });
        served
    }

    /// Whether `class` is for Ingresses without a class too.
    pub(crate) fn is_default(&self, class: &str) -> bool {
        let mut ours = self.classes.values().filter(|candidate| candidate.name_any() == class);
        ours.any(|class| snapshot::is_default(class))
    }
}

fn by_name<K: Resource>(all: &[Arc<K>]) -> Objects<K> {
    all.iter().map(|one| (key_of(one.as_ref()), one.clone())).collect()
}

impl From<&Snapshot> for World {
    fn from(snapshot: &Snapshot) -> Self {
        let gateway = &snapshot.gateway;
        let mut world = Self {
            ingresses: by_name(&snapshot.ingresses),
            classes: by_name(&snapshot.classes),
            services: by_name(&snapshot.services),
            secrets: by_name(&snapshot.secrets),
            config_maps: by_name(&snapshot.config_maps),
            http: by_name(&gateway.http),
            grpc: by_name(&gateway.grpc),
            tls: by_name(&gateway.tls),
            tcp: by_name(&gateway.tcp),
            udp: by_name(&gateway.udp),
            gateway_classes: by_name(&gateway.classes),
            gateways: by_name(&gateway.gateways),
            grants: by_name(&gateway.grants),
            namespaces: by_name(&gateway.namespaces),
            slices: Slices::default().following(by_name(&snapshot.slices)),
            ..Self::default()
        };
        world.at(snapshot.sites.clone());
        world
    }
}
