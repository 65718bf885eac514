//! Questions instead of objects: who is this, may he, what may I.

use std::sync::Arc;

use berth_schema::Cause;
use serde_json::{Value, json};

use crate::authentication::Refused;
use crate::call::Call;
use crate::object;
use crate::path::Target;
use crate::rbac::Rule;
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
        Review::Access => ("SubjectAccessReview", access(core, &subject(&spec)?, &spec)?),
        Review::LocalAccess => {
            if spec["resourceAttributes"]["namespace"] != call.target.namespace.as_str() {
                return Err(Failure::bad_request(
                    "spec.resourceAttributes.namespace must match the namespace of the request",
                ));
            }
            ("LocalSubjectAccessReview", access(core, &subject(&spec)?, &spec)?)
        }
        Review::SelfAccess => ("SelfSubjectAccessReview", access(core, &call.user, &spec)?),
        Review::SelfRules => {
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
        return Err(Failure::bad_request("spec.token is required"));
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

/// Kubernetes does not say which kind of review is at fault.
fn invalid(cause: Cause) -> Failure {
    Failure::invalid_of("authorization.k8s.io", "", "", vec![cause])
}

fn subject(spec: &Value) -> Result<User, Failure> {
    let groups: Vec<String> = spec["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|group| group.as_str().map(str::to_owned))
        .collect();
    let name = spec["user"].as_str().unwrap_or_default();
    if name.is_empty() && groups.is_empty() {
        let (wrong, none) = ("at least one of user or group must be specified", json!(""));
        let cause = Cause::invalid("spec.user", &none, wrong);
        return Err(invalid(cause));
    }
    Ok(User {
        name: name.to_owned(),
        uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
        groups,
        ..User::default()
    })
}

fn access(core: &Arc<Core>, user: &User, spec: &Value) -> Result<Value, Failure> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (of_resource, of_path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let target = match (of_resource.is_object(), of_path.is_object()) {
        (true, false) => Target {
            is_resource: true,
            verb: text(&of_resource["verb"]),
            group: text(&of_resource["group"]),
            version: text(&of_resource["version"]),
            namespace: text(&of_resource["namespace"]),
            resource: text(&of_resource["resource"]),
            subresource: text(&of_resource["subresource"]),
            name: text(&of_resource["name"]),
            ..Target::default()
        },
        (false, true) => Target {
            verb: text(&of_path["verb"]),
            path: text(&of_path["path"]),
            ..Target::default()
        },
        _ => {
            let wrong =
                "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            let cause = Cause::invalid("spec.resourceAttributes", of_resource, wrong);
            return Err(invalid(cause));
        }
    };
    let allowed = core.rbac.allows(user, &target);
    let mut status = json!({"allowed": allowed});
    if allowed && !user.is_master() {
        status["reason"] = json!("RBAC: allowed by a role that is bound to the user");
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
