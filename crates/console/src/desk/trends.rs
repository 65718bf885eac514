//! `GET /trends?namespace&app&since`: what an App's instances use and answer, for those who may
//! list what pods of the namespace use. `GET /usage/minutes`: what all pods together do, for those
//! who may list what nodes use.

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::visitor::Visitor;
use super::{Desk, Refusal, cluster};
use crate::trends::EVERY;

#[derive(Deserialize)]
pub(super) struct Wanted {
    namespace: String,
    app: String,
    /// Milliseconds since 1970.
    #[serde(default)]
    since: i64,
}

pub(super) async fn of_app(
    State(desk): State<Desk>,
    visitor: Visitor,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Refusal> {
    let plain = |text: &str| {
        let byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        (1..=253).contains(&text.len()) && text.bytes().all(byte)
    };
    if !plain(&wanted.namespace) || !plain(&wanted.app) {
        return Err(Refusal::bad("namespace and app are names"));
    }
    measured(&desk, &visitor, "pods", &wanted.namespace).await?;
    let points = desk.trends.of(&wanted.namespace, &wanted.app, wanted.since);
    Ok(Json(json!({ "everyMs": EVERY.as_millis(), "points": points })).into_response())
}

pub(super) async fn of_cluster(
    State(desk): State<Desk>,
    visitor: Visitor,
) -> Result<Response, Refusal> {
    measured(&desk, &visitor, "nodes", "").await?;
    let minutes = desk.usage.minutes().await.map_err(|error| Refusal::unavailable(&error))?;
    Ok(Json(json!({ "items": minutes })).into_response())
}

/// Whether the visitor may list what `resource` uses in the namespace, or everywhere.
pub(super) async fn measured(
    desk: &Desk,
    visitor: &Visitor,
    resource: &str,
    namespace: &str,
) -> Result<(), Refusal> {
    let attributes = json!({
        "verb": "list", "group": "metrics.k8s.io", "resource": resource, "namespace": namespace,
    });
    if cluster::may(&desk.client, visitor.account(), &attributes).await? {
        return Ok(());
    }
    Err(Refusal::forbidden(format!("needs the verb list on {resource} of metrics.k8s.io")))
}
