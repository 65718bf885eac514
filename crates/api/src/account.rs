//! The account request: somebody is to get into the console, with these groups and roles.
//!
//! It may live in Git: there is no secret in it, and nothing comes of it until somebody approves
//! it who has the verb `approve` on it and everything that it asks for. Deleting it takes back what
//! came of it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// On a RoleBinding: the uid of the request that it came of.
pub const REQUEST_LABEL: &str = "berth.dev/account-request";

/// Who is to get in, how, and with what.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "berth.dev",
    version = "v1",
    kind = "AccountRequest",
    plural = "accountrequests",
    status = "AccountRequestStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Account","type":"string","jsonPath":".spec.name"}"#,
    printcolumn = r#"{"name":"Login","type":"string","jsonPath":".spec.login"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"By","type":"string","jsonPath":".status.by"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".spec.reason","priority":1}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct AccountRequestSpec {
    /// The user's name in RBAC: letters, digits, `.`, `_`, `-` and `@`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// How the person gets in.
    #[serde(default)]
    pub login: Login,
    /// Groups in RBAC, for who has a password; those of who comes by a provider are told by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub groups: Vec<String>,
    /// Roles in namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub roles: Vec<Grant>,
    /// Why, in a sentence, for who decides.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1000))]
    pub reason: String,
}

/// How a person gets in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Login {
    /// By a password, which is chosen when the request is approved.
    #[default]
    Password,
    /// Through the OpenID Connect provider, which knows the person.
    Provider,
}

/// A role in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Grant {
    /// The namespace; it has to be there when the request is approved.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// The role.
    pub role: Role,
}

/// What somebody may do in a namespace: the ClusterRoles `berth:viewer`, `berth:developer` …
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Change Apps, run commands in pods.
    Developer,
    /// Give roles too.
    Operator,
    /// Anything.
    Admin,
}

impl Role {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Developer => "developer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The ClusterRole that it is.
    pub fn cluster_role(self) -> String {
        format!("berth:{}", self.word())
    }
}

/// What came of a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountRequestStatus {
    /// In one word.
    #[serde(default)]
    pub phase: Phase,
    /// Who decided.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Why, or what stood in the way when somebody tried last.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The generation that was decided on: what is changed later waits for another decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// A request in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Nobody has decided.
    #[default]
    Pending,
    /// It is so.
    Approved,
    /// It is not to be.
    Denied,
}

impl AccountRequest {
    /// What was decided on it as it is now, or as it was.
    pub fn phase(&self) -> Phase {
        self.status.as_ref().map(|status| status.phase).unwrap_or_default()
    }

    /// Whether what it says is what was decided on.
    pub fn is_as_decided(&self) -> bool {
        let decided = self.status.as_ref().and_then(|status| status.observed_generation);
        decided.is_some() && decided == self.metadata.generation
    }
}

/// The definition of the kind, as the API server takes it.
pub fn definition() -> CustomResourceDefinition {
    AccountRequest::crd()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_as_people_write_it_is_read() {
        let text = serde_json::json!({
            "name": "ann", "groups": ["shop"], "reason": "she is on call",
            "roles": [{ "namespace": "shop", "role": "developer" }],
        });
        let spec: AccountRequestSpec = serde_json::from_value(text).expect("it is one");
        assert_eq!(spec.login, Login::Password);
        assert_eq!(spec.roles[0].role.cluster_role(), "berth:developer");
        let master = serde_json::json!({ "namespace": "shop", "role": "cluster-admin" });
        assert!(serde_json::from_value::<Grant>(master).is_err());
    }

    #[test]
    fn what_is_changed_after_a_decision_is_not_what_was_decided() {
        let mut request = AccountRequest::new("ann", AccountRequestSpec::default());
        request.metadata.generation = Some(1);
        assert!(!request.is_as_decided());
        let decided = AccountRequestStatus {
            phase: Phase::Approved,
            observed_generation: Some(1),
            ..AccountRequestStatus::default()
        };
        request.status = Some(decided);
        assert!(request.is_as_decided());
        request.metadata.generation = Some(2);
        assert!(!request.is_as_decided());
        assert_eq!(request.phase(), Phase::Approved);
    }

    #[test]
    fn the_definition_keeps_what_was_decided_apart() {
        let version = &definition().spec.versions[0];
        let apart = version.subresources.as_ref().and_then(|sub| sub.status.as_ref());
        assert!(apart.is_some(), "who may write requests may not write that they are approved");
        assert_eq!(definition().spec.scope, "Cluster");
    }
}
