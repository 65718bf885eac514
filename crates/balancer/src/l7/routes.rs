//! From Ingresses, Services and endpoints to a table that a request is looked up in. Pure.
//!
//! Lookup: the host as given, else the wildcard one label up, else rules without a host; in there
//! `Exact` paths before prefixes, longer prefixes first; a prefix ends where a path element does.
//! Then the default backend of the rule's own Ingress, then the oldest default backend there is.

mod build;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddrV4;
use std::sync::Arc;

use super::pick::Endpoint;

pub use build::routes;

/// Where requests go.
#[derive(Debug, Default)]
pub struct Table {
    hosts: HashMap<String, Vec<Rule>>,
    /// By what follows the `*.`.
    wildcards: HashMap<String, Vec<Rule>>,
    any_host: Vec<Rule>,
    default: Option<Arc<Backend>>,
    endpoints: HashMap<SocketAddrV4, Arc<Endpoint>>,
}

/// A path and who serves it.
#[derive(Debug)]
struct Rule {
    path: PathMatch,
    backend: Arc<Backend>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PathMatch {
    Exact(String),
    /// Without a slash at its end; the empty one matches all.
    Prefix(String),
}

impl PathMatch {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

/// A Service's port as an Ingress named it.
#[derive(Debug)]
pub(super) struct Backend {
    /// `NAMESPACE/NAME` of the Ingress.
    pub(super) ingress: String,
    /// `NAMESPACE/NAME` of the Service.
    pub(super) service: String,
    /// The port's name or number as the Ingress has it.
    pub(super) port: String,
    pub(super) endpoints: Result<Vec<Arc<Endpoint>>, NoEndpoints>,
}

/// Why a backend has no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoEndpoints {
    NoService,
    NoPort,
    NoneReady,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ingress, service, port, .. } = self;
        write!(f, "Service {service} port {port} (Ingress {ingress})")
    }
}

impl fmt::Display for NoEndpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoService => "there is no such Service",
            Self::NoPort => "the Service has no such port",
            Self::NoneReady => "none of its endpoints is ready",
        })
    }
}

impl Table {
    /// Who serves `path` of `host` (lower case, without a port).
    pub(super) fn find(&self, host: &str, path: &str) -> Option<&Arc<Backend>> {
        let wildcard = || host.split_once('.').and_then(|(_, rest)| self.wildcards.get(rest));
        let rules = self.hosts.get(host).or_else(wildcard).unwrap_or(&self.any_host);
        let rule = rules.iter().find(|rule| rule.path.matches(path));
        rule.map(|rule| &rule.backend).or(self.default.as_ref())
    }

    /// How many backends' rules there are.
    pub fn rules(&self) -> usize {
        let named = self.hosts.values().chain(self.wildcards.values());
        named.map(Vec::len).sum::<usize>() + self.any_host.len()
    }
}

#[cfg(test)]
mod tests;
