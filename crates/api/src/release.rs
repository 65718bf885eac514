//! The Release: one version of an App on its way out.
//!
//! Its spec is written when the App's pod template changes and says what, who, why and how; of it
//! only the three wishes of people change later: paused, promoted, abort. Its status tells how far
//! it is, and stays as the record.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::app::{AppSpec, Strategy};

/// The label that an App's pods and Releases carry: the release's number.
pub const LABEL: &str = "berth.dev/release";
/// On a pod, `true`: its node keeps its address for the App's next one (strategy `keepAddress`).
pub const KEEP_ADDRESS: &str = "berth.dev/keep-address";
/// On pods whose image may be swapped in place: `on` while they take requests, `off` from some
/// seconds before the swap until the new container is ready.
pub const TRAFFIC: &str = "berth.dev/traffic";
/// The label of a Release: its App's name.
pub const APP_LABEL: &str = "berth.dev/app";
/// On a workload: the name of the Release whose template it has.
pub const OF: &str = "berth.dev/release-name";
/// On an App: the commit that its image was built from.
pub const COMMIT: &str = "berth.dev/commit";
/// On an App: who asked for the version.
pub const AUTHOR: &str = "berth.dev/author";
/// On an App: why, in a sentence.
pub const CAUSE: &str = "berth.dev/cause";
/// On an App or namespace: when no release may start.
pub const FREEZE: &str = "berth.dev/freeze";
/// On an App or namespace: what may start all the same.
pub const FREEZE_EXCEPT: &str = "berth.dev/freeze-except";

/// What is released, by whom, how.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "berth.dev",
    version = "v1",
    kind = "Release",
    plural = "releases",
    namespaced,
    status = "ReleaseStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"App","type":"string","jsonPath":".spec.app"}"#,
    printcolumn = r#"{"name":"Image","type":"string","jsonPath":".spec.image"}"#,
    printcolumn = r#"{"name":"Strategy","type":"string","jsonPath":".spec.strategy.type"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Step","type":"string","jsonPath":".status.at"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#,
    printcolumn = r#"{"name":"Author","type":"string","jsonPath":".spec.author","priority":1}"#,
    printcolumn = r#"{"name":"Cause","type":"string","jsonPath":".spec.cause","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseSpec {
    /// The App's name.
    pub app: String,
    /// Counts from 1 for each App.
    pub revision: i64,
    /// The image.
    pub image: String,
    /// The commit that it was built from, if the App says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Who asked for it: what the App says, else who wrote its spec last.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Why, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
    /// The short name of the pod template.
    pub template: String,
    /// How it comes.
    #[serde(default)]
    pub strategy: Strategy,
    /// The revision that this one goes back to: pauses, checks and freezes do not hold it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_to: Option<i64>,
    /// Whether its containers are told their sizes; those of releases by an older Berth are not, as
    /// that would start them anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sized: bool,
    /// The App's spec of this version, from which the objects are made.
    #[schemars(schema_with = "anything")]
    pub app_spec: AppSpec,
    /// Whether it stays where it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Steps before this one need no more waiting.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub promoted: i32,
    /// Whether it is to be taken back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abort: bool,
}

/// How far a release is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseStatus {
    /// In one word.
    #[serde(default)]
    pub phase: Phase,
    /// The step it is at: `canary 20% (2/4)`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub at: String,
    /// What it waits for, or why it ended, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The release that ran before, to which an abort goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Which of the steps it is at, from 0.
    #[serde(default)]
    pub step: i32,
    /// All steps, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepStatus>,
    /// What people should know about the way it goes, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// When the first step began, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it was over, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// The App went back to what runs: the same template may be tried anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
}

/// A release in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// It waits: for a freeze to end, for room, for an earlier release.
    #[default]
    Waiting,
    /// Its steps are done one after the other.
    Progressing,
    /// A step is reached and somebody has to promote it, or it was told to pause.
    Paused,
    /// It is being taken back.
    Aborting,
    /// It was taken back.
    Aborted,
    /// Its version runs.
    Succeeded,
    /// Another came before it was done.
    Superseded,
}

impl Phase {
    /// Whether nothing more will be done.
    pub fn is_over(self) -> bool {
        matches!(self, Phase::Aborted | Phase::Succeeded | Phase::Superseded)
    }

    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Waiting => "Waiting",
            Phase::Progressing => "Progressing",
            Phase::Paused => "Paused",
            Phase::Aborting => "Aborting",
            Phase::Aborted => "Aborted",
            Phase::Succeeded => "Succeeded",
            Phase::Superseded => "Superseded",
        }
    }
}

/// One step and how it went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    /// `reserve`, `roll`, `canary`, `preview`, `switch`, `keep`, `swap` or `finish`.
    pub kind: String,
    /// Per cent of the instances, for a canary's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i32>,
    /// How long it lasts once reached; absent for one that somebody has to promote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_seconds: Option<i64>,
    /// When it began, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When all it asks for was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached_at: Option<String>,
    /// When the next began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// What was measured during it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Measured>,
    /// What the balancer counted of the new instances during it, whether or not a check asks for
    /// that; absent where no request came to them by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Answers>,
}

/// What came of requests, as the balancer counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Answers {
    /// How many there were.
    pub requests: i64,
    /// Those with 500 and above, or without an answer.
    pub failures: i64,
    /// Per cent of good answers.
    pub success: f64,
    /// Milliseconds until an answer began, on average.
    pub latency: f64,
    /// When it was counted last, RFC 3339.
    pub at: String,
}

/// What a check said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measured {
    /// The check.
    pub name: String,
    /// The last answer, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Right answers so far.
    #[serde(default)]
    pub good: i32,
    /// Wrong or missing answers in a row, up to now.
    #[serde(default)]
    pub bad: i32,
    /// Why there is no answer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it was asked last, RFC 3339.
    pub at: String,
}

/// The definition of the kind, as the API server takes it.
pub fn definition() -> CustomResourceDefinition {
    Release::crd()
}

fn anything(_: &mut SchemaGenerator) -> Schema {
    // An App's spec has been judged by the App's own schema.
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

fn is_zero(number: &i32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_structural() {
        let definition = serde_json::to_value(definition()).expect("serialises");
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let phase = &schema["properties"]["status"]["properties"]["phase"];
        assert_eq!(phase["enum"].as_array().map(Vec::len), Some(7), "{phase}");
        assert!(!definition.to_string().contains("$ref"), "structural schemas have no references");
    }
}
