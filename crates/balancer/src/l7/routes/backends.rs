//! The Services' ports that rules name, each made once for an object, with the endpoints behind it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ServicePort;
use kube::ResourceExt;

use super::cell::Cell;
use super::parts::Used;
use super::{Backend, Endpoints, NoEndpoints, Protocol, Table};
use crate::kept::Key;
use crate::l7::World;
use crate::l7::clusters::{PortWanted, Recipe};
use crate::l7::secured::{self, Secured};

/// A Service's port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    pub(super) service: Key,
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

/// Makes the backends of parts that are made anew.
pub(super) struct Backends<'a> {
    world: &'a World,
    before: &'a Table,
    secured: Arc<secured::Known>,
    /// Cells that the table before has not.
    fresh: HashMap<String, Arc<Cell>>,
    /// Of the part that is being made.
    made: HashMap<Wanted, Arc<Backend>>,
    used: BTreeSet<Used>,
    cells: BTreeMap<String, Arc<Cell>>,
}

impl<'a> Backends<'a> {
    pub(super) fn new(world: &'a World, before: &'a Table) -> Self {
        Self {
            world,
            before,
            secured: before.secured.clone(),
            fresh: HashMap::new(),
            made: HashMap::new(),
            used: BTreeSet::new(),
            cells: BTreeMap::new(),
        }
    }

    /// The one that `wanted` describes, for the object `route` with `annotations` that names it.
    pub(super) fn get(
        &mut self,
        wanted: Wanted,
        (route, annotations): (&str, &BTreeMap<String, String>),
    ) -> Arc<Backend> {
        if let Some(made) = self.made.get(&wanted) {
            return made.clone();
        }
        let service = &wanted.service;
        self.used.insert(Used::Service(service.clone()));
        let port = match &wanted.port {
            Port::Name(name) => PortWanted::Name(name),
            Port::Number(number) => PortWanted::Number(*number),
        };
        let is_wanted = |candidate: &&ServicePort| match &wanted.port {
            Port::Name(name) => candidate.name.as_ref() == Some(name),
            Port::Number(number) => candidate.port == *number,
        };
        let object = self.world.services.get(service);
        let spec = object.and_then(|service| service.spec.as_ref());
        let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let spoken = ports.iter().find(is_wanted).and_then(|port| port.app_protocol.as_deref());
        let protocol = match spoken {
            Some("kubernetes.io/h2c" | "grpc") => Protocol::H2c,
            _ if wanted.h2c => Protocol::H2c,
            _ => Protocol::Http1,
        };
        let secured = match object.and_then(|service| secured::wanted(service.annotations())) {
            Some(asked) => self.secured(service, asked, protocol == Protocol::H2c).map(Some),
            None => Ok(None),
        };
        let (secured, endpoints) = match secured {
            Ok(secured) => {
                let found = Recipe::find(self.world, service, port, (route, annotations));
                let found = found.map(|recipe| self.cell(recipe));
                (secured, found.map_or_else(Endpoints::Nowhere, Endpoints::At))
            }
            Err(refused) => (None, Endpoints::Nowhere(refused)),
        };
        let backend = Arc::new(Backend {
            route: route.to_owned(),
            service: format!("{}/{}", service.0, service.1),
            port: match &wanted.port {
                Port::Name(name) => name.clone(),
                Port::Number(number) => number.to_string(),
            },
            protocol,
            secured,
            endpoints,
        });
        self.made.insert(wanted, backend.clone());
        backend
    }

    /// The cell of `recipe`: that of the table before where it is of the same.
    fn cell(&mut self, recipe: Recipe) -> Arc<Cell> {
        let name = recipe.key.clone();
        let cell = self.fresh.get(&name).cloned().unwrap_or_else(|| {
            let users = self.before.uses.get(&Used::Service(recipe.service.clone()));
            let before = users.and_then(|users| users.cells.get(&name)).map(|(cell, _)| cell);
            match before.filter(|cell| cell.recipe == recipe) {
                Some(same) => same.clone(),
                None => {
                    let before = before.map(Arc::as_ref);
                    let made = Arc::new(Cell::new(recipe, self.world, before));
                    self.fresh.insert(name.clone(), made.clone());
                    made
                }
            }
        });
        self.cells.insert(name, cell.clone());
        cell
    }

    /// What the pods of `service` are trusted by.
    fn secured(
        &mut self,
        service: &Key,
        (host, authority): (&str, &str),
        http2: bool,
    ) -> Result<Arc<Secured>, NoEndpoints> {
        let key = (service.0.clone(), authority.to_owned());
        let secret = self.world.secrets.get(&key);
        self.used.insert(Used::Secret(key));
        let secret = secret.map(Arc::as_ref);
        match secured::read(host, (authority, secret), http2, &self.secured) {
            Ok(secured) => {
                let known = Arc::make_mut(&mut self.secured);
                known.retain(|_, one| one.strong_count() > 0);
                known.insert(secured.group, Arc::downgrade(&secured));
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

    /// What the part that was made used, and its cells; the next one begins with none.
    pub(super) fn take(&mut self) -> (BTreeSet<Used>, BTreeMap<String, Arc<Cell>>) {
        self.made.clear();
        (std::mem::take(&mut self.used), std::mem::take(&mut self.cells))
    }

    /// The trust that was made.
    pub(super) fn finish(self) -> Arc<secured::Known> {
        self.secured
    }
}
