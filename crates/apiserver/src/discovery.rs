//! Everything that is not about a resource: what there is, how it is, which version.

use std::sync::Arc;

use berth_schema::{discovery, openapi};
use http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use crate::call::Call;
use crate::media::{Format, Shape};
use crate::openapi_protobuf;
use crate::respond::{self, Body};
use crate::server::Core;
use crate::status::Failure;

/// The Kubernetes version whose API this is, and our own.
const GIT_VERSION: &str = concat!("v1.36.0-berth.", env!("CARGO_PKG_VERSION"));

/// Answers a path that is not a resource's.
pub(crate) async fn answer(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Failure> {
    if !matches!(call.method.as_str(), "GET" | "HEAD") {
        return Err(Failure::method_not_allowed());
    }
    let path = call.target.path.trim_end_matches('/');
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [check @ ("healthz" | "livez" | "readyz")] => return Ok(health(core, call, check).await),
        [check @ ("healthz" | "livez" | "readyz"), one] => return part(core, check, one).await,
        ["metrics"] => return Ok(metrics(core)),
        _ => {}
    }
    if let ["openapi", rest @ ..] = parts.as_slice() {
        return document(core, call, rest).ok_or_else(Failure::no_such_path);
    }
    let found = {
        let catalog = core.catalog.read().expect("nothing panics while holding it");
        let aggregated = matches!(call.output.shape, Shape::Discovery(_));
        match parts.as_slice() {
            [] => Some(json!({"paths": paths(&catalog)})),
            ["version"] => Some(version()),
            ["api"] if aggregated => Some(discovery::aggregated(&catalog, true)),
            ["apis"] if aggregated => Some(discovery::aggregated(&catalog, false)),
            ["api"] => Some(discovery::api_versions(&core.settings.advertise.to_string())),
            ["apis"] => Some(discovery::api_groups(&catalog)),
            ["api", version] => discovery::resources(&catalog, "", version),
            ["apis", group] => discovery::group(&catalog, group),
            ["apis", group, version] => discovery::resources(&catalog, group, version),
            [".well-known", "openid-configuration"] => Some(openid(core)),
            ["openid", "v1", "jwks"] => Some(core.signer.jwks()),
            _ => None,
        }
    };
    let found = found.ok_or_else(Failure::no_such_path)?;
    let mut response = respond::value(StatusCode::OK, &found, &call.output);
    if let Shape::Discovery(version) = &call.output.shape
        && matches!(parts.as_slice(), ["api" | "apis"])
    {
        let kind =
            format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        if let Ok(kind) = HeaderValue::from_str(&kind) {
            response.headers_mut().insert(CONTENT_TYPE, kind);
        }
    }
    Ok(response)
}

/// A document that clients keep, and ask for again only when it changed.
fn document(core: &Core, call: &Call, parts: &[&str]) -> Option<Response<Body>> {
    let as_protobuf = parts == ["v2"] && call.output.format == Format::OpenApi;
    let document = {
        let catalog = core.catalog.read().expect("nothing panics while holding it");
        core.documents.get(catalog.changes(), &parts.join("/"), as_protobuf, || match parts {
            ["v2"] => Some(openapi::v2(&catalog)),
            ["v3"] => Some(openapi::v3_index(&catalog)),
            ["v3", "api", version] => openapi::v3(&catalog, "", version),
            ["v3", "apis", group, version] => openapi::v3(&catalog, group, version),
            _ => None,
        })?
    };
    let known = call.headers.get(IF_NONE_MATCH);
    let mut response = if known.is_some_and(|known| known.as_bytes() == document.tag.as_bytes()) {
        let mut response = Response::new(respond::body(""));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else if as_protobuf {
        let mut response = Response::new(respond::body(document.bytes.clone()));
        let kind = HeaderValue::from_static(openapi_protobuf::ANSWERED);
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    } else {
        respond::json(StatusCode::OK, document.bytes.clone(), &call.output)
    };
    if let Ok(tag) = HeaderValue::from_str(&document.tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    Some(response)
}

fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

fn paths(catalog: &berth_schema::Catalog) -> Vec<String> {
    let fixed = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ];
    let mut paths: Vec<String> = fixed.iter().map(|path| (*path).to_owned()).collect();
    for resource in catalog.resources().filter(|resource| !resource.group.is_empty()) {
        paths.push(format!("/apis/{}", resource.group));
        paths.push(format!("/apis/{}/{}", resource.group, resource.version));
    }
    paths.sort();
    paths.dedup();
    paths
}

/// OpenID Connect Discovery 1.0, as far as verifying tokens needs it.
fn openid(core: &Core) -> Value {
    json!({
        "issuer": core.signer.issuer(),
        "jwks_uri": format!("https://{}/openid/v1/jwks", core.settings.advertise),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

fn metrics(core: &Core) -> Response<Body> {
    let mut response = respond::text(
        StatusCode::OK,
        core.metrics.render() + &core.limits.render() + &core.audit.render(),
    );
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The checks of an endpoint: alive means the process answers, ready that it should be asked.
async fn checks(core: &Core, endpoint: &str) -> Vec<(&'static str, bool)> {
    let mut checks = vec![("ping", true), ("store", core.store.revision().await.is_ok())];
    if endpoint != "livez" {
        checks.push(("shutdown", !core.tasks.is_stopping()));
    }
    checks
}

async fn health(core: &Core, call: &Call, endpoint: &str) -> Response<Body> {
    let excluded: Vec<&str> = call.query.all("exclude").collect();
    let mut checks = checks(core, endpoint).await;
    checks.retain(|(name, _)| !excluded.contains(name));
    let fine = checks.iter().all(|(_, fine)| *fine);
    let code = if fine { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    if fine && !call.query.is_on("verbose") {
        return respond::text(code, "ok");
    }
    let mut text = String::new();
    for (name, fine) in checks {
        let line = if fine { format!("[+]{name} ok\n") } else { format!("[-]{name} failed\n") };
        text.push_str(&line);
    }
    let verdict = if fine { "passed" } else { "failed" };
    respond::text(code, format!("{text}{endpoint} check {verdict}\n"))
}

async fn part(core: &Core, endpoint: &str, name: &str) -> Result<Response<Body>, Failure> {
    let checks = checks(core, endpoint).await;
    let found = checks.iter().find(|(own, _)| *own == name);
    match found.ok_or_else(Failure::no_such_path)? {
        (_, true) => Ok(respond::text(StatusCode::OK, "ok")),
        (_, false) => Ok(respond::text(StatusCode::INTERNAL_SERVER_ERROR, "failed")),
    }
}
