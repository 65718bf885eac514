//! `GET /scalings?namespace&app`: when the App was given other replicas, for those who may see it.

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::visitor::Visitor;
use super::{Desk, Refusal, cluster};

#[derive(Deserialize)]
pub(super) struct Wanted {
    namespace: String,
    app: String,
}

pub(super) async fn list(
    State(desk): State<Desk>,
    visitor: Visitor,
    Query(Wanted { namespace, app }): Query<Wanted>,
) -> Result<Response, Refusal> {
    let attributes = json!({
        "verb": "get", "group": "berth.dev", "resource": "apps",
        "namespace": namespace, "name": app,
    });
    if namespace.is_empty() || !cluster::may(&desk.client, visitor.account(), &attributes).await? {
        return Err(Refusal::forbidden("needs the verb get on the App"));
    }
    let items = desk.scalings.list(&namespace, &app).await;
    let items = items.map_err(|error| Refusal::unavailable(&error))?;
    Ok(Json(json!({ "items": items })).into_response())
}
