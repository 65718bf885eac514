//! The Gateway API's objects, followed from when a cluster has them.
//!
//! A cluster may get the definitions while we run, and older or newer ones than ours: of each kind
//! the most stable version that is served is followed. Until the definitions were listed nothing
//! is published, so that a start never forgets routes that the cluster has.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::{ApiResource, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use tokio::sync::Notify;

use berth_api::gateway::{
    BackendTarget, GROUP, GRPCRoute, Gateway, GatewayClass, HTTPRoute, HttpFilter, ReferenceGrant,
    TCPRoute, TLSRoute, UDPRoute, WeightedBackend,
};
use berth_daemon::{Backoff, Ready, Tasks};

use crate::follow::{Followed, follow, is_refused};
use crate::l7::World;
use crate::l7::lenient::Lenient;

/// The Gateway API's objects, in any order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewayObjects {
    /// Every GatewayClass.
    #[serde(with = "shared")]
    pub classes: Vec<Arc<Lenient<GatewayClass>>>,
    /// Every Gateway.
    #[serde(with = "shared")]
    pub gateways: Vec<Arc<Lenient<Gateway>>>,
    /// Every HTTPRoute.
    #[serde(with = "shared")]
    pub http: Vec<Arc<Lenient<HTTPRoute>>>,
    /// Every GRPCRoute.
    #[serde(with = "shared")]
    pub grpc: Vec<Arc<Lenient<GRPCRoute>>>,
    /// Every TLSRoute.
    #[serde(with = "shared")]
    pub tls: Vec<Arc<Lenient<TLSRoute>>>,
    /// Every TCPRoute.
    #[serde(with = "shared")]
    pub tcp: Vec<Arc<Lenient<TCPRoute>>>,
    /// Every UDPRoute.
    #[serde(with = "shared")]
    pub udp: Vec<Arc<Lenient<UDPRoute>>>,
    /// Every ReferenceGrant.
    #[serde(with = "shared")]
    pub grants: Vec<Arc<Lenient<ReferenceGrant>>>,
    /// Every namespace, for its labels.
    #[serde(with = "shared")]
    pub namespaces: Vec<Arc<PartialObjectMeta<Namespace>>>,
}

/// What is shared is saved as what it is.
mod shared {
    use super::{Arc, DeserializeOwned, Serialize, Serializer};
    use serde::{Deserialize, Deserializer};

    pub(super) fn serialize<K: Serialize, S: Serializer>(
        all: &[Arc<K>],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(all.iter().map(Arc::as_ref))
    }

    pub(super) fn deserialize<'de, K: DeserializeOwned, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Arc<K>>, D::Error> {
        let all = Vec::<K>::deserialize(deserializer)?;
        Ok(all.into_iter().map(Arc::new).collect())
    }
}

/// Names of objects with their namespaces.
type Names = HashSet<(String, String)>;

impl GatewayObjects {
    /// Adds the Services and Secrets that are named here.
    pub(super) fn names(&self, services: &mut Names, secrets: &mut Names) {
        for gateway in &self.gateways {
            let Ok(object) = &gateway.object else { continue };
            for tls in object.spec.listeners.iter().filter_map(|one| one.tls.as_ref()) {
                secrets.extend(tls.certificate_refs.iter().map(|one| {
                    let namespace = one.namespace.clone().or_else(|| gateway.namespace());
                    (namespace.unwrap_or_default(), one.name.clone())
                }));
            }
        }
        let mut add = |own: Option<String>, target: &BackendTarget| {
            let namespace = target.namespace.clone().or(own).unwrap_or_default();
            services.insert((namespace, target.name.clone()));
        };
        let mut add_rule = |own: Option<String>, to: &[WeightedBackend], filters: &[HttpFilter]| {
            let own_filters = to.iter().flat_map(|one| &one.filters);
            for filter in filters.iter().chain(own_filters) {
                if let Some(mirror) = &filter.request_mirror {
                    add(own.clone(), &mirror.backend_ref);
                }
            }
            to.iter().for_each(|one| add(own.clone(), &one.target));
        };
        for route in &self.http {
            for rule in route.object.iter().flat_map(|object| &object.spec.rules) {
                add_rule(route.namespace(), &rule.backend_refs, &rule.filters);
            }
        }
        for route in &self.grpc {
            for rule in route.object.iter().flat_map(|object| &object.spec.rules) {
                add_rule(route.namespace(), &rule.backend_refs, &rule.filters);
            }
        }
        macro_rules! streams {
            ($field:ident) => {
                for route in &self.$field {
                    for rule in route.object.iter().flat_map(|object| &object.spec.rules) {
                        add_rule(route.namespace(), &rule.backend_refs, &[]);
                    }
                }
            };
        }
        streams!(tls);
        streams!(tcp);
        streams!(udp);
    }
}

/// The copies of the kinds that the cluster has.
#[derive(Default)]
struct Kinds {
    classes: Option<Followed<Lenient<GatewayClass>>>,
    gateways: Option<Followed<Lenient<Gateway>>>,
    http: Option<Followed<Lenient<HTTPRoute>>>,
    grpc: Option<Followed<Lenient<GRPCRoute>>>,
    tls: Option<Followed<Lenient<TLSRoute>>>,
    tcp: Option<Followed<Lenient<TCPRoute>>>,
    udp: Option<Followed<Lenient<UDPRoute>>>,
    grants: Option<Followed<Lenient<ReferenceGrant>>>,
    namespaces: Option<Followed<PartialObjectMeta<Namespace>>>,
    /// What is followed, by plural.
    versions: BTreeMap<String, String>,
}

/// What [`follow_gateways`] keeps.
#[derive(Clone, Default)]
pub(super) struct FollowedGateways {
    kinds: Arc<Mutex<Kinds>>,
    /// Whether it is known which kinds there are.
    known: Ready,
}

impl FollowedGateways {
    /// Puts all objects into `world`; `None` while some that there are are not known.
    pub(super) fn fill(&self, world: &mut World) -> Option<()> {
        if !self.known.is_ready() {
            return None;
        }
        let kinds = self.kinds.lock().expect("nothing panics while it holds the lock");
        macro_rules! fill {
            ($($field:ident => $place:ident),*) => {
                $(if let Some(followed) = &kinds.$field {
                    world.$place = followed.kept()?;
                })*
            };
        }
        fill!(
            classes => gateway_classes,
            gateways => gateways,
            http => http,
            grpc => grpc,
            tls => tls,
            tcp => tcp,
            udp => udp,
            grants => grants,
            namespaces => namespaces
        );
        world.versions.clone_from(&kinds.versions);
        Some(())
    }
}

/// Follows the Gateway API's kinds, each from when it is there.
pub(super) fn follow_gateways(
    client: &Client,
    changed: Arc<Notify>,
    tasks: &Tasks,
) -> FollowedGateways {
    let followed = FollowedGateways::default();
    let (copy, client, group) = (followed.clone(), client.clone(), tasks.clone());
    tasks.spawn_until_stop("gateway-definitions", async move {
        let definitions = Api::<PartialObjectMeta<CustomResourceDefinition>>::all(client.clone());
        let mut events = watcher(definitions, watcher::Config::default())
            .backoff(watcher::DefaultBackoff::default())
            .boxed();
        let mut seen = HashSet::new();
        while let Some(event) = events.next().await {
            use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
            let suffix = format!(".{GROUP}");
            match event {
                Ok(InitApply(definition) | Apply(definition)) => {
                    if definition.name_any().ends_with(&suffix) {
                        seen.insert(definition.name_any());
                    }
                }
                Ok(Init) => continue,
                Ok(InitDone) => {}
                Ok(Delete(definition)) => {
                    seen.remove(&definition.name_any());
                }
                Err(error) => {
                    tracing::debug!(%error, "definitions not seen");
                    // Who may not see definitions has Ingress still.
                    if is_refused(&error) {
                        copy.known.set(true);
                        changed.notify_one();
                    }
                    continue;
                }
            }
            if !seen.is_empty() {
                start_all(&client, &copy, &seen, &changed, &group).await;
            }
            if !copy.known.is_ready() {
                copy.known.set(true);
                changed.notify_one();
            }
        }
    });
    followed
}

/// How often it is asked again for kinds that are defined and not yet served.
const ASK_AGAIN: usize = 6;

/// Starts to follow what is defined and not followed yet.
async fn start_all(
    client: &Client,
    followed: &FollowedGateways,
    defined: &HashSet<String>,
    changed: &Arc<Notify>,
    tasks: &Tasks,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    for _ in 0..ASK_AGAIN {
        let served = match kube::discovery::group(client, GROUP).await {
            Ok(group) => group.resources_by_stability(),
            Err(error) => {
                tracing::debug!(%error, "the Gateway API is not served yet");
                Vec::new()
            }
        };
        let served: Vec<ApiResource> = served.into_iter().map(|(resource, _)| resource).collect();
        start(client, followed, &served, changed, tasks);
        let is_served = |name: &String| {
            served.iter().any(|one| name.strip_suffix(&format!(".{GROUP}")) == Some(&one.plural))
        };
        if defined.iter().all(is_served) {
            return;
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

fn start(
    client: &Client,
    followed: &FollowedGateways,
    served: &[ApiResource],
    changed: &Arc<Notify>,
    tasks: &Tasks,
) {
    let mut kinds = followed.kinds.lock().expect("nothing panics while it holds the lock");
    let of = |plural: &str| served.iter().find(|one| one.plural == plural).cloned();
    macro_rules! begin {
        ($field:ident, $plural:literal) => {
            if kinds.$field.is_none()
                && let Some(types) = of($plural)
            {
                kinds.versions.insert($plural.to_owned(), types.version.clone());
                let api = Api::all_with(client.clone(), &types);
                let events = watcher(api, watcher::Config::default());
                let started = follow($plural, events, changed.clone(), tasks);
                kinds.$field = Some(started);
            }
        };
    }
    begin!(classes, "gatewayclasses");
    begin!(gateways, "gateways");
    begin!(http, "httproutes");
    begin!(grpc, "grpcroutes");
    begin!(tls, "tlsroutes");
    begin!(tcp, "tcproutes");
    begin!(udp, "udproutes");
    begin!(grants, "referencegrants");
    if kinds.namespaces.is_none() && !served.is_empty() {
        let api = Api::<PartialObjectMeta<Namespace>>::all(client.clone());
        let events = watcher(api, watcher::Config::default());
        kinds.namespaces = Some(follow("namespaces", events, changed.clone(), tasks));
    }
}
