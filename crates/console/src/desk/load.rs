//! `GET /load/nodes`: what nodes have, what is asked of them and used, for those who may list what
//! nodes use. `GET /load/apps?namespace`: the same of Apps, for those who may list what pods use.

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::trends::measured;
use super::visitor::Visitor;
use super::{Desk, Refusal};

#[derive(Deserialize)]
pub(super) struct Wanted {
    /// Empty: of all.
    #[serde(default)]
    namespace: String,
}

pub(super) async fn nodes(State(desk): State<Desk>, visitor: Visitor) -> Result<Response, Refusal> {
    measured(&desk, &visitor, "nodes", "").await?;
    let load = desk.usage.load(&desk.client).await.map_err(|error| Refusal::unavailable(&error))?;
    Ok(Json(json!({ "at": load.at, "items": load.nodes })).into_response())
}

pub(super) async fn apps(
    State(desk): State<Desk>,
    visitor: Visitor,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Refusal> {
    measured(&desk, &visitor, "pods", &wanted.namespace).await?;
    let load = desk.usage.load(&desk.client).await.map_err(|error| Refusal::unavailable(&error))?;
    let own = |namespace: &str| wanted.namespace.is_empty() || wanted.namespace == namespace;
    let items: Vec<_> = load.apps.iter().filter(|app| own(&app.namespace)).collect();
    Ok(Json(json!({ "at": load.at, "items": items })).into_response())
}
