//! How a new version of an App comes.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// How instances of a new version take the place of those before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Strategy {
    /// In which way.
    #[serde(rename = "type", default)]
    pub kind: StrategyType,
    /// How many instances there may be beyond `replicas`: a number or per cent. Blue-green has as
    /// many again whatever this says.
    #[serde(default = "one")]
    #[schemars(schema_with = "int_or_string")]
    pub max_surge: IntOrString,
    /// How many may be missing meanwhile: a number or per cent.
    #[serde(default = "none")]
    #[schemars(schema_with = "int_or_string")]
    pub max_unavailable: IntOrString,
    /// How long an instance is ready before it counts.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub min_ready_seconds: i32,
    /// The shares of a canary, in order; 100 follows by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// During a canary, requests with this header go to the new version, whatever its weight: those
    /// that come through Berth's balancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<Header>,
    /// What has to hold during every step; a release for which it does not is taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// Where checks ask: `http://prometheus:9090`, or `NAMESPACE/SERVICE:PORT` through the API
    /// server. Absent: `monitoring/prometheus:9090`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<String>,
    /// Whether blue-green switches without being told, once the new version is ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_promote: bool,
    /// How long blue-green keeps what ran before, ready to be switched back to.
    #[serde(default = "half_a_minute")]
    #[schemars(range(min = 0))]
    pub keep_seconds: i64,
    /// A step that is not there after this long is taken back.
    #[serde(default = "ten_minutes")]
    #[schemars(range(min = 1))]
    pub deadline_seconds: i64,
    /// Whether room for what comes in addition is reserved before the first step.
    #[serde(default = "yes")]
    pub reserve: bool,
}

impl Default for Strategy {
    fn default() -> Self {
        Self {
            kind: StrategyType::default(),
            max_surge: one(),
            max_unavailable: none(),
            min_ready_seconds: 0,
            steps: Vec::new(),
            header: None,
            checks: Vec::new(),
            prometheus: None,
            auto_promote: false,
            keep_seconds: half_a_minute(),
            deadline_seconds: ten_minutes(),
            reserve: true,
        }
    }
}

/// In which way a version comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StrategyType {
    /// Instance by instance.
    #[default]
    Rolling,
    /// All of the new beside all of the old, then one switch.
    BlueGreen,
    /// A growing share of the new.
    Canary,
    /// The image is swapped inside the pods that are there.
    InPlace,
    /// So many go, and as many new ones come into their addresses: two at a time, or
    /// `maxUnavailable`.
    KeepAddress,
}

impl StrategyType {
    /// As an App writes it.
    pub fn word(self) -> &'static str {
        match self {
            StrategyType::Rolling => "rolling",
            StrategyType::BlueGreen => "blueGreen",
            StrategyType::Canary => "canary",
            StrategyType::InPlace => "inPlace",
            StrategyType::KeepAddress => "keepAddress",
        }
    }
}

/// One share of a canary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Per cent of the instances that are of the new version, rounded up.
    #[schemars(range(min = 1, max = 100))]
    pub weight: i32,
    /// How long the step lasts once it is reached. Absent: until somebody promotes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub pause_seconds: Option<i64>,
}

/// A header and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// Its name, in letters of any case.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// The whole of its value.
    #[schemars(length(min = 1, max = 4096))]
    pub value: String,
}

/// A question to Prometheus, or to the balancer, and what its answer has to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// How it is called.
    #[schemars(length(min = 1))]
    pub name: String,
    /// A query that gives one number. `{{app}}`, `{{namespace}}` and `{{release}}` stand for this
    /// App, its namespace and the value of the label `berth.dev/release` on its new pods.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub query: String,
    /// Instead of a query: what Berth's balancer saw of the new instances since it was asked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balancer: Option<Measure>,
    /// The number may not be smaller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The number may not be larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Seconds between two questions.
    #[serde(default = "quarter_minute")]
    #[schemars(range(min = 1))]
    pub every_seconds: i64,
    /// So many wrong or missing answers in a row take the release back.
    #[serde(default = "three")]
    #[schemars(range(min = 1))]
    pub failures: i32,
}

/// What the balancer is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Measure {
    /// Per cent of the requests that were answered, and below 500.
    Success,
    /// Milliseconds until an answer began, on average.
    Latency,
}

fn int_or_string(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-int-or-string": true })
}

fn one() -> IntOrString {
    IntOrString::Int(1)
}

fn none() -> IntOrString {
    IntOrString::Int(0)
}

fn is_zero(number: &i32) -> bool {
    *number == 0
}

fn half_a_minute() -> i64 {
    30
}

fn ten_minutes() -> i64 {
    600
}

fn quarter_minute() -> i64 {
    15
}

fn three() -> i32 {
    3
}

fn yes() -> bool {
    true
}
