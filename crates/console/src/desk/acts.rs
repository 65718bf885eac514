//! `GET /acts`: what people changed from here, for those who may `get` `acts` of `berth.dev`.

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::visitor::Visitor;
use super::{Desk, Refusal, cluster};
use crate::acts::Filter;

/// The newest first, as JSON.
pub(super) async fn list(
    State(desk): State<Desk>,
    visitor: Visitor,
    Query(filter): Query<Filter>,
) -> Result<Response, Refusal> {
    let attributes = json!({ "verb": "get", "group": "berth.dev", "resource": "acts" });
    if !cluster::may(&desk.client, visitor.account(), &attributes).await? {
        return Err(Refusal::forbidden("needs the verb get on acts of berth.dev"));
    }
    let items = desk.acts.list(&filter).await.map_err(|error| Refusal::unavailable(&error))?;
    Ok(Json(json!({ "items": items })).into_response())
}
