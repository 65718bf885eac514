//! From Services and the endpoints of all clusters to sets that are picked from.
//!
//! A route names a Service of the first cluster. The endpoints that the Service of the same
//! namespace and name has in the other clusters stand behind it too, each cluster as a site with a
//! weight (`berth.dev/clusters: north=80,south=20`). The port is found by its name, so its number
//! may differ from cluster to cluster. A cluster that cannot be reached keeps the endpoints that
//! were seen last: they are taken away by checks and refused connections, not by silence.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use kube::ResourceExt;
use tokio::sync::{Notify, watch};

use berth_daemon::Tasks;

use super::pick::{BackendSet, Member, Policy, Sets};
pub(crate) use super::routes::NoEndpoints;
use super::{Snapshot, World};
use crate::endpoints::Slices;
use crate::follow::follow;
use crate::kept::{Kept, Key};

/// Where this process and its endpoints are.
#[derive(Clone, Debug, Default)]
pub struct Sites {
    /// The first cluster's name in weights.
    pub own: String,
    /// The zone of this process, `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// The other clusters and what endpoints they have.
    pub others: Vec<(String, Elsewhere)>,
}

/// The endpoints that another cluster has.
#[derive(Clone, Debug, Default)]
pub struct Elsewhere(pub(super) Kept<Key, EndpointSlice>);

/// A Service's port as a route names it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PortWanted<'a> {
    Name(&'a str),
    Number(i32),
}

/// What a set is the set of, found once: its endpoints change, this does not.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recipe {
    pub(crate) service: Key,
    pub(crate) port: String,
    pub(crate) protocol: String,
    pub(crate) policy: Arc<Policy>,
    /// The Service's port, and the route when it has a policy of its own.
    pub(crate) key: String,
}

impl Recipe {
    /// Of the set behind `port` of a Service, with the policy that it and the route ask for.
    ///
    /// `route` names the route and gives its annotations: with a policy of its own it has a set of
    /// its own, without one it shares the Service's.
    pub(crate) fn find(
        world: &World,
        service: &Key,
        port: PortWanted<'_>,
        (route, annotations): (&str, &BTreeMap<String, String>),
    ) -> Result<Self, NoEndpoints> {
        let (namespace, name) = service;
        let object = world.services.get(service).ok_or(NoEndpoints::NoService)?;
        let ports = object.spec.as_ref().and_then(|spec| spec.ports.as_deref());
        let is_wanted = |candidate: &&ServicePort| match port {
            PortWanted::Name(name) => candidate.name.as_deref() == Some(name),
            PortWanted::Number(number) => candidate.port == number,
        };
        let port = ports.unwrap_or_default().iter().find(is_wanted).ok_or(NoEndpoints::NoPort)?;
        let (policy, refused) = Policy::read(object.annotations(), annotations);
        for why in refused {
            tracing::debug!(service = format!("{namespace}/{name}"), route, "{why}");
        }
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        let own = if Policy::is_in(annotations) { route } else { "" };
        Ok(Self {
            key: format!("{namespace}/{name}/{protocol}/{}/{own}", port.port),
            service: service.clone(),
            port: port.name.clone().unwrap_or_default(),
            protocol,
            policy: Arc::new(policy),
        })
    }

    /// The endpoints that there are, by site.
    pub(crate) fn members(&self, world: &World) -> Result<Vec<(String, Vec<Member>)>, NoEndpoints> {
        let at = (self.service.0.as_str(), self.service.1.as_str());
        let zone = world.zone.as_deref();
        let made_of: Vec<_> = world
            .sites(&self.service)
            .map(|(site, slices)| {
                let slices = Slices::new(slices);
                let found = slices.members(at, &self.port, &self.protocol);
                let member = |(address, endpoint): (_, &SliceEndpoint)| Member {
                    address,
                    weight: weight(&self.policy, address, endpoint),
                    local: is_near(zone, endpoint),
                };
                (site.to_owned(), found.into_iter().map(member).collect::<Vec<_>>())
            })
            .collect();
        if made_of.iter().all(|(_, members)| members.is_empty()) {
            return Err(NoEndpoints::NoneReady);
        }
        Ok(made_of)
    }
}

/// Makes the sets of one table, all at once.
pub(crate) struct Backends<'a> {
    world: World,
    before: &'a Sets,
    sets: Sets,
}

impl<'a> Backends<'a> {
    /// What is known of endpoints is taken over from `before`.
    pub(crate) fn new(snapshot: &Snapshot, before: &'a Sets) -> Self {
        Self::within(&World::from(snapshot), before)
    }

    /// The same of a world.
    pub(crate) fn within(world: &World, before: &'a Sets) -> Self {
        Self { world: world.clone(), before, sets: Sets::default() }
    }

    /// The set of a [`Recipe`].
    pub(crate) fn of(
        &mut self,
        (namespace, name): (&str, &str),
        port: PortWanted<'_>,
        route: (&str, &BTreeMap<String, String>),
    ) -> Result<Arc<BackendSet>, NoEndpoints> {
        let service = (namespace.to_owned(), name.to_owned());
        let recipe = Recipe::find(&self.world, &service, port, route)?;
        let made_of = recipe.members(&self.world)?;
        Ok(self.sets.set(self.before, recipe.key, made_of, recipe.policy))
    }

    /// Whether a Service asks for TLS towards its pods.
    pub(crate) fn is_secured(&self, (namespace, name): (&str, &str)) -> bool {
        let service = self.world.services.get(&(namespace.to_owned(), name.to_owned()));
        service.is_some_and(|service| super::secured::wanted(service.annotations()).is_some())
    }

    /// What was made.
    pub(crate) fn finish(self) -> Sets {
        self.sets
    }
}

fn weight(policy: &Policy, address: std::net::SocketAddrV4, endpoint: &SliceEndpoint) -> u32 {
    if policy.weights.is_empty() {
        return 1;
    }
    let ip = address.ip().to_string();
    let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref());
    let names = [Some(ip.as_str()), pod, endpoint.node_name.as_deref(), endpoint.zone.as_deref()];
    policy.weight(names.into_iter().flatten())
}

/// By the hints for zones where there are any, else by the endpoint's own zone.
fn is_near(zone: Option<&str>, endpoint: &SliceEndpoint) -> bool {
    let Some(zone) = zone else { return false };
    match endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_ref()) {
        Some(zones) if !zones.is_empty() => zones.iter().any(|hint| hint.name == zone),
        _ => endpoint.zone.as_deref() == Some(zone),
    }
}

/// Follows the endpoints of the other clusters; the answer changes whenever they do.
///
/// A cluster that was never reached has no endpoints, and holds nothing up.
pub fn follow_others(
    clusters: Vec<(String, kube::Client)>,
    sites: Sites,
    tasks: &Tasks,
) -> watch::Receiver<Sites> {
    let (sender, receiver) = watch::channel(sites.clone());
    let changed = Arc::new(Notify::new());
    let copies: Vec<_> = clusters
        .into_iter()
        .map(|(name, client)| {
            let events = berth_api::endpoints::follow(client);
            (name, follow("endpoints-elsewhere", events, changed.clone(), tasks))
        })
        .collect();
    tasks.spawn_until_stop("clusters", async move {
        loop {
            changed.notified().await;
            let others = copies.iter();
            let others = others
                .map(|(name, copy)| (name.clone(), Elsewhere(copy.kept().unwrap_or_default())));
            sender.send_replace(Sites { others: others.collect(), ..sites.clone() });
        }
    });
    receiver
}
