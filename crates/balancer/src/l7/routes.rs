//! From Ingresses, Gateways, their routes, Services and endpoints to a table that a request is
//! looked up in. Pure.
//!
//! ```text
//! Ingress ─────────────┐                       ┌ hosts      a.example ─ rules, in order
//!                      ├─▶ doors (by port) ───▶├ wildcards  *.example ─ rules, in order
//! Gateway ◀ HTTPRoute ─┘                       └ any host             ─ rules, in order
//! ```
//!
//! Lookup: the port decides the door; in it the host as given, else the longest wildcard that fits,
//! else rules without a host; in there the first rule that fits (see `matching` for their order).
//! An Ingress's wildcard stands for one label, a Gateway's for one or more. Then, at doors that
//! Ingress has too, the oldest default backend there is.

mod actions;
mod attach;
mod backends;
mod build;
mod conditions;
mod gateways;
mod http_rules;
mod matching;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::pick::{BackendSet, Sets};
use super::secured::{self, Secured};

pub(super) use actions::{Filters, HeaderChange, Mirror, Route};
#[cfg(test)]
pub(super) use actions::{NewPath, Rewrite};
pub use build::routes;
pub(super) use conditions::{Found as FoundCondition, GatewayReport, Reports, RouteReport};
pub(super) use matching::Asked;
use matching::Rule;

/// For whom and where a table is made.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The class of Ingresses.
    pub ingress_class: String,
    /// Where HTTP is spoken; a Gateway may call it 80 as well.
    pub http_port: u16,
    /// Where HTTPS is spoken; a Gateway may call it 443 as well.
    pub https_port: u16,
}

/// Where requests go.
#[derive(Debug, Default)]
pub struct Table {
    http: Door,
    https: Door,
    sets: Sets,
    secured: secured::Known,
    /// What became of Gateways and their routes.
    pub(super) reports: Reports,
    /// Which Secret is shown for which host of Gateways, `NAMESPACE/NAME`.
    pub(super) certificates: Vec<(String, String)>,
}

/// Which of the two sockets a request came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum DoorName {
    Http,
    Https,
}

#[derive(Debug, Default)]
struct Door {
    hosts: HashMap<String, Host>,
    /// By what follows the `*.`.
    wildcards: HashMap<String, Host>,
    any: Host,
    default: Option<Arc<Route>>,
}

/// The rules of a host.
#[derive(Debug, Default)]
struct Host {
    rules: Vec<Rule>,
    /// Of a wildcard: whether it stands for several labels too.
    deep: bool,
}

/// A Service's port as a rule named it.
#[derive(Debug)]
pub(super) struct Backend {
    /// `Ingress NAMESPACE/NAME`, `HTTPRoute NAMESPACE/NAME`: who named it first.
    pub(super) route: String,
    /// `NAMESPACE/NAME` of the Service.
    pub(super) service: String,
    /// The port's name or number as the rule has it.
    pub(super) port: String,
    pub(super) protocol: Protocol,
    /// How its pods are trusted; `None` where they are spoken to in the clear.
    pub(super) secured: Option<Arc<Secured>>,
    pub(super) endpoints: Result<Arc<BackendSet>, NoEndpoints>,
}

/// What a backend's pods speak, by `appProtocol` of the Service's port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Protocol {
    #[default]
    Http1,
    /// HTTP/2 in the clear, `kubernetes.io/h2c`, and what gRPC needs.
    H2c,
}

/// Why a backend has no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoEndpoints {
    NoService,
    NoPort,
    NoneReady,
    /// It asks for TLS, and there is nothing to trust its pods by.
    NoTrust,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { route, service, port, .. } = self;
        write!(f, "Service {service} port {port} ({route})")
    }
}

impl fmt::Display for NoEndpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoService => "there is no such Service",
            Self::NoPort => "the Service has no such port",
            Self::NoneReady => "none of its endpoints is ready",
            Self::NoTrust => "there is nothing to trust its pods by (berth.dev/tls-host, -ca)",
        })
    }
}

impl Door {
    fn host(&self, host: &str) -> &Host {
        if let Some(found) = self.hosts.get(host) {
            return found;
        }
        if self.wildcards.is_empty() {
            return &self.any;
        }
        let (mut rest, mut labels) = (host, 0);
        while let Some((_, domain)) = rest.split_once('.') {
            labels += 1;
            if let Some(found) = self.wildcards.get(domain).filter(|host| labels == 1 || host.deep)
            {
                return found;
            }
            rest = domain;
        }
        &self.any
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Host> {
        let named = self.hosts.values_mut().chain(self.wildcards.values_mut());
        named.chain(std::iter::once(&mut self.any))
    }

    /// The place for rules of `host`, which may begin with `*.` or be empty for all.
    fn place(&mut self, host: &str) -> &mut Host {
        if host.is_empty() {
            &mut self.any
        } else if let Some(domain) = host.strip_prefix("*.") {
            self.wildcards.entry(domain.to_owned()).or_default()
        } else {
            self.hosts.entry(host.to_owned()).or_default()
        }
    }
}

impl Table {
    fn door(&self, name: DoorName) -> &Door {
        match name {
            DoorName::Http => &self.http,
            DoorName::Https => &self.https,
        }
    }

    fn door_mut(&mut self, name: DoorName) -> &mut Door {
        match name {
            DoorName::Http => &mut self.http,
            DoorName::Https => &mut self.https,
        }
    }

    /// What becomes of a request, and how much of its path is the prefix that its rule names.
    pub(super) fn find(&self, door: DoorName, asked: &Asked<'_>) -> Option<(&Arc<Route>, usize)> {
        let door = self.door(door);
        let rule = door.host(asked.host).rules.iter().find(|rule| rule.fits(asked));
        rule.map(|rule| (&rule.then, rule.path.prefix_len()))
            .or(door.default.as_ref().map(|route| (route, 0)))
    }

    /// The same for a request whose header fields were not read; `None` too when they matter.
    pub(super) fn find_plain(
        &self,
        door: DoorName,
        host: &str,
        path: &str,
        query: Option<&str>,
        method: &http::Method,
    ) -> Option<(&Arc<Route>, usize)> {
        static NONE: std::sync::LazyLock<http::HeaderMap> =
            std::sync::LazyLock::new(http::HeaderMap::new);
        let door = self.door(door);
        let asked = Asked { host, path, query, method, headers: &NONE };
        let mut rules = door.host(host).rules.iter();
        let found = rules.find(|rule| rule.fits_but_for_fields(&asked));
        match found {
            Some(rule) if !rule.headers.is_empty() => None,
            Some(rule) => Some((&rule.then, rule.path.prefix_len())),
            None => door.default.as_ref().map(|route| (route, 0)),
        }
    }

    /// Every set of endpoints: what is checked and swept.
    pub(super) fn sets(&self) -> Vec<Arc<BackendSet>> {
        self.sets.iter().cloned().collect()
    }

    /// How many rules there are.
    pub fn rules(&self) -> usize {
        let of = |door: &Door| {
            let named = door.hosts.values().chain(door.wildcards.values());
            named.map(|host| host.rules.len()).sum::<usize>() + door.any.rules.len()
        };
        of(&self.http) + of(&self.https)
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod gateway_tests;
