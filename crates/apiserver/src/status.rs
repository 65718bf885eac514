//! Every refusal as a Kubernetes `Status`: the one place that knows codes, reasons and wording.

use berth_schema::{Cause, Resource};
use berth_store::{ReadError, WriteError};
use serde_json::{Value, json};

use crate::path::Target;

/// Causes that are told one by one: a body of a megabyte can have ten thousands of faults.
const MOST_CAUSES: usize = 1000;

/// A request that was refused or failed, ready to be shown.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The HTTP status code.
    pub code: u16,
    /// Kubernetes' machine-readable reason.
    pub reason: &'static str,
    /// What a person reads.
    pub message: String,
    /// `details` of the `Status`.
    pub details: Option<Value>,
    /// After how many seconds a new try may do better.
    pub retry_after: Option<u32>,
    /// Where a list whose revision is forgotten can go on, at another one.
    pub(crate) next: Option<String>,
}

/// `deployments.apps`, or `pods` in the core group.
pub(crate) fn qualified(resource: &Resource) -> String {
    group_resource(&resource.group, &resource.plural)
}

fn group_resource(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, retry_after: None, next: None }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details =
            Some(json!({"name": name, "group": resource.group, "kind": resource.plural}));
        self
    }

    /// The object is not there.
    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", qualified(resource));
        Self::new(404, "NotFound", message).about(resource, name)
    }

    /// An object of another resource that this request needs is not there.
    pub(crate) fn no_such(plural: &str, name: &str) -> Self {
        let mut failure = Self::new(404, "NotFound", format!("{plural} \"{name}\" not found"));
        failure.details = Some(json!({"name": name, "kind": plural}));
        failure
    }

    /// Something that a node does not have.
    pub(crate) fn not_found_plain(message: String) -> Self {
        Self::new(404, "NotFound", message)
    }

    /// The path leads nowhere.
    pub(crate) fn no_such_path() -> Self {
        let mut failure =
            Self::new(404, "NotFound", "the server could not find the requested resource");
        failure.details = Some(json!({}));
        failure
    }

    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", qualified(resource));
        Self::new(409, "AlreadyExists", message).about(resource, name)
    }

    /// Somebody else wrote in between.
    pub(crate) fn modified_meanwhile(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and \
             try again",
        )
    }

    pub(crate) fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(resource));
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// A conflict that is not about one object of the path.
    pub(crate) fn conflict_plain(message: String) -> Self {
        Self::new(409, "Conflict", message)
    }

    /// Server-side apply met fields of other managers.
    pub(crate) fn apply_conflict(message: String, causes: Vec<Cause>) -> Self {
        let mut failure = Self::new(409, "Conflict", message);
        failure.details = Some(json!({"causes": causes_json(&causes)}));
        failure
    }

    /// The object breaks rules; each cause names a field.
    pub(crate) fn invalid(resource: &Resource, name: &str, causes: Vec<Cause>) -> Self {
        Self::invalid_of(&resource.group, &resource.kind, name, causes)
    }

    /// One field of the object breaks a rule.
    pub(crate) fn invalid_field(
        resource: &Resource,
        name: &str,
        field: &str,
        message: impl Into<String>,
    ) -> Self {
        let cause =
            Cause { reason: "FieldValueInvalid", message: message.into(), field: field.to_owned() };
        Self::invalid(resource, name, vec![cause])
    }

    /// A patch that cannot be carried out on the object as it is.
    ///
    /// Told as a cause: old clients print nothing else of what is invalid.
    pub(crate) fn unfit_patch(resource: &Resource, name: &str, why: String) -> Self {
        Self::invalid_field(resource, name, "patch", format!("cannot be applied: {why}"))
    }

    /// The query's parameters break rules; `kind` is `ListOptions`, `PatchOptions` …
    pub(crate) fn invalid_options(kind: &str, causes: Vec<Cause>) -> Self {
        Self::invalid_of("meta.k8s.io", kind, "", causes)
    }

    /// An object of a kind that is no resource of its own breaks rules.
    pub(crate) fn invalid_of(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let told = &causes[..causes.len().min(MOST_CAUSES)];
        let mut lines: Vec<String> = told.iter().map(ToString::to_string).collect();
        if told.len() < causes.len() {
            lines.push(format!("and {} more", causes.len() - told.len()));
        }
        let said = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let of = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut failure = Self::new(422, "Invalid", format!("{of} \"{name}\" is invalid: {said}"));
        failure.details = Some(json!({
            "name": name,
            "group": group,
            "kind": kind,
            "causes": causes_json(told),
        }));
        failure
    }

    /// What a patch made of an object is none of its kind.
    pub(crate) fn mistyped_patch(patched: &Value, why: &str) -> Self {
        let cause = Cause::invalid("patch", &json!(patched.to_string()), why);
        Self::invalid_of("", "", "", vec![cause])
    }

    /// A deletion insists on another object than the one that is there.
    pub(crate) fn unmet(resource: &Resource, name: &str, why: &str) -> Self {
        let of = group_resource(&resource.group, &resource.kind);
        let message = format!("Operation cannot be fulfilled on {of} \"{name}\": {why}");
        let mut failure = Self::new(409, "Conflict", message);
        failure.details =
            Some(json!({"name": name, "group": resource.group, "kind": resource.kind}));
        failure
    }

    /// The same conflict, told of a subresource.
    pub(crate) fn of_subresource(mut self, resource: &Resource, subresource: &str) -> Self {
        let whole = format!("{}/{subresource}", resource.plural);
        let shown = group_resource(&resource.group, &whole);
        self.message = self.message.replacen(&qualified(resource), &shown, 1);
        if let Some(details) = &mut self.details {
            details["kind"] = json!(whole);
        }
        self
    }

    /// The user may not do that; `details` say to what, when it is a resource.
    pub(crate) fn forbidden_target(target: &Target, message: String) -> Self {
        let mut failure = Self::forbidden(message);
        failure.details = Some(json!({
            "name": target.name,
            "group": target.group,
            "kind": target.resource,
        }));
        failure
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    pub(crate) fn forbidden_object(
        resource: &Resource,
        name: &str,
        why: impl std::fmt::Display,
    ) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", qualified(resource));
        Self::new(403, "Forbidden", message).about(resource, name)
    }

    /// No creating in a namespace that is going away.
    pub(crate) fn namespace_terminating(resource: &Resource, name: &str, namespace: &str) -> Self {
        let why = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        let mut failure = Self::forbidden_object(resource, name, why);
        failure.details = Some(json!({
            "name": name,
            "group": resource.group,
            "kind": resource.plural,
            "causes": [{
                "reason": "NamespaceTerminating",
                "message": format!("namespace {namespace} is being terminated"),
                "field": "metadata.namespace",
            }],
        }));
        failure
    }

    pub(crate) fn method_not_allowed() -> Self {
        let mut failure = Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        );
        failure.details = Some(json!({}));
        failure
    }

    pub(crate) fn not_acceptable(accepted: &str) -> Self {
        Self::new(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {accepted}"),
        )
    }

    pub(crate) fn unsupported_media_type(got: &str, accepted: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format ({got}) - accepted media types \
                 include: {accepted}"
            ),
        )
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit}"),
        )
    }

    /// The body did not arrive in time.
    pub(crate) fn slow_body() -> Self {
        Self::new(408, "Timeout", "the request body did not arrive in time")
    }

    /// History that far back is forgotten.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// The revision asked for has not happened yet.
    pub(crate) fn revision_too_large(asked: u64, current: u64) -> Self {
        let mut failure = Self::new(
            504,
            "Timeout",
            format!("Too large resource version: {asked}, current: {current}"),
        );
        failure.retry_after = Some(1);
        failure.details = Some(json!({
            "causes": [{
                "reason": "ResourceVersionTooLarge",
                "message": "Too large resource version",
            }],
            "retryAfterSeconds": 1,
        }));
        failure
    }

    pub(crate) fn too_many_requests(message: impl Into<String>, seconds: u32) -> Self {
        let mut failure = Self::new(429, "TooManyRequests", message);
        failure.retry_after = Some(seconds);
        failure.details = Some(json!({"retryAfterSeconds": seconds}));
        failure
    }

    /// An eviction would break a disruption budget.
    pub(crate) fn disruption_budget(budget: &str, message: String) -> Self {
        let mut failure = Self::new(
            429,
            "TooManyRequests",
            "Cannot evict pod as it would violate the pod's disruption budget.",
        );
        failure.details = Some(json!({
            "causes": [{"reason": "DisruptionBudget", "message": format!("The disruption budget {budget} {message}")}],
        }));
        failure
    }

    pub(crate) fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        let mut failure = Self::new(503, "ServiceUnavailable", message);
        failure.retry_after = Some(1);
        failure
    }

    /// A webhook refused the request in its own words.
    pub(crate) fn denied(code: u16, reason: &str, message: String) -> Self {
        const KNOWN: &[&str] = &[
            "AlreadyExists",
            "BadRequest",
            "Conflict",
            "Expired",
            "Forbidden",
            "Gone",
            "Invalid",
            "InternalError",
            "MethodNotAllowed",
            "NotAcceptable",
            "NotFound",
            "RequestEntityTooLarge",
            "ServerTimeout",
            "ServiceUnavailable",
            "Timeout",
            "TooManyRequests",
            "Unauthorized",
            "UnsupportedMediaType",
        ];
        let known = KNOWN.iter().find(|own| **own == reason);
        Self::new(code, known.copied().unwrap_or("Unknown"), message)
    }

    /// The `Status` object.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(next) = &self.next {
            status["metadata"]["continue"] = json!(next);
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
            leave_out_empty(&mut status["details"]);
        }
        status
    }
}

/// What is empty is not said, such as the core group's name.
fn leave_out_empty(details: &mut Value) {
    if let Some(details) = details.as_object_mut() {
        details.retain(|_, value| value != "");
    }
}

/// The `Status` of a deletion that left nothing behind.
pub(crate) fn deleted(resource: &Resource, name: &str, uid: &str) -> Value {
    let mut status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {
            "name": name,
            "group": resource.group,
            "kind": resource.plural,
            "uid": uid,
        },
    });
    leave_out_empty(&mut status["details"]);
    status
}

/// The `Status` of anything else that went well.
pub(crate) fn success(code: u16) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "code": code,
    })
}

fn causes_json(causes: &[Cause]) -> Vec<Value> {
    causes
        .iter()
        .map(
            |cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}),
        )
        .collect()
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted { floor } => Self::expired(format!(
                "The resourceVersion for the provided watch is too old: history starts at {floor}"
            )),
            ReadError::Future { current } => Self::revision_too_large(0, current.0),
            ReadError::Closed => Self::unavailable("the store is closing"),
            other => Self::internal(other),
        }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Full => Self::new(
                507,
                "InternalError",
                "the store has no room left; free some disk space and try again",
            ),
            WriteError::Closed => Self::unavailable("the store is closing"),
            other => Self::internal(other),
        }
    }
}
