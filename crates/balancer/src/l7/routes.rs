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
mod cell;
mod conditions;
mod gateways;
mod http_rules;
mod matching;
mod parts;
mod stream_routes;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use berth_api::acme;

use super::World;
use super::pick::BackendSet;
use super::secured::{self, Secured};
use crate::kept::Kept;

pub(super) use actions::{Filters, HeaderChange, Mirror, Route};
#[cfg(test)]
pub(super) use actions::{NewPath, Rewrite};
use build::Age;
pub use build::routes;
use cell::Cell;
pub(super) use conditions::{Found as FoundCondition, GatewayReport, Reports, RouteReport};
use gateways::Ground;
pub(super) use matching::Asked;
use parts::{Part, PartKey, Ruled, Used, Users};
pub(super) use stream_routes::StreamReports;
pub(crate) use stream_routes::{At, Place, StreamRoute, stream_routes};

/// Authorities' tokens have 43 characters or so.
const LONGEST_TOKEN: usize = 256;

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
///
/// It is made of parts, one for each object with rules, and shares all that did not change with the
/// one before.
#[derive(Debug, Default)]
pub struct Table {
    http: Door,
    https: Door,
    /// What it was made from.
    world: World,
    parts: Kept<PartKey, Part>,
    uses: Kept<Used, Users>,
    /// Default backends of Ingresses.
    defaults: Arc<BTreeMap<Age, Arc<Route>>>,
    /// Hosts that Ingresses ask certificates for, and how often.
    certified: Kept<String, usize>,
    /// What Gateways' routes stand on.
    ground: Arc<Ground>,
    secured: Arc<secured::Known>,
}

/// Which of the two sockets a request came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum DoorName {
    Http,
    Https,
}

#[derive(Clone, Debug, Default)]
struct Door {
    hosts: Kept<String, Host>,
    /// By what follows the `*.`.
    wildcards: Kept<String, Host>,
    has_wildcards: bool,
    any: Arc<Host>,
    default: Option<Arc<Route>>,
}

/// The rules of a host.
#[derive(Debug, Default)]
struct Host {
    rules: Vec<Ruled>,
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
    endpoints: Endpoints,
}

#[derive(Debug)]
enum Endpoints {
    At(Arc<Cell>),
    Nowhere(NoEndpoints),
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

impl Backend {
    /// The endpoints that it has at this moment.
    pub(super) fn endpoints(&self) -> Result<Arc<BackendSet>, NoEndpoints> {
        match &self.endpoints {
            Endpoints::At(cell) => cell.get(),
            Endpoints::Nowhere(why) => Err(*why),
        }
    }
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
        if !self.has_wildcards {
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

    /// The rules of `host`, which may begin with `*.` or be empty for all.
    fn at(&self, host: &str) -> Option<&Arc<Host>> {
        match host.strip_prefix("*.") {
            None if host.is_empty() => Some(&self.any),
            None => self.hosts.get(host),
            Some(domain) => self.wildcards.get(domain),
        }
    }

    /// Puts these rules there, or none.
    fn put(&mut self, host: String, rules: Option<Arc<Host>>) {
        if host.is_empty() {
            self.any = rules.unwrap_or_default();
            return;
        }
        let domain = host.strip_prefix("*.").map(str::to_owned);
        let is_wild = domain.is_some();
        let place = if is_wild { &mut self.wildcards } else { &mut self.hosts };
        let name = domain.unwrap_or(host);
        match rules {
            Some(rules) => drop(place.insert(name, rules)),
            None => drop(place.remove(&name)),
        }
        if is_wild {
            self.has_wildcards = !self.wildcards.is_empty();
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
        let mut rules = door.host(asked.host).rules.iter().map(|ruled| &ruled.rule);
        let rule = rules.find(|rule| rule.fits(asked));
        rule.map(|rule| (&rule.then, rule.path.prefix_len()))
            .or(door.default.as_ref().map(|route| (route, 0)))
    }

    /// What an authority that asks `host` for `path` is answered, RFC 8555 section 8.3; `None` where
    /// no certificate is asked for, or nobody orders any.
    pub(super) fn proof(&self, host: &str, path: &str) -> Option<String> {
        let token = path.strip_prefix(acme::CHALLENGES)?;
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if token.is_empty() || token.len() > LONGEST_TOKEN || !token.bytes().all(is_token) {
            return None;
        }
        if self.certified.get(host).is_none() && !self.ground.certified.contains(host) {
            return None;
        }
        let key = (acme::NAMESPACE.to_owned(), acme::CONFIG_MAP.to_owned());
        let data = self.world.config_maps.get(&key)?.data.as_ref()?;
        Some(format!("{token}.{}", data.get(acme::THUMBPRINT)?))
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
        if path.starts_with(acme::CHALLENGES) {
            return None;
        }
        let door = self.door(door);
        let asked = Asked { host, path, query, method, headers: &NONE };
        let mut rules = door.host(host).rules.iter().map(|ruled| &ruled.rule);
        let found = rules.find(|rule| rule.fits_but_for_fields(&asked));
        match found {
            Some(rule) if !rule.headers.is_empty() => None,
            Some(rule) => Some((&rule.then, rule.path.prefix_len())),
            None => door.default.as_ref().map(|route| (route, 0)),
        }
    }

    /// Every set of endpoints: what is checked and swept.
    pub(super) fn sets(&self) -> Vec<Arc<BackendSet>> {
        let cells = self.uses.values().flat_map(|users| users.cells.values());
        cells.filter_map(|(cell, _)| cell.get().ok()).collect()
    }

    /// What became of Gateways and their routes.
    pub(super) fn reports(&self) -> Reports {
        self.ground.reports(self.parts.values())
    }

    /// Which Secret is shown for which host of Gateways, `NAMESPACE/NAME`.
    pub(super) fn certificates(&self) -> &[(String, String)] {
        &self.ground.certificates
    }

    /// Whether Gateways show the same certificates as in `other`.
    pub(super) fn shares_ground(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.ground, &other.ground)
    }

    /// Whether there is nothing in it that a status would tell otherwise than of `other`.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.world, &other.world);
        self.parts.is_same(&other.parts)
            && self.shares_ground(other)
            && ours.ingresses.is_same(&theirs.ingresses)
            && ours.http.is_same(&theirs.http)
            && ours.grpc.is_same(&theirs.grpc)
            && ours.tcp.is_same(&theirs.tcp)
            && ours.udp.is_same(&theirs.udp)
            && ours.tls.is_same(&theirs.tls)
            && ours.gateways.is_same(&theirs.gateways)
            && ours.gateway_classes.is_same(&theirs.gateway_classes)
    }

    /// What it was made from.
    pub(crate) fn world(&self) -> &World {
        &self.world
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

#[cfg(test)]
mod next_tests;
