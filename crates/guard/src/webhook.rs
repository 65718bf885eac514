//! Webhooks: which requests they are asked about, what they are sent, and what their answers mean.
//!
//! A webhook is a stranger: an answer is taken only when it is a review of the same id and of the
//! form that was agreed on. Anything else is a failed call, of which its failure policy decides.
//!
//! # Source
//! `admission.k8s.io/v1`; Kubernetes API reference, "Dynamic Admission Control".

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::attributes::Attributes;
use crate::cel::{self, Authorize, Budget, Question, Session};
use crate::condition::{Condition, Met, seen};
use crate::matching::{Constraints, Equivalent};

const DEFAULT_SECONDS: u64 = 10;
const MOST_SECONDS: u64 = 30;

/// One webhook of a configuration.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Its qualified name.
    pub name: String,
    /// The configuration it stands in.
    pub configuration: String,
    /// Where it is.
    pub client: Value,
    /// Whether the request fails when the webhook does.
    pub fails_closed: bool,
    /// How long it may take.
    pub timeout: Duration,
    /// Whether it may be asked about a dry run.
    pub has_side_effects: bool,
    /// Whether it wants to see what later webhooks changed.
    pub again: bool,
    constraints: Constraints,
    conditions: Result<Vec<Condition>, String>,
}

/// What becomes of a request at one webhook.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// It is asked, as of this place and kind.
    Ask(Equivalent),
    /// It is not asked.
    Skip,
    /// The request is refused without asking.
    Refuse(String),
}

/// What a webhook's answer means.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The request may go on, changed by a JSON patch when there is one.
    Allowed {
        /// The operations of a JSON patch.
        patch: Option<Value>,
        /// For the client.
        warnings: Vec<String>,
        /// For the audit log, by the webhook's own keys.
        annotations: Vec<(String, String)>,
    },
    /// The request is refused.
    Denied {
        /// The HTTP code, 403 unless the webhook says otherwise.
        code: u16,
        /// The machine-readable reason.
        reason: String,
        /// The sentence.
        message: String,
        /// For the client.
        warnings: Vec<String>,
        /// For the audit log.
        annotations: Vec<(String, String)>,
    },
}

impl Webhook {
    /// The webhooks of a configuration, in their order.
    #[must_use]
    pub fn read_all(configuration: &Value) -> Vec<Self> {
        let name = configuration["metadata"]["name"].as_str().unwrap_or_default();
        let list = configuration["webhooks"].as_array().into_iter().flatten();
        list.map(|given| Self::read(name, given)).collect()
    }

    fn read(configuration: &str, given: &Value) -> Self {
        let seconds = given["timeoutSeconds"].as_u64().unwrap_or(DEFAULT_SECONDS);
        Self {
            name: given["name"].as_str().unwrap_or_default().to_owned(),
            configuration: configuration.to_owned(),
            client: given["clientConfig"].clone(),
            fails_closed: given["failurePolicy"].as_str() != Some("Ignore"),
            timeout: Duration::from_secs(seconds.clamp(1, MOST_SECONDS)),
            has_side_effects: !matches!(
                given["sideEffects"].as_str(),
                Some("None" | "NoneOnDryRun")
            ),
            again: given["reinvocationPolicy"] == "IfNeeded",
            constraints: Constraints::read(given),
            conditions: Condition::compile(&given["matchConditions"], &[])
                .map_err(|(_, error)| error.to_string()),
        }
    }

    /// Whether the webhook is to be asked about a request.
    #[must_use]
    pub fn call(
        &self,
        request: &Attributes,
        others: &[Equivalent],
        authorize: &Arc<dyn Authorize>,
        now: Instant,
    ) -> Call {
        let Some(as_what) = self.constraints.wants(request, others) else { return Call::Skip };
        match self.conditions_met(request, &as_what, authorize, now) {
            Met::Yes => {}
            Met::No => return Call::Skip,
            Met::Unclear(why) if self.fails_closed => {
                return Call::Refuse(format!("failed to evaluate match conditions: {why}"));
            }
            Met::Unclear(_) => return Call::Skip,
        }
        if request.dry_run && self.has_side_effects {
            return Call::Refuse(format!(
                "admission webhook {:?} does not support dry run",
                self.name
            ));
        }
        Call::Ask(as_what)
    }

    fn conditions_met(
        &self,
        request: &Attributes,
        as_what: &Equivalent,
        authorize: &Arc<dyn Authorize>,
        now: Instant,
    ) -> Met {
        let conditions = match &self.conditions {
            Ok(conditions) if conditions.is_empty() => return Met::Yes,
            Ok(conditions) => conditions,
            Err(why) => return Met::Unclear(why.clone()),
        };
        let session = Session::new(Budget::for_request(now));
        let review = request.request("", &as_what.0, &as_what.1);
        let bound = [
            ("object", seen(&request.object)),
            ("oldObject", seen(&request.old)),
            ("request", seen(&review)),
            ("authorizer", cel::authorizer(Arc::clone(authorize))),
        ];
        Condition::all(conditions, &session, &bound)
    }

    /// Whether deciding to call may take long enough to be done aside.
    #[must_use]
    pub fn is_heavy(&self) -> bool {
        self.conditions.as_ref().is_ok_and(|list| list.iter().any(Condition::loops))
    }

    /// The review it is sent.
    #[must_use]
    pub fn review(&self, request: &Attributes, as_what: &Equivalent, uid: &str) -> Value {
        let mut asked = request.request(uid, &as_what.0, &as_what.1);
        asked["object"] = request.object.clone();
        asked["oldObject"] = request.old.clone();
        json!({
            "kind": "AdmissionReview",
            "apiVersion": "admission.k8s.io/v1",
            "request": asked,
        })
    }

    /// What an answer to the review `uid` means.
    ///
    /// # Errors
    /// When it is no answer to that review: its failure policy decides then.
    pub fn judge(&self, uid: &str, mutating: bool, body: &[u8]) -> Result<Answer, String> {
        let review: Value = serde_json::from_slice(body)
            .map_err(|error| format!("couldn't get version/kind; json parse error: {error}"))?;
        if review["kind"] != "AdmissionReview" || review["apiVersion"] != "admission.k8s.io/v1" {
            return Err(format!(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {}, \
                 Kind={}",
                plain(&review["apiVersion"]),
                plain(&review["kind"])
            ));
        }
        let answer = &review["response"];
        if !answer.is_object() {
            return Err("webhook response was absent".to_owned());
        }
        if answer["uid"] != uid {
            return Err(format!("expected response.uid={uid:?}, got {}", answer["uid"]));
        }
        let Some(allowed) = answer["allowed"].as_bool() else {
            return Err("webhook response has no response.allowed".to_owned());
        };
        let warnings = answer["warnings"].as_array().into_iter().flatten();
        let warnings: Vec<String> =
            warnings.filter_map(|one| one.as_str().map(str::to_owned)).collect();
        let annotations = answer["auditAnnotations"].as_object().into_iter().flatten();
        let annotations: Vec<(String, String)> = annotations
            .filter_map(|(key, value)| {
                Some((format!("{}/{key}", self.name), value.as_str()?.to_owned()))
            })
            .collect();
        let (has_patch, kind) = (!answer["patch"].is_null(), answer["patchType"].as_str());
        if !allowed {
            return Ok(self.denied(&answer["status"], warnings, annotations));
        }
        if !mutating && (has_patch || kind.is_some()) {
            return Err("expected no response.patch and no response.patchType".to_owned());
        }
        let patch = match (answer["patch"].as_str(), kind) {
            (None | Some(""), None) => None,
            (Some(text), Some("JSONPatch")) => Some(patch(text)?),
            (Some(_), None) => {
                return Err("webhook returned response.patch but not response.patchType".to_owned());
            }
            (None, Some(_)) => {
                return Err("webhook returned response.patchType but not response.patch".to_owned());
            }
            (Some(_), Some(other)) => {
                return Err(format!("webhook returned invalid response.patchType of {other:?}"));
            }
        };
        Ok(Answer::Allowed { patch, warnings, annotations })
    }

    fn denied(
        &self,
        status: &Value,
        warnings: Vec<String>,
        annotations: Vec<(String, String)>,
    ) -> Answer {
        let start = format!("admission webhook {:?} denied the request", self.name);
        let text = |key: &str| status[key].as_str().filter(|text| !text.is_empty());
        let message = match (text("message"), text("reason")) {
            (Some(message), _) => format!("{start}: {message}"),
            (None, Some(reason)) => format!("{start}: {reason}"),
            (None, None) => format!("{start} without explanation"),
        };
        let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok());
        let code = code.filter(|code| (400..600).contains(code)).unwrap_or(403);
        let reason =
            text("reason").unwrap_or(if code == 403 { "Forbidden" } else { "" }).to_owned();
        Answer::Denied { code, reason, message, warnings, annotations }
    }
}

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn patch(text: &str) -> Result<Value, String> {
    let bytes = cel::decode(text).ok_or("response.patch is no base64")?;
    let patch: Value =
        serde_json::from_slice(&bytes).map_err(|error| format!("response.patch: {error}"))?;
    if patch.is_array() { Ok(patch) } else { Err("response.patch is no JSON patch".to_owned()) }
}

/// What a request's own permissions are asked about.
#[must_use]
pub fn question(request: &Attributes) -> Question {
    Question {
        group: request.place.group.clone(),
        resource: request.place.resource.clone(),
        subresource: request.subresource.clone(),
        namespace: request.namespace.clone(),
        name: request.name.clone(),
        ..Question::default()
    }
}

#[cfg(test)]
mod tests;
