//! Every kind that the API server serves, by discovery: built-in, custom, and those to come.

use kube::Client;
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::{Discovery, Scope, verbs};

/// One kind, in the version that the server prefers.
#[derive(Clone, Debug)]
pub struct Kind {
    /// Group, version, kind and plural.
    pub resource: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether a whole collection can be deleted at once.
    pub deletes_collections: bool,
}

impl Kind {
    /// Group and kind, without the version.
    pub fn id(&self) -> (&str, &str) {
        (&self.resource.group, &self.resource.kind)
    }

    /// Whether an owner reference of this `apiVersion` and `kind` may mean it.
    pub fn is(&self, api_version: &str, kind: &str) -> bool {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        self.resource.kind == kind && self.resource.group == group
    }

    /// The resource as an owner reference's version has it.
    pub fn at_version(&self, api_version: &str) -> ApiResource {
        let version = api_version.rsplit('/').next().unwrap_or_default();
        let gvk = GroupVersionKind::gvk(&self.resource.group, version, &self.resource.kind);
        ApiResource::from_gvk_with_plural(&gvk, &self.resource.plural)
    }
}

/// All kinds whose objects can be listed, watched and deleted.
///
/// Events are left out: there are many, they belong to nothing, and they go by themselves.
///
/// # Errors
/// When the server does not answer; a kind must not be taken for gone because of that.
pub async fn discover(client: &Client) -> kube::Result<Vec<Kind>> {
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        // Before Kubernetes 1.26: one call for each group.
        Err(_) => Discovery::new(client.clone()).run().await?,
    };
    let mut kinds = Vec::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let can = |verb| capabilities.supports_operation(verb);
            let event = resource.kind == "Event";
            if event || !can(verbs::LIST) || !can(verbs::WATCH) || !can(verbs::DELETE) {
                continue;
            }
            kinds.push(Kind {
                namespaced: capabilities.scope == Scope::Namespaced,
                deletes_collections: can(verbs::DELETE_COLLECTION),
                resource,
            });
        }
    }
    Ok(kinds)
}
