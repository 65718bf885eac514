//! The Gateway API: doors of a cluster (Gateways) and what comes in by them (routes).
//!
//! The fields of gateway.networking.k8s.io that Berth acts on, and no other; with [`definitions`]
//! a cluster without the published definitions gets ours, which keep fields that they do not name
//! out. Words whose meaning may grow (kinds of matches, filters, protocols) are strings here: an
//! object with a word that we do not know must still be read, so that its status can say so.
//!
//! # Source
//! Gateway API v1 (Gateway, GatewayClass, HTTPRoute, GRPCRoute, ReferenceGrant) and v1alpha2
//! (TLSRoute, TCPRoute, UDPRoute), TLSRoute as v1alpha3 and v1 and ReferenceGrant as v1beta1 too; GEP-2257 for durations, GEP-1731 for retries.

mod duration;
mod http;
mod shared;
mod streams;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::{CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use duration::{DurationError, parse_duration};
pub use http::{
    BackendTarget, Fraction, GRPCRoute, GRPCRouteSpec, GrpcMatch, GrpcMethodMatch, GrpcRule,
    HTTPRoute, HTTPRouteSpec, HeaderChange, HttpFilter, HttpHeader, HttpMatch, HttpRule, Mirror,
    PathMatch, PathRewrite, Redirect, Retry, Timeouts, UrlRewrite, ValueMatch, WeightedBackend,
};
pub use shared::{Condition, ParentRef, ParentStatus, RouteStatus, SecretRef};
pub use streams::{
    StreamRule, TCPRoute, TCPRouteSpec, TLSRoute, TLSRouteSpec, UDPRoute, UDPRouteSpec,
};

/// The group of all kinds here.
pub const GROUP: &str = "gateway.networking.k8s.io";
/// What `spec.controllerName` of a GatewayClass says when Berth serves it.
pub const CONTROLLER: &str = "berth.dev/gateway";
/// Marks definitions that Berth wrote and may replace; others stay as they are.
pub const OURS: &str = "berth.dev/gateway-api";

/// Who serves Gateways.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "GatewayClass",
    plural = "gatewayclasses",
    shortname = "gc",
    status = "GatewayClassStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Controller","type":"string","jsonPath":".spec.controllerName"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct GatewayClassSpec {
    /// The controller that serves Gateways of this class.
    #[schemars(length(min = 1, max = 253))]
    pub controller_name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub description: Option<String>,
}

/// Whether a class is served.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayClassStatus {
    /// `Accepted`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A set of listeners.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "Gateway",
    plural = "gateways",
    shortname = "gtw",
    namespaced,
    status = "GatewayStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Class","type":"string","jsonPath":".spec.gatewayClassName"}"#,
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".status.addresses[*].value"}"#,
    printcolumn = r#"{"name":"Programmed","type":"string","jsonPath":".status.conditions[?(@.type==\"Programmed\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// Who serves it.
    #[schemars(length(min = 1, max = 253))]
    pub gateway_class_name: String,
    /// Where it is spoken to.
    #[schemars(length(min = 1, max = 64))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub listeners: Vec<Listener>,
}

/// A port, a protocol and perhaps a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Unique in its Gateway.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The hosts it is for, `*.` at the start included; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub hostname: Option<String>,
    /// The port that clients use.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// HTTP, HTTPS, TLS, TCP or UDP.
    #[schemars(length(min = 1, max = 255))]
    pub protocol: String,
    /// How TLS is spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// Which routes may attach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_routes: Option<AllowedRoutes>,
}

/// How TLS is spoken at a listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// Terminate (the default) or Passthrough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Terminate", "Passthrough"]))]
    pub mode: Option<String>,
    /// The Secrets with certificates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub certificate_refs: Vec<SecretRef>,
}

/// Which routes may attach to a listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllowedRoutes {
    /// From where; absent: the Gateway's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<RouteNamespaces>,
    /// Of which kinds; none: those that fit the protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub kinds: Vec<RouteKind>,
}

/// The namespaces whose routes may attach.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteNamespaces {
    /// All, Same (the default), Selector or None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["All", "Same", "Selector", "None"]))]
    pub from: Option<String>,
    /// By the namespaces' labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// A selector by labels, as everywhere in Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels and the value each must have.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub match_labels: std::collections::BTreeMap<String, String>,
    /// Further requirements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelRequirement>,
}

/// One requirement on a label.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelRequirement {
    /// The label.
    pub key: String,
    /// In, NotIn, Exists or DoesNotExist.
    pub operator: String,
    /// The values of In and NotIn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

impl LabelSelector {
    /// Whether a thing with `labels` is selected; an operator that is none selects nothing.
    pub fn selects(&self, labels: &std::collections::BTreeMap<String, String>) -> bool {
        let equal = self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        equal
            && self.match_expressions.iter().all(|one| {
                let value = labels.get(&one.key);
                let listed = value.is_some_and(|value| one.values.contains(value));
                match one.operator.as_str() {
                    "In" => listed,
                    "NotIn" => !listed,
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    _ => false,
                }
            })
    }
}

/// A kind of route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteKind {
    /// Absent: the Gateway API's group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `HTTPRoute`, say.
    pub kind: String,
}

/// What became of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Where it is reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<GatewayAddress>,
    /// `Accepted` and `Programmed`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// One for each listener.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub listeners: Vec<ListenerStatus>,
}

/// Where a Gateway is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayAddress {
    /// IPAddress or Hostname.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The address or name.
    pub value: String,
}

/// What became of a listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// The listener's name.
    pub name: String,
    /// The kinds of routes that may attach.
    #[serde(default)]
    pub supported_kinds: Vec<RouteKind>,
    /// How many are attached.
    #[serde(default)]
    pub attached_routes: i32,
    /// `Accepted`, `Programmed`, `ResolvedRefs`, `Conflicted`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Says that objects of other namespaces may refer to those of its own.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "ReferenceGrant",
    plural = "referencegrants",
    shortname = "refgrant",
    namespaced,
    derive = "PartialEq",
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceGrantSpec {
    /// Who may refer.
    #[schemars(length(min = 1, max = 16))]
    pub from: Vec<GrantFrom>,
    /// To what.
    #[schemars(length(min = 1, max = 16))]
    pub to: Vec<GrantTo>,
}

/// Who may refer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantFrom {
    /// The group of what refers.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
}

/// What may be referred to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantTo {
    /// The group of what is referred to; empty: the core group.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name; absent: all of the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The definitions of all kinds here, for a cluster that has none.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let all = [
        GatewayClass::crd(),
        Gateway::crd(),
        HTTPRoute::crd(),
        GRPCRoute::crd(),
        ReferenceGrant::crd(),
        TLSRoute::crd(),
        TCPRoute::crd(),
        UDPRoute::crd(),
    ];
    all.into_iter()
        .map(|mut crd| {
            let notes = crd.metadata.annotations.get_or_insert_default();
            // The group is Kubernetes' own, where definitions say who approved them.
            let approval = "unapproved, Berth's own condensed form of the published API";
            notes.insert("api-approved.kubernetes.io".to_owned(), approval.to_owned());
            let labels = crd.metadata.labels.get_or_insert_default();
            labels.insert(OURS.to_owned(), "condensed".to_owned());
            serve_also(&mut crd);
            let schemas = crd.spec.versions.iter_mut().filter_map(|one| one.schema.as_mut());
            schemas.filter_map(|one| one.open_api_v3_schema.as_mut()).for_each(without_defaults);
            crd
        })
        .collect()
}

/// Serves the versions too that people's manifests name; all have the same fields.
fn serve_also(crd: &mut CustomResourceDefinition) {
    let further: &[&str] = match crd.spec.names.kind.as_str() {
        "TLSRoute" => &["v1alpha3", "v1"],
        "ReferenceGrant" => &["v1beta1"],
        _ => &[],
    };
    for name in further {
        let mut version = crd.spec.versions[0].clone();
        version.name = (*name).to_owned();
        version.storage = false;
        crd.spec.versions.push(version);
    }
}

/// Takes the defaults out: they are for readers in Rust, and an empty one is refused by older
/// API servers (1.20 reads it as null).
fn without_defaults(schema: &mut JSONSchemaProps) {
    schema.default = None;
    schema.properties.iter_mut().flat_map(|all| all.values_mut()).for_each(without_defaults);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        without_defaults(items);
    }
}

#[cfg(test)]
mod tests;
