//! Objects of any kind: where the API has them, and which of them are an installation's.

use anyhow::{Context, Result};
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::Value;

use super::manifests::{LABEL, LABELLED, Manifest};

/// Group, version, kind and plural of everything that an installation has ever had, in the order in
/// which it is taken back: first what has pods, last what others stand on.
pub const KINDS: [(&str, &str, &str, &str); 15] = [
    ("apps", "v1", "Deployment", "deployments"),
    ("apps", "v1", "DaemonSet", "daemonsets"),
    ("", "v1", "Service", "services"),
    ("networking.k8s.io", "v1", "IngressClass", "ingressclasses"),
    ("gateway.networking.k8s.io", "v1", "GatewayClass", "gatewayclasses"),
    ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    ("", "v1", "Secret", "secrets"),
    ("", "v1", "ConfigMap", "configmaps"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles"),
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles"),
    ("", "v1", "ServiceAccount", "serviceaccounts"),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions"),
    ("", "v1", "Namespace", "namespaces"),
];

/// One object's place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its kind.
    pub kind: String,
    /// Empty where it is in none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Place {
    /// Of a manifest.
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            kind: manifest.kind().to_owned(),
            namespace: manifest.namespace().unwrap_or_default().to_owned(),
            name: manifest.name().to_owned(),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, namespace, name } = self;
        match namespace.as_str() {
            "" => write!(f, "{kind} {name}"),
            _ => write!(f, "{kind} {namespace}/{name}"),
        }
    }
}

/// The resource of one of [`KINDS`], by kind.
pub fn resource(kind: &str) -> Option<ApiResource> {
    let (group, version, kind, plural) = KINDS.iter().find(|known| known.2 == kind)?;
    Some(ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural))
}

/// Where objects of `kind` are written.
pub fn api(client: &Client, kind: &str, namespace: Option<&str>) -> Result<Api<DynamicObject>> {
    let resource = resource(kind).with_context(|| format!("{kind} is no kind of ours"))?;
    let client = client.clone();
    Ok(match namespace.filter(|name| !name.is_empty()) {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    })
}

/// Everything that is installed, in the order of [`KINDS`].
///
/// # Errors
/// What may not be listed.
pub async fn installed(client: &Client) -> Result<Vec<(Place, DynamicObject)>> {
    let mut all = Vec::new();
    let params = ListParams::default().labels(&format!("{LABEL}={LABELLED}"));
    for (_, _, kind, plural) in KINDS {
        let found = match api(client, kind, None)?.list(&params).await {
            // A kind that is not defined has no objects.
            Err(kube::Error::Api(status)) if status.code == 404 => continue,
            found => found.with_context(|| format!("listing {plural}"))?,
        };
        all.extend(found.items.into_iter().map(|object| {
            let place = Place {
                kind: kind.to_owned(),
                namespace: object.namespace().unwrap_or_default(),
                name: object.name_any(),
            };
            (place, object)
        }));
    }
    Ok(all)
}

/// The manifest as the API takes it.
///
/// # Errors
/// Never for what a test has read.
pub fn dynamic(object: &Value) -> Result<DynamicObject> {
    serde_json::from_value(object.clone()).context("reading a manifest of ours")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::manifests;

    #[test]
    fn every_kind_that_is_installed_can_be_taken_back() {
        for one in manifests::all(&manifests::tests::wanted()).unwrap() {
            let resource = resource(one.kind()).unwrap();
            assert_eq!(one.object["apiVersion"], resource.api_version, "{}", one.kind());
        }
    }
}
