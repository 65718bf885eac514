//! `ValidatingAdmissionPolicy`: rules in CEL that a binding puts into force.
//!
//! # Source
//! KEP-3488; Kubernetes API reference, "Validating Admission Policy".

use std::sync::Arc;
use std::time::Instant;

use kube_cel::cel::Value as Cel;
use serde_json::{Value, json};

use crate::attributes::Attributes;
use crate::cel::{self, Authorize, Budget, EvalError, Expression, Session};
use crate::condition::{Condition, Met, seen};
use crate::matching::{Constraints, Equivalent};
use crate::webhook;

mod read;

pub use read::compile_all;

/// The audit log's key for what a binding only notes.
const FAILURES: &str = "validation.policy.admission.k8s.io/validation_failure";

/// A policy, compiled.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// `apiVersion` and `kind` of its parameters; none when it takes none.
    pub params: Option<(String, String)>,
    fails_closed: bool,
    constraints: Constraints,
    /// The expressions, or why they do not compile.
    body: Result<Body, String>,
}

#[derive(Debug, Clone, Default)]
struct Body {
    conditions: Vec<Condition>,
    variables: Vec<(String, Expression)>,
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
}

#[derive(Debug, Clone)]
struct Validation {
    source: String,
    expression: Expression,
    message: Option<String>,
    message_expression: Option<Expression>,
    reason: String,
}

/// What puts a policy into force.
#[derive(Debug, Clone)]
pub struct Binding {
    /// Its name.
    pub name: String,
    /// The policy's name.
    pub policy: String,
    /// `paramRef`; null without parameters.
    pub param_ref: Value,
    actions: Vec<String>,
    constraints: Constraints,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The HTTP code.
    pub code: u16,
    /// The machine-readable reason.
    pub reason: &'static str,
    /// The sentence.
    pub message: String,
}

/// What a policy says of a request under one binding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The first refusal, if any.
    pub denial: Option<Denial>,
    /// For the client.
    pub warnings: Vec<String>,
    /// For the audit log.
    pub annotations: Vec<(String, String)>,
}

impl Policy {
    /// As what the policy wants a request under a binding; none when it does not.
    #[must_use]
    pub fn wants(
        &self,
        binding: &Binding,
        request: &Attributes,
        others: &[Equivalent],
    ) -> Option<Equivalent> {
        binding.constraints.wants(request, others)?;
        self.constraints.wants(request, others)
    }

    /// Whether judging may take long enough to be done aside.
    #[must_use]
    pub fn is_heavy(&self) -> bool {
        let Ok(body) = &self.body else { return false };
        body.conditions.iter().any(Condition::loops)
            || body.variables.iter().any(|(_, one)| one.loops())
            || body.annotations.iter().any(|(_, one)| one.loops())
            || body.validations.iter().any(|one| {
                one.expression.loops()
                    || one.message_expression.as_ref().is_some_and(Expression::loops)
            })
    }

    /// Judges a request under a binding, once for each of its parameters; `params` holds a null
    /// for a policy without any.
    #[must_use]
    pub fn judge(
        &self,
        binding: &Binding,
        request: &Attributes,
        as_what: &Equivalent,
        params: &[Value],
        authorize: &Arc<dyn Authorize>,
        now: Instant,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        let body = match &self.body {
            Ok(body) => body,
            Err(why) => {
                self.fail(binding, &mut verdict, why);
                return verdict;
            }
        };
        let session = Session::new(Budget::for_request(now));
        let review = request.request("", &as_what.0, &as_what.1);
        let asked = webhook::question(request);
        let mut bound = vec![
            ("object", seen(&request.object)),
            ("oldObject", seen(&request.old)),
            ("request", seen(&review)),
            ("namespaceObject", seen(&request.namespace_object)),
            ("authorizer", cel::authorizer(Arc::clone(authorize))),
            ("authorizer.requestResource", cel::request_resource(Arc::clone(authorize), asked)),
        ];
        for one in params {
            bound.push(("params", seen(one)));
            match Condition::all(&body.conditions, &session, &bound) {
                Met::Yes => self.judge_one(body, binding, &session, &mut bound, &mut verdict),
                Met::No => {}
                Met::Unclear(why) => self.fail(binding, &mut verdict, &why),
            }
            bound.pop();
        }
        verdict
    }

    fn judge_one(
        &self,
        body: &Body,
        binding: &Binding,
        session: &Session,
        bound: &mut Vec<(&str, Cel)>,
        verdict: &mut Verdict,
    ) {
        let mut held: Vec<(String, Cel)> = Vec::new();
        let mut wrong: Vec<(&str, EvalError)> = Vec::new();
        for (name, expression) in &body.variables {
            bound.push(("variables", cel::map(&held)));
            match session.eval(expression, bound) {
                Ok(value) => held.push((name.clone(), value)),
                Err(error) => wrong.push((name, error)),
            }
            bound.pop();
        }
        bound.push(("variables", cel::map(&held)));
        // A variable that went wrong is missing where it is used; say why it is.
        let explained = |error: EvalError| -> String {
            let said = error.to_string();
            let cause = wrong.iter().find(|(name, _)| said == format!("no such key: {name}"));
            cause.map_or(said, |(name, error)| {
                format!("composited variable {name:?} fails to evaluate: {error}")
            })
        };
        for one in &body.validations {
            match session.truth(&one.expression, bound) {
                Ok(true) => {}
                Ok(false) => {
                    let said = one.say(session, bound);
                    self.act(binding, verdict, &said, &one.reason);
                }
                Err(error) => {
                    let why = explained(error);
                    let said = format!("expression '{}' resulted in error: {why}", one.source);
                    self.fail(binding, verdict, &said);
                }
            }
        }
        for (key, expression) in &body.annotations {
            match session.eval(expression, bound) {
                Ok(value) => {
                    if let Some(text) = cel::shown(&value).filter(|text| !text.is_empty()) {
                        verdict.annotations.push((format!("{}/{key}", self.name), text));
                    }
                }
                Err(error) => {
                    let why = explained(error);
                    self.fail(binding, verdict, &format!("audit annotation {key:?}: {why}"));
                }
            }
        }
        bound.pop();
    }

    /// What could not be told: refused, unless the policy says to ignore it.
    fn fail(&self, binding: &Binding, verdict: &mut Verdict, why: &str) {
        if self.fails_closed {
            self.act(binding, verdict, why, "Invalid");
        }
    }

    /// A verdict for a binding whose parameters are not there.
    #[must_use]
    pub fn without_params(&self, binding: &Binding, why: &str) -> Verdict {
        let mut verdict = Verdict::default();
        self.fail(binding, &mut verdict, why);
        verdict
    }

    fn act(&self, binding: &Binding, verdict: &mut Verdict, said: &str, reason: &str) {
        let who =
            format!("ValidatingAdmissionPolicy '{}' with binding '{}'", self.name, binding.name);
        for action in &binding.actions {
            match action.as_str() {
                "Deny" => {
                    let (code, reason) = match reason {
                        "Forbidden" => (403, "Forbidden"),
                        "Unauthorized" => (401, "Unauthorized"),
                        "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
                        _ => (422, "Invalid"),
                    };
                    let message = format!("{who} denied request: {said}");
                    verdict.denial.get_or_insert(Denial { code, reason, message });
                }
                "Warn" => verdict.warnings.push(format!("Validation failed for {who}: {said}")),
                "Audit" => {
                    let noted = json!([{"message": said, "policy": self.name,
                        "binding": binding.name, "validationActions": binding.actions}]);
                    verdict.annotations.push((FAILURES.to_owned(), noted.to_string()));
                }
                _ => {}
            }
        }
    }
}

impl Validation {
    fn say(&self, session: &Session, bound: cel::Bound<'_>) -> String {
        let made = self.message_expression.as_ref().and_then(|one| session.text(one, bound).ok());
        made.map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty() && !text.contains('\n'))
            .or_else(|| self.message.clone())
            .unwrap_or_else(|| format!("failed expression: {}", self.source))
    }
}

#[cfg(test)]
mod tests;
