//! The App: one service as a developer thinks of it.
//!
//! It holds what the controllers act on and nothing else. Everything it causes is a standard
//! Kubernetes object, so that whatever works with those works with an App.

pub mod logs;
mod runs;
mod strategy;

use std::collections::BTreeMap;

pub use logs::Logs;
pub use runs::{
    Config, Cron, Init, Port, Probe, Probes, Scale, Scratch, SecretUse, Source, Storage, TcpRoute,
};
pub use strategy::{Check, Header, Measure, Step, Strategy, StrategyType};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an App is to be.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "berth.dev",
    version = "v1",
    kind = "App",
    plural = "apps",
    namespaced,
    status = "AppStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn = r#"{"name":"Image","type":"string","jsonPath":".spec.image"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.ready"}"#,
    printcolumn = r#"{"name":"Failing","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Failing\")].reason"}"#,
    printcolumn = r#"{"name":"Commit","type":"string","priority":1,"jsonPath":".metadata.annotations.berth\\.dev/commit"}"#,
    printcolumn = r#"{"name":"URL","type":"string","jsonPath":".status.url"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct AppSpec {
    /// The image to run, by tag or digest.
    #[schemars(length(min = 1))]
    pub image: String,
    /// Where the image was built from, if anybody says; `berth deploy DIRECTORY` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// How many instances run.
    #[serde(default = "one")]
    #[schemars(range(min = 0))]
    pub replicas: i32,
    /// Between how many instances and by what the App is scaled; its scaler then writes `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
    /// The port on which the container answers HTTP; without one, the App has no URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// Further ports, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Values and files; each version of them is a ConfigMap of its own that never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Config>,
    /// Secrets that containers get as variables or files; the App never holds their values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretUse>,
    /// What to run instead of the image's entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Arguments instead of the image's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// How much one instance may use, and how much is kept free for it.
    #[serde(default)]
    pub resources: Resources,
    /// Under which names the App answers. Absent: NAME under the cluster's domain for apps; an
    /// empty list: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<Route>>,
    /// TCP ports that are reached from outside the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tcp: Vec<TcpRoute>,
    /// How to tell that an instance works. Absent: it works when its port accepts connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Probes that say more than `health` does; each takes the place of the one made from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<Probes>,
    /// What runs to its end before the container starts, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init: Vec<Init>,
    /// What runs by the clock, with the App's image, environment and configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cron: Vec<Cron>,
    /// Directories whose files the node collects as the App's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs: Option<Logs>,
    /// Disks that stay with an instance; with one, the App is a StatefulSet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub storage: Vec<Storage>,
    /// Directories that stay as long as their instance's pod does: through crashes and through
    /// releases in place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scratch: Vec<Scratch>,
    /// Whether instances have names and an order, as a StatefulSet's do; cannot change later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stateful: bool,
    /// Whether instances use the node's network instead of one of their own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host_network: bool,
    /// Which scheduler places the instances. Absent: the cluster's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler_name: Option<String>,
    /// How a new version comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// What happens when somebody else changes the objects that the App stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
    /// How long an instance may take to end after it was told to.
    #[serde(default = "half_a_minute")]
    #[schemars(range(min = 0))]
    pub termination_grace_period_seconds: i64,
}

impl AppSpec {
    /// Whether the instances are a StatefulSet's.
    pub fn is_stateful(&self) -> bool {
        self.stateful || !self.storage.is_empty()
    }
}

/// What is done about differences between an App and its objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Drift {
    /// The objects are made as the App says.
    #[default]
    Repair,
    /// What others changed stays, and what an App can say is taken into it.
    Adopt,
}

/// Limits and requests of one instance, as Kubernetes writes quantities.
///
/// The defaults are one core and 1 GiB at most, the size that most services get. Requests are small,
/// because one machine carries many services that seldom work at the same time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Resources {
    /// At most: defaults to 1 CPU and 1 GiB.
    #[serde(default = "default_limits")]
    pub limits: Amounts,
    /// Kept free: defaults to 50 millicores and 64 MiB, or the limit where that is smaller.
    #[serde(default = "default_requests")]
    pub requests: Amounts,
}

impl Default for Resources {
    fn default() -> Self {
        Self { limits: default_limits(), requests: default_requests() }
    }
}

/// Processor and memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Amounts {
    /// Cores: `500m`, `2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Bytes: `512Mi`, `1Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

/// One name that an App answers under.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The host name. Absent: NAME under the cluster's domain for apps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Requests whose path begins with this.
    #[serde(default = "root")]
    pub path: String,
    /// The name of the port that answers. Absent: `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The Secret with the host's certificate and key; with it, the route answers over TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_secret: Option<String>,
}

/// An HTTP request that a working instance answers with 200 to 399.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// The path to ask for.
    pub path: String,
}

/// What an App is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppStatus {
    /// The generation of the spec that this status tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Instances there are.
    #[serde(default)]
    pub replicas: i32,
    /// Instances that take requests.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Instances of the newest version.
    #[serde(default)]
    pub updated_replicas: i32,
    /// Ready and wanted instances: `2/3`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ready: String,
    /// Where the App answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The label selector of its pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The release whose version runs, or is on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// What others changed lately in the App's objects, and what was done about it; newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<Drifted>,
    /// `Available`, `Progressing` and `Failing`, as of the App's workload.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<AppCondition>,
}

/// One field that was not as the App says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Drifted {
    /// `Deployment/hello`.
    pub object: String,
    /// `spec.template.spec.containers[hello].image`.
    pub field: String,
    /// What the App says, as JSON.
    pub wanted: String,
    /// What was there, as JSON; empty where nothing was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub found: String,
    /// Who had changed it, as far as the object tells.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// `repaired`, `adopted` (the App says it now) or `kept` (it differs from the App).
    pub outcome: String,
    /// When, RFC 3339.
    pub at: String,
}

/// One thing that is or is not the case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppCondition {
    /// What.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Since when, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
}

/// The definition of the kind, as the API server takes it.
pub fn definition() -> CustomResourceDefinition {
    App::crd()
}

fn one() -> i32 {
    1
}

fn half_a_minute() -> i64 {
    30
}

fn root() -> String {
    "/".to_owned()
}

fn default_limits() -> Amounts {
    Amounts { cpu: Some("1".to_owned()), memory: Some("1Gi".to_owned()) }
}

fn default_requests() -> Amounts {
    Amounts { cpu: Some("50m".to_owned()), memory: Some("64Mi".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_image_is_enough() {
        let app: App = serde_json::from_value(json!({
            "apiVersion": "berth.dev/v1",
            "kind": "App",
            "metadata": { "name": "hello" },
            "spec": { "image": "127.0.0.1:5050/hello:1" },
        }))
        .expect("parses");
        assert_eq!(app.spec.replicas, 1);
        assert_eq!(app.spec.resources.limits.cpu.as_deref(), Some("1"));
        assert_eq!(app.spec.resources.limits.memory.as_deref(), Some("1Gi"));
        assert_eq!(app.spec.termination_grace_period_seconds, 30);
    }

    #[test]
    fn the_definition_is_structural_and_carries_the_defaults() {
        let definition = serde_json::to_value(definition()).expect("serialises");
        let version = &definition["spec"]["versions"][0];
        let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
        assert_eq!(spec["properties"]["replicas"]["default"], 1);
        assert_eq!(spec["properties"]["resources"]["properties"]["limits"]["default"]["cpu"], "1");
        assert_eq!(spec["required"], json!(["image"]));
        assert_eq!(version["subresources"]["scale"]["specReplicasPath"], ".spec.replicas");
        assert!(!definition.to_string().contains("$ref"), "structural schemas have no references");
        // Kubernetes 1.20 reads an empty default as null and refuses the definition.
        assert!(!definition.to_string().contains(r#""default":"""#));
    }
}
