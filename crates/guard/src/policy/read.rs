//! From a policy or binding as it is stored to one that can judge.

use serde_json::{Value, json};

use super::{Binding, Body, Policy, Validation};
use crate::Fault;
use crate::cel::{Expression, Scope};
use crate::condition::Condition;
use crate::matching::Constraints;

impl Policy {
    /// Reads and compiles a policy; one that does not compile is kept, and fails as its failure
    /// policy says.
    #[must_use]
    pub fn read(object: &Value) -> Self {
        let spec = &object["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let params = spec["paramKind"]
            .is_object()
            .then(|| (text(&spec["paramKind"]["apiVersion"]), text(&spec["paramKind"]["kind"])));
        let mut faults = Vec::new();
        let body = compile_all(spec, "spec", &mut faults);
        let body = match faults.first() {
            None => Ok(body.0),
            Some(fault) => Err(format!("{}: {}", fault.field, fault.message)),
        };
        Self {
            name: text(&object["metadata"]["name"]),
            params,
            fails_closed: spec["failurePolicy"].as_str() != Some("Ignore"),
            constraints: Constraints::read(&spec["matchConstraints"]),
            body,
        }
    }
}

impl Binding {
    /// Reads a binding.
    #[must_use]
    pub fn read(object: &Value) -> Self {
        let spec = &object["spec"];
        let actions = spec["validationActions"].as_array().into_iter().flatten();
        Self {
            name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            policy: spec["policyName"].as_str().unwrap_or_default().to_owned(),
            param_ref: spec["paramRef"].clone(),
            actions: actions.filter_map(|one| one.as_str().map(str::to_owned)).collect(),
            constraints: Constraints::read(&spec["matchResources"]),
        }
    }
}

/// A policy's expressions, not to be looked into from outside.
pub struct Compiled(pub(super) Body);

/// Compiles all expressions of a policy's `spec`; what is wrong goes to `faults`, under `path`.
pub fn compile_all(spec: &Value, path: &str, faults: &mut Vec<Fault>) -> Compiled {
    let mut body = Body::default();
    let list = |key: &str| spec[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut names =
        vec!["object", "oldObject", "request", "authorizer", "authorizer.requestResource"];
    names.push("namespaceObject");
    if spec["paramKind"].is_object() {
        names.push("params");
    }
    let more: Vec<&str> = names[5..].to_vec();
    match Condition::compile(&spec["matchConditions"], &more) {
        Ok(conditions) => body.conditions = conditions,
        Err((at, error)) => {
            let given = &spec["matchConditions"][at]["expression"];
            let field = format!("{path}.matchConditions[{at}].expression");
            faults.push(Fault::invalid(field, given, &error.to_string()));
        }
    }
    // Variables see those before them.
    let mut known = json!({"type": "object", "properties": {}});
    let mut compile = |kind: Kind, given: &Value, field: String, known: &Value| {
        let scope = Scope::of(&names).with("variables", Some(known));
        let source = given.as_str().unwrap_or_default().trim();
        if source.is_empty() {
            faults.push(Fault::required(field, "expression is not specified"));
            return None;
        }
        let compiled = match kind {
            Kind::Truth => Expression::rule(source, &scope),
            Kind::Text => Expression::message(source, &scope),
            Kind::Any => Expression::any(source, &scope),
        };
        compiled.map_err(|error| faults.push(Fault::invalid(field, given, &error.to_string()))).ok()
    };
    for (at, given) in list("variables").iter().enumerate() {
        let name = given["name"].as_str().unwrap_or_default();
        let field = format!("{path}.variables[{at}].expression");
        if let Some(one) = compile(Kind::Any, &given["expression"], field, &known) {
            body.variables.push((name.to_owned(), one));
        }
        known["properties"][name] = json!({});
    }
    for (at, given) in list("validations").iter().enumerate() {
        let path = format!("{path}.validations[{at}]");
        let field = format!("{path}.expression");
        let expression = compile(Kind::Truth, &given["expression"], field, &known);
        let message_expression = given["messageExpression"].as_str().and_then(|_| {
            let field = format!("{path}.messageExpression");
            compile(Kind::Text, &given["messageExpression"], field, &known)
        });
        if let Some(expression) = expression {
            body.validations.push(Validation {
                source: given["expression"].as_str().unwrap_or_default().trim().to_owned(),
                expression,
                message: given["message"].as_str().map(|text| text.trim().to_owned()),
                message_expression,
                reason: given["reason"].as_str().unwrap_or("Invalid").to_owned(),
            });
        }
    }
    for (at, given) in list("auditAnnotations").iter().enumerate() {
        let field = format!("{path}.auditAnnotations[{at}].valueExpression");
        if let Some(one) = compile(Kind::Any, &given["valueExpression"], field, &known) {
            let key = given["key"].as_str().unwrap_or_default().to_owned();
            body.annotations.push((key, one));
        }
    }
    Compiled(body)
}

#[derive(Clone, Copy)]
enum Kind {
    Truth,
    Text,
    Any,
}
