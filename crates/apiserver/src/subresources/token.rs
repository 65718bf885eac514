//! `serviceaccounts/token`: a token of one's own length, audience and binding.

use std::sync::Arc;

use berth_schema::Cause;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::admission::node_restriction::node_of;
use crate::admission::{self, Asked, Operation};
use crate::call::Call;
use crate::object;
use crate::respond::{self, Body};
use crate::server::Core;
use crate::status::Failure;
use crate::tokens::{Bound, Claims, Referent};
use crate::verbs;

const DEFAULT_SECONDS: i64 = 3600;
const LEAST_SECONDS: i64 = 600;
/// What may be asked for.
const MOST_ASKED: i64 = 1 << 32;
/// What is given.
const MOST_SECONDS: i64 = 48 * 3600;

pub(super) async fn request(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Failure> {
    let target = &call.target;
    let (namespace, name) = (target.namespace.as_str(), target.name.as_str());
    let body = call.body_value()?;
    let account = verbs::found(core, "serviceaccounts", namespace, name).await?;
    let asked = Asked {
        core,
        call,
        resource: &core.resource("", "v1", "serviceaccounts")?,
        subresource: Some("token"),
        operation: Operation::Create,
        namespace,
        name,
        dry_run: call.dry_run()?,
        old: None,
    };
    admission::validate_action(&asked, Some(&body)).await?;
    let seconds = match &body["spec"]["expirationSeconds"] {
        Value::Null => DEFAULT_SECONDS,
        value => asked_seconds(value)?,
    };
    let seconds = seconds.min(MOST_SECONDS);
    if let Some(node) = node_of(&call.user) {
        may_as_node(core, node, namespace, &body["spec"]["boundObjectRef"]).await?;
    }
    let asked = body["spec"]["audiences"].as_array().into_iter().flatten();
    let mut audiences: Vec<String> =
        asked.filter_map(|one| one.as_str().map(str::to_owned)).collect();
    if audiences.is_empty() {
        audiences.push(core.audience());
    }
    let mut bound = Bound {
        namespace: namespace.to_owned(),
        node: None,
        pod: None,
        secret: None,
        serviceaccount: referent(&account),
    };
    let bound_to = &body["spec"]["boundObjectRef"];
    if bound_to.is_object() {
        bind(core, namespace, name, bound_to, &mut bound).await?;
    }
    let now = Timestamp::now();
    let expires = now + SignedDuration::from_secs(seconds);
    let claims = Claims {
        aud: audiences.clone(),
        exp: expires.as_second(),
        iat: now.as_second(),
        iss: core.audience(),
        jti: uuid::Uuid::new_v4().to_string(),
        bound,
        nbf: now.as_second(),
        sub: format!("system:serviceaccount:{namespace}:{name}"),
    };
    let token = core.signer.sign(&claims).map_err(Failure::internal)?;
    let answer = json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": object::time(now)},
        "spec": {
            "audiences": audiences,
            "expirationSeconds": seconds,
            "boundObjectRef": body["spec"]["boundObjectRef"],
        },
        "status": {"token": token, "expirationTimestamp": object::time(expires)},
    });
    Ok(respond::value(StatusCode::CREATED, &answer, &call.output))
}

fn asked_seconds(value: &Value) -> Result<i64, Failure> {
    let seconds = value.as_i64().unwrap_or_default();
    let wrong = match seconds {
        ..LEAST_SECONDS => "may not specify a duration less than 10 minutes",
        LEAST_SECONDS..=MOST_ASKED => return Ok(seconds),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let cause = Cause::invalid("spec.expirationSeconds", value, wrong);
    Err(Failure::invalid_of("authentication.k8s.io", "TokenRequest", "", vec![cause]))
}

/// A node agent asks only for pods of its node: any other token would outlive what the agent may.
async fn may_as_node(core: &Core, node: &str, namespace: &str, to: &Value) -> Result<(), Failure> {
    let text = |field: &str| to[field].as_str().unwrap_or_default();
    if (text("apiVersion"), text("kind")) != ("v1", "Pod") || text("name").is_empty() {
        return Err(Failure::forbidden("node requested token not bound to a pod"));
    }
    if text("uid").is_empty() {
        return Err(Failure::forbidden("node requested token with a pod binding without a uid"));
    }
    let pod = verbs::found(core, "pods", namespace, text("name")).await?;
    if pod["spec"]["nodeName"] != node {
        let why = "node requested token bound to a pod scheduled on a different node";
        return Err(Failure::forbidden(why));
    }
    Ok(())
}

fn referent(object: &Value) -> Referent {
    Referent { name: object::name(object).to_owned(), uid: Some(object::uid(object).to_owned()) }
}

/// Binds to a pod that runs under the account, a secret, or a node.
async fn bind(
    core: &Core,
    namespace: &str,
    account: &str,
    to: &Value,
    bound: &mut Bound,
) -> Result<(), Failure> {
    let name = to["name"].as_str().unwrap_or_default();
    let found = match to["kind"].as_str() {
        Some("Pod") => {
            let pod = verbs::found(core, "pods", namespace, name).await?;
            if pod["spec"]["serviceAccountName"] != account {
                return Err(Failure::bad_request(format!(
                    "cannot bind token for serviceaccount \"{account}\" to pod running with \
                     different serviceaccount name"
                )));
            }
            bound.pod = Some(referent(&pod));
            let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            if !node.is_empty() {
                let found = core.core_object("nodes", "", node).await?;
                bound.node = Some(
                    found
                        .as_ref()
                        .map_or_else(|| Referent { name: node.to_owned(), uid: None }, referent),
                );
            }
            pod
        }
        Some("Secret") => {
            let secret = verbs::found(core, "secrets", namespace, name).await?;
            bound.secret = Some(referent(&secret));
            secret
        }
        Some("Node") => {
            let node = verbs::found(core, "nodes", "", name).await?;
            bound.node = Some(referent(&node));
            node
        }
        other => {
            let (version, kind) = (to["apiVersion"].as_str(), other.unwrap_or_default());
            let (group, version) = match version.unwrap_or_default().split_once('/') {
                Some(both) => both,
                None => ("", version.unwrap_or_default()),
            };
            return Err(Failure::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    match to["uid"].as_str() {
        Some(uid) if !uid.is_empty() && uid != object::uid(&found) => {
            Err(Failure::conflict_plain(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. \
                 The object might have been deleted and then recreated"
            )))
        }
        _ => Ok(()),
    }
}
