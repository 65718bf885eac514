//! `GET /components`: what the cluster is made of and whether it is well, for whoever is logged in.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Desk;
use super::visitor::Visitor;

pub(super) async fn list(State(desk): State<Desk>, _: Visitor) -> Response {
    let items = desk.components.list().await;
    Json(json!({ "items": &*items })).into_response()
}
