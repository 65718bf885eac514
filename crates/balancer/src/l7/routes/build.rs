//! Making the table.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend};
use kube::ResourceExt;

use super::{Backend, NoEndpoints, PathMatch, Rule, Table};
use crate::endpoints::Slices;
use crate::l7::Snapshot;
use crate::l7::pick::Endpoint;

/// The routes of `class` in `snapshot`; what is known of endpoints is taken over from `before`.
///
/// # Guarantees
/// The order of objects in the snapshot does not matter. Where two Ingresses claim a host's path,
/// the older one has it (then the first by namespace and name).
pub fn routes(snapshot: &Snapshot, class: &str, before: &Table) -> Table {
    let services = snapshot.services.iter();
    let mut build = Build {
        services: services.map(|service| (key(service), service.as_ref())).collect(),
        slices: Slices::new(&snapshot.slices),
        before,
        table: Table::default(),
    };
    for ingress in snapshot.served(class) {
        build.add(ingress);
    }
    let mut table = build.table;
    let hosts = table.hosts.values_mut().chain(table.wildcards.values_mut());
    for rules in hosts.chain(std::iter::once(&mut table.any_host)) {
        order(rules);
    }
    table
}

fn key(service: &Arc<Service>) -> (String, String) {
    (service.namespace().unwrap_or_default(), service.name_any())
}

/// Exact paths first, then the longer prefix; of equal ones the first that was added stays first.
fn order(rules: &mut [Rule]) {
    rules.sort_by_key(|rule| match &rule.path {
        PathMatch::Exact(_) => (0, 0),
        PathMatch::Prefix(prefix) => (1, usize::MAX - prefix.len()),
    });
}

struct Build<'a> {
    services: HashMap<(String, String), &'a Service>,
    slices: Slices<'a>,
    before: &'a Table,
    table: Table,
}

impl Build<'_> {
    fn add(&mut self, ingress: &Ingress) {
        let Some(spec) = &ingress.spec else { return };
        let default = spec.default_backend.as_ref().map(|backend| self.backend(ingress, backend));
        for rule in spec.rules.iter().flatten() {
            let mut rules: Vec<_> = rule
                .http
                .iter()
                .flat_map(|http| &http.paths)
                .map(|path| Rule {
                    path: path_match(path),
                    backend: self.backend(ingress, &path.backend),
                })
                .collect();
            if let Some(backend) = &default {
                let path = PathMatch::Prefix(String::new());
                rules.push(Rule { path, backend: backend.clone() });
            }
            let host = rule.host.as_deref().unwrap_or_default().to_ascii_lowercase();
            let place = if host.is_empty() {
                &mut self.table.any_host
            } else if let Some(domain) = host.strip_prefix("*.") {
                self.table.wildcards.entry(domain.to_owned()).or_default()
            } else {
                self.table.hosts.entry(host).or_default()
            };
            place.append(&mut rules);
        }
        if self.table.default.is_none() {
            self.table.default = default;
        }
    }

    fn backend(&mut self, ingress: &Ingress, backend: &IngressBackend) -> Arc<Backend> {
        let namespace = ingress.namespace().unwrap_or_default();
        let named = backend.service.as_ref();
        let name = named.map(|service| service.name.clone()).unwrap_or_default();
        let wanted = named.and_then(|service| service.port.as_ref());
        let by_name = wanted.and_then(|port| port.name.clone());
        let by_number = wanted.and_then(|port| port.number);
        let is_wanted = |port: &&ServicePort| match &by_name {
            Some(name) => port.name.as_ref() == Some(name),
            None => Some(port.port) == by_number,
        };
        let ports = self.services.get(&(namespace.clone(), name.clone())).map(|service| {
            service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
        });
        let endpoints = match ports.map(|ports| ports.iter().find(is_wanted)) {
            None => Err(NoEndpoints::NoService),
            Some(None) => Err(NoEndpoints::NoPort),
            Some(Some(port)) => {
                let port = port.name.as_deref().unwrap_or_default();
                let found = self.slices.backends((&namespace, &name), port, "TCP", |_| true);
                if found.is_empty() {
                    Err(NoEndpoints::NoneReady)
                } else {
                    Ok(found.into_iter().map(|address| self.endpoint(address)).collect())
                }
            }
        };
        let port = by_name.or(by_number.map(|number| number.to_string())).unwrap_or_default();
        Arc::new(Backend {
            ingress: format!("{namespace}/{}", ingress.name_any()),
            service: format!("{namespace}/{name}"),
            port,
            endpoints,
        })
    }

    /// One endpoint an address, whoever names it, and the same one as in the table before.
    fn endpoint(&mut self, address: SocketAddrV4) -> Arc<Endpoint> {
        let known = self.table.endpoints.get(&address);
        let endpoint = known.or_else(|| self.before.endpoints.get(&address)).cloned();
        let endpoint = endpoint.unwrap_or_else(|| Arc::new(Endpoint::new(address)));
        self.table.endpoints.insert(address, endpoint.clone());
        endpoint
    }
}

fn path_match(path: &HTTPIngressPath) -> PathMatch {
    let text = path.path.as_deref().unwrap_or("/");
    match path.path_type.as_str() {
        "Exact" => PathMatch::Exact(text.to_owned()),
        // What is implementation specific is a prefix here.
        _ => PathMatch::Prefix(text.trim_end_matches('/').to_owned()),
    }
}
