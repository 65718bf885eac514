//! The Services' ports that rules name, each made once, with the endpoints behind it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use kube::ResourceExt;

use super::{Backend, Protocol, Table};
use crate::l7::Snapshot;
use crate::l7::clusters::{self, PortWanted};
use crate::l7::pick::Sets;

/// A Service's port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) port: Port,
    /// Whether its pods speak HTTP/2 whatever the Service says: gRPC has nothing else.
    pub(super) h2c: bool,
}

/// As it is named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Port {
    Name(String),
    Number(i32),
}

/// Every backend of a table that is being made.
pub(super) struct Backends<'a> {
    services: HashMap<(String, String), &'a Service>,
    sets: clusters::Backends<'a>,
    /// By what is wanted, and by the route too where that has a policy of its own.
    made: HashMap<(Wanted, String), Arc<Backend>>,
}

impl<'a> Backends<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, before: &'a Table) -> Self {
        let key = |service: &Service| (service.namespace().unwrap_or_default(), service.name_any());
        let services = snapshot.services.iter();
        Self {
            services: services.map(|service| (key(service), service.as_ref())).collect(),
            sets: clusters::Backends::new(snapshot, &before.sets),
            made: HashMap::new(),
        }
    }

    /// The one that `wanted` describes, for the object `route` with `annotations` that names it.
    pub(super) fn get(
        &mut self,
        wanted: Wanted,
        (route, annotations): (&str, &BTreeMap<String, String>),
    ) -> Arc<Backend> {
        let made_for = (wanted, route.to_owned());
        if let Some(made) = self.made.get(&made_for) {
            return made.clone();
        }
        let wanted = &made_for.0;
        let at = (wanted.namespace.as_str(), wanted.service.as_str());
        let port = match &wanted.port {
            Port::Name(name) => PortWanted::Name(name),
            Port::Number(number) => PortWanted::Number(*number),
        };
        let is_wanted = |candidate: &&ServicePort| match &wanted.port {
            Port::Name(name) => candidate.name.as_ref() == Some(name),
            Port::Number(number) => candidate.port == *number,
        };
        let key = (wanted.namespace.clone(), wanted.service.clone());
        let service = self.services.get(&key).and_then(|service| service.spec.as_ref());
        let ports = service.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let spoken = ports.iter().find(is_wanted).and_then(|port| port.app_protocol.as_deref());
        let protocol = match spoken {
            Some("kubernetes.io/h2c" | "grpc") => Protocol::H2c,
            _ if wanted.h2c => Protocol::H2c,
            _ => Protocol::Http1,
        };
        let backend = Arc::new(Backend {
            route: route.to_owned(),
            service: format!("{}/{}", wanted.namespace, wanted.service),
            port: match &wanted.port {
                Port::Name(name) => name.clone(),
                Port::Number(number) => number.to_string(),
            },
            protocol,
            endpoints: self.sets.of(at, port, (route, annotations)),
        });
        self.made.insert(made_for, backend.clone());
        backend
    }

    /// The sets that were made.
    pub(super) fn finish(self) -> Sets {
        self.sets.finish()
    }
}
