//! Questions instead of objects: who is this, may he, what may I.

use std::sync::Arc;

use berth_schema::Cause;
use serde_json::{Value, json};

use crate::authentication::Refused;
use crate::call::Call;
use crate::object;
use crate::path::Target;
use crate::rbac::{self, Rule};
use crate::server::Core;
use crate::status::Failure;
use crate::user::User;

/// The kinds of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Review {
    Token,
    SelfSubject,
    Access,
    SelfAccess,
    LocalAccess,
    SelfRules,
}

/// Which question a request asks, if any.
pub(crate) fn named(target: &Target) -> Option<Review> {
    if target.verb != "create" || target.version != "v1" || !target.subresource.is_empty() {
        return None;
    }
    Some(match (target.group.as_str(), target.resource.as_str()) {
        ("authentication.k8s.io", "tokenreviews") => Review::Token,
        ("authentication.k8s.io", "selfsubjectreviews") => Review::SelfSubject,
        ("authorization.k8s.io", "subjectaccessreviews") => Review::Access,
        ("authorization.k8s.io", "selfsubjectaccessreviews") => Review::SelfAccess,
        ("authorization.k8s.io", "localsubjectaccessreviews") => Review::LocalAccess,
        ("authorization.k8s.io", "selfsubjectrulesreviews") => Review::SelfRules,
        _ => return None,
    })
}

/// Answers a question: the question itself with a status.
pub(crate) async fn answer(
    core: &Arc<Core>,
    call: &Call,
    review: Review,
) -> Result<Value, Failure> {
    let mut body = call.body_value()?;
    if !body.is_object() {
        body = json!({});
    }
    let spec = body["spec"].clone();
    let (kind, status) = match review {
        Review::Token => ("TokenReview", token(core, &spec).await?),
        Review::SelfSubject => ("SelfSubjectReview", json!({"userInfo": user_json(&call.user)})),
        Review::Access | Review::LocalAccess | Review::SelfAccess => {
            let local = (review == Review::LocalAccess).then_some(call.target.namespace.as_str());
            let causes = faults(&body, review, local);
            if !causes.is_empty() {
                // Kubernetes does not say which kind of review is at fault.
                return Err(Failure::invalid_of("authorization.k8s.io", "", "", causes));
            }
            let (kind, user) = match review {
                Review::Access => ("SubjectAccessReview", Arc::new(subject(&spec))),
                Review::LocalAccess => ("LocalSubjectAccessReview", Arc::new(subject(&spec))),
                _ => ("SelfSubjectAccessReview", call.user.clone()),
            };
            (kind, access(core, &user, &spec).await?)
        }
        Review::SelfRules => {
            if spec["namespace"].as_str().unwrap_or_default().is_empty() {
                return Err(Failure::bad_request("no namespace on request"));
            }
            // Kubernetes does not say again what was asked.
            body["spec"] = json!({});
            ("SelfSubjectRulesReview", rules(core, &call.user, &spec))
        }
    };
    body["kind"] = json!(kind);
    body["apiVersion"] = json!(format!("{}/v1", call.target.group));
    if !body["metadata"].is_object() {
        body["metadata"] = json!({});
    }
    if review == Review::SelfSubject {
        object::set_meta(&mut body, "creationTimestamp", json!(object::now()));
    }
    body["status"] = status;
    Ok(body)
}

async fn token(core: &Arc<Core>, spec: &Value) -> Result<Value, Failure> {
    let token = spec["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        let why = "token is required for TokenReview in authentication";
        return Err(Failure::bad_request(why));
    }
    let own = core.audience();
    let asked: Vec<&str> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let audiences = if asked.is_empty() { vec![own.as_str()] } else { asked };
    Ok(match core.token(token, &audiences).await {
        Ok(shown) => json!({
            "authenticated": true,
            "user": user_json(&shown.user),
            "audiences": shown.audiences,
        }),
        Err(Refused::Token(why)) => json!({"user": {}, "error": why}),
        Err(Refused::Failed(failure)) => return Err(failure),
    })
}

fn user_json(user: &User) -> Value {
    let mut json = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        json["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        json["extra"] = json!(user.extra);
    }
    json
}

/// What is wrong with a question about access; in the namespace `local`, when it is asked there.
fn faults(body: &Value, review: Review, local: Option<&str>) -> Vec<Cause> {
    let spec = &body["spec"];
    let (of_resource, of_path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let mut causes = Vec::new();
    match (of_resource.is_object(), of_path.is_object()) {
        (true, true) => {
            let wrong = "cannot be specified in combination with resourceAttributes";
            causes.push(Cause::invalid("spec.nonResourceAttributes", of_path, wrong));
        }
        (false, false) => {
            let wrong =
                "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            causes.push(Cause::invalid("spec.resourceAttributes", &json!("null"), wrong));
        }
        _ => {}
    }
    let nobody = spec["user"].as_str().unwrap_or_default().is_empty()
        && spec["groups"].as_array().is_none_or(Vec::is_empty);
    if review != Review::SelfAccess && nobody {
        let wrong = "at least one of user or group must be specified";
        causes.push(Cause::invalid("spec.user", &json!(""), wrong));
    }
    let says = |(key, value): (&String, &Value)| {
        key != "managedFields"
            && !(key == "namespace" && local.is_some())
            && !(value.is_null() || value == "")
    };
    if body["metadata"].as_object().is_some_and(|fields| fields.iter().any(says)) {
        let wrong =
            if local.is_some() { "must be empty except for namespace" } else { "must be empty" };
        causes.push(Cause::invalid("metadata", &body["metadata"], wrong));
    }
    let Some(local) = local else { return causes };
    let asked = of_resource["namespace"].as_str().unwrap_or_default();
    if of_resource.is_object() && asked != local {
        let field = "spec.resourceAttributes.namespace";
        causes.push(Cause::invalid(field, &json!(asked), "must match metadata.namespace"));
    }
    if of_path.is_object() {
        let wrong = "disallowed on this kind of request";
        causes.push(Cause::invalid("spec.nonResourceAttributes", of_path, wrong));
    }
    causes
}

fn subject(spec: &Value) -> User {
    let texts = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.filter_map(|one| one.as_str().map(str::to_owned)).collect()
    };
    let extra = spec["extra"].as_object().into_iter().flatten();
    User {
        name: spec["user"].as_str().unwrap_or_default().to_owned(),
        uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
        groups: texts(&spec["groups"]),
        extra: extra.map(|(key, values)| (key.to_ascii_lowercase(), texts(values))).collect(),
    }
}

async fn access(core: &Arc<Core>, user: &User, spec: &Value) -> Result<Value, Failure> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (of_resource, of_path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let target = if of_resource.is_object() {
        Target {
            is_resource: true,
            verb: text(&of_resource["verb"]),
            group: text(&of_resource["group"]),
            version: text(&of_resource["version"]),
            namespace: text(&of_resource["namespace"]),
            resource: text(&of_resource["resource"]),
            subresource: text(&of_resource["subresource"]),
            name: text(&of_resource["name"]),
            ..Target::default()
        }
    } else {
        Target { verb: text(&of_path["verb"]), path: text(&of_path["path"]), ..Target::default() }
    };
    if !core.rbac.allows(user, &target) {
        return Ok(json!({"allowed": false}));
    }
    if !rbac::node::allows(core, user, &target).await? {
        return Ok(json!({"allowed": false, "reason": rbac::node::unrelated(user)}));
    }
    let mut status = json!({"allowed": true});
    if !user.is_master()
        && let Some(reason) = core.rbac.reason(user, &target)
    {
        status["reason"] = json!(reason);
    }
    Ok(status)
}

fn rules(core: &Arc<Core>, user: &User, spec: &Value) -> Value {
    let namespace = spec["namespace"].as_str().unwrap_or_default();
    let (mut of_resources, mut of_paths) = (Vec::new(), Vec::new());
    for rule in core.rbac.rules(user, namespace) {
        let paths = rule.non_resource_urls.clone();
        if !paths.is_empty() {
            of_paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": paths}));
        }
        if !rule.resources.is_empty() {
            let rule = Rule { non_resource_urls: Vec::new(), ..rule };
            of_resources.push(json!(rule));
        }
    }
    json!({"resourceRules": of_resources, "nonResourceRules": of_paths, "incomplete": false})
}
