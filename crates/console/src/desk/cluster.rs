//! `/k8s/…`: the Kubernetes API as the person who asks.
//!
//! What passes: `api`, `apis`, `openapi` and `version`, in plain path segments. What does not:
//! `proxy` (a pod's own page would run as one of the console's) and upgraded connections.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use berth_api::app::logs::NONE_HERE;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use kube::Client;
use serde_json::{Value, json};

use super::visitor::{Visitor, impersonate};
use super::{BODY, Desk, Refusal, login};
use crate::accounts::Account;
use crate::acts::Act;
use crate::collected::{self, Collected};
use crate::database::now;

/// To the head of the answer; what streams may go on.
const ANSWER: Duration = Duration::from_secs(60);
const LONG: usize = 4096;

pub(super) async fn pass(
    State(desk): State<Desk>,
    visitor: Visitor,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let (method, uri) = (parts.method, parts.uri);
    let path = allowed(uri.path())?;
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let dry_run = uri.query().is_some_and(only_tries);
    let body = axum::body::to_bytes(body, BODY).await.map_err(|_| {
        let message = "a body has at most 3 MiB";
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    })?;
    let mut sent = http::Request::builder().method(&method).uri(target);
    if let Some(headers) = sent.headers_mut() {
        for name in [header::ACCEPT, header::CONTENT_TYPE] {
            if let Some(value) = parts.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        visitor.impersonate(headers);
    }
    let sent = sent
        .body(kube::client::Body::from(body.to_vec()))
        .map_err(|_| Refusal::bad("the request cannot be passed on"))?;
    let begun = Instant::now();
    let answer = tokio::time::timeout(ANSWER, desk.client.send(sent)).await;
    let answer = match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Refusal::unavailable(&error)),
        Err(_) => {
            let message = "the API server did not answer within 60 s";
            Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message))
        }
    };
    if !method.is_safe() {
        let status = answer.as_ref().map_or_else(|refusal| refusal.status, |a| a.status());
        let act = Act {
            at: now(),
            account: visitor.who(),
            address: visitor.address.to_string(),
            verb: if dry_run { format!("{method} (dry run)") } else { method.to_string() },
            path: path.to_owned(),
            status: status.as_u16(),
            milliseconds: i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX),
        };
        desk.acts.keep(act).await;
    }
    let mut answer = answer?;
    if method == Method::GET && answer.status() == StatusCode::NOT_FOUND {
        answer = collected_elsewhere(&desk, &visitor, path, uri.query(), answer).await?;
    }
    let mut answer = returned(answer);
    login::renew(&visitor, &mut answer);
    Ok(answer)
}

/// What collectors keep of an App's log directories, where `path` is their log and the API has none.
async fn collected_elsewhere(
    desk: &Desk,
    visitor: &Visitor,
    path: &str,
    query: Option<&str>,
    answer: http::Response<kube::client::Body>,
) -> Result<http::Response<kube::client::Body>, Refusal> {
    let Some((namespace, app)) = log_of(path) else { return Ok(answer) };
    let (parts, body) = answer.into_parts();
    let said = body.collect_bytes().await.map_err(|error| Refusal::unavailable(&error))?;
    let is_own_ground = String::from_utf8_lossy(&said).contains(NONE_HERE);
    let answer = http::Response::from_parts(parts, kube::client::Body::from(said.to_vec()));
    if is_own_ground {
        return Ok(answer);
    }
    let query = query.unwrap_or_default();
    let sign = |headers: &mut HeaderMap| visitor.impersonate(headers);
    match collected::ask(&desk.client, namespace, app, query, sign).await {
        Ok(Collected::Answer(answer)) => Ok(*answer),
        Ok(Collected::Nothing) => Ok(answer),
        Ok(Collected::Refused(StatusCode::FORBIDDEN)) => {
            let text = format!("you may not read the log directories of namespace {namespace}");
            Err(Refusal::forbidden(text))
        }
        Ok(Collected::Refused(status)) => {
            let text = "the API server gives no token for the log directories";
            Err(Refusal::new(status, "ServiceUnavailable", text))
        }
        Err(error) => Err(Refusal::unavailable(&error)),
    }
}

/// Namespace and name of the App whose log directories `path` reads.
fn log_of(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/apis/berth.dev/v1/namespaces/")?;
    match rest.split('/').collect::<Vec<_>>().as_slice() {
        [namespace, "apps", app, "log"] => Some((namespace, app)),
        _ => None,
    }
}

/// The API's path behind `/k8s`, when it is one that may be asked for.
fn allowed(path: &str) -> Result<&str, Refusal> {
    let refused = || Refusal::bad(format!("{path:.200} is no path of the Kubernetes API"));
    let inner = path.strip_prefix("/k8s").ok_or_else(refused)?;
    let plain = inner.len() <= LONG
        && inner.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-:".contains(&byte));
    let segments: Vec<&str> = inner.split('/').skip(1).collect();
    let root = matches!(segments.first(), Some(&("api" | "apis" | "openapi" | "version")));
    let dotted = segments.iter().any(|segment| matches!(*segment, "" | "." | ".."));
    if !plain || !root || dotted {
        return Err(refused());
    }
    if segments.contains(&"proxy") {
        return Err(Refusal::forbidden("pages of pods are not shown under the console's address"));
    }
    Ok(inner)
}

/// Whether a request tries alone. Whatever could be read in two ways is written down as done.
fn only_tries(query: &str) -> bool {
    let said = query.split('&').filter(|one| one.starts_with("dryRun"));
    !query.contains(['%', '+', ';']) && said.eq(["dryRun=All"])
}

/// The answer, with what a browser could take for a page of ours turned into text.
fn returned(answer: http::Response<kube::client::Body>) -> Response {
    let (parts, body) = answer.into_parts();
    let mut headers = HeaderMap::new();
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let json = kind.is_some_and(|kind| kind.starts_with("application/json"));
    let kind = if json { "application/json" } else { "text/plain; charset=utf-8" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(retry) = parts.headers.get(header::RETRY_AFTER) {
        headers.insert(header::RETRY_AFTER, retry.clone());
    }
    let mut answer = Response::new(Body::new(body));
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = headers;
    answer
}

/// Whether `account` may do what `attributes` (of a SelfSubjectAccessReview) say.
pub(super) async fn may(
    client: &Client,
    account: &Account,
    attributes: &Value,
) -> Result<bool, Refusal> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": { "resourceAttributes": attributes },
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let mut request = http::Request::builder().method(Method::POST).uri(path);
    if let Some(headers) = request.headers_mut() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        impersonate(account, headers);
    }
    let request = request
        .body(review.to_string().into_bytes())
        .map_err(|_| Refusal::bad("the question cannot be asked"))?;
    let answer = tokio::time::timeout(ANSWER, client.request::<Value>(request)).await;
    match answer {
        Ok(Ok(answer)) => Ok(answer["status"]["allowed"] == true),
        Ok(Err(error)) => Err(Refusal::unavailable(&error)),
        Err(error) => Err(Refusal::unavailable(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::{allowed, log_of, only_tries};

    #[test]
    fn the_log_of_an_app_is_known_by_its_path() {
        let path = "/apis/berth.dev/v1/namespaces/a/apps/shop/log";
        assert_eq!(log_of(path), Some(("a", "shop")));
        for other in
            ["/apis/berth.dev/v1/namespaces/a/apps/shop", "/api/v1/namespaces/a/pods/b/log"]
        {
            assert_eq!(log_of(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_done_is_not_written_down_as_tried() {
        assert!(only_tries("fieldValidation=Strict&dryRun=All"));
        for done in ["", "dryRun=", "dryRun=&dryRun=All", "dry%52un=&dryRun=All", "x=dryRun=All"] {
            assert!(!only_tries(done), "{done}");
        }
    }

    #[test]
    fn paths_of_the_api_pass_and_tricks_do_not() {
        for path in ["/k8s/api/v1/pods", "/k8s/apis/apps/v1/namespaces/a/deployments/b.c"] {
            assert_eq!(allowed(path).unwrap(), &path[4..]);
        }
        for path in [
            "/k8s/",
            "/k8s/api/../metrics",
            "/k8s/api/%2e%2e/metrics",
            "/k8s/api//v1",
            "/k8s//evil.example/api",
            "/k8s/metrics",
            "/k8s/debug/pprof",
            "/k8s/api/v1/namespaces/a/pods/b/proxy/",
            "/k8s/api/v1/namespaces/a/services/b/proxy",
            "/k8s/api/v1/nodes/n/proxy/run",
            "/k8s/api/v1/pods\\..\\x",
            "/k8s/api/v1/pods;a=b",
        ] {
            assert!(allowed(path).is_err(), "{path}");
        }
    }
}
