//! The Services' ports that rules name, each made once, with the endpoints behind it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Secret, Service, ServicePort};
use kube::ResourceExt;

use super::{Backend, NoEndpoints, Protocol, Table};
use crate::l7::Snapshot;
use crate::l7::clusters::{self, PortWanted};
use crate::l7::pick::Sets;
use crate::l7::secured::{self, Secured};

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
    secrets: HashMap<(String, String), &'a Secret>,
    /// Of the table before, and of this one.
    secured: (&'a secured::Known, secured::Known),
    sets: clusters::Backends<'a>,
    /// By what is wanted, and by the route too where that has a policy of its own.
    made: HashMap<(Wanted, String), Arc<Backend>>,
}

impl<'a> Backends<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, before: &'a Table) -> Self {
        let key = |service: &Service| (service.namespace().unwrap_or_default(), service.name_any());
        let services = snapshot.services.iter();
        let name = |secret: &Secret| (secret.namespace().unwrap_or_default(), secret.name_any());
        let secrets = snapshot.secrets.iter();
        Self {
            secrets: secrets.map(|secret| (name(secret), secret.as_ref())).collect(),
            secured: (&before.secured, secured::Known::new()),
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
        let object = self.services.get(&key).copied();
        let service = object.and_then(|service| service.spec.as_ref());
        let ports = service.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let spoken = ports.iter().find(is_wanted).and_then(|port| port.app_protocol.as_deref());
        let protocol = match spoken {
            Some("kubernetes.io/h2c" | "grpc") => Protocol::H2c,
            _ if wanted.h2c => Protocol::H2c,
            _ => Protocol::Http1,
        };
        let secured = match object.and_then(|service| secured::wanted(service.annotations())) {
            Some(asked) => self.secured(&key, asked, protocol == Protocol::H2c).map(Some),
            None => Ok(None),
        };
        let (secured, endpoints) = match secured {
            Ok(secured) => (secured, self.sets.of(at, port, (route, annotations))),
            Err(refused) => (None, Err(refused)),
        };
        let backend = Arc::new(Backend {
            route: route.to_owned(),
            service: format!("{}/{}", wanted.namespace, wanted.service),
            port: match &wanted.port {
                Port::Name(name) => name.clone(),
                Port::Number(number) => number.to_string(),
            },
            protocol,
            secured,
            endpoints,
        });
        self.made.insert(made_for, backend.clone());
        backend
    }

    /// What the pods of `service` are trusted by.
    fn secured(
        &mut self,
        service: &(String, String),
        (host, authority): (&str, &str),
        http2: bool,
    ) -> Result<Arc<Secured>, NoEndpoints> {
        let secret = self.secrets.get(&(service.0.clone(), authority.to_owned())).copied();
        match secured::read(host, (authority, secret), http2, self.secured.0) {
            Ok(secured) => {
                self.secured.1.insert(secured.group, secured.clone());
                Ok(secured)
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(
                    service = format!("{}/{}", service.0, service.1),
                    error,
                    "TLS towards its pods is not to be had"
                );
                Err(NoEndpoints::NoTrust)
            }
        }
    }

    /// The sets and the trust that were made.
    pub(super) fn finish(self) -> (Sets, secured::Known) {
        (self.sets.finish(), self.secured.1)
    }
}
