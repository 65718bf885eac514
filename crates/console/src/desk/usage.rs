//! `GET /usage?by&namespace&from&to&format`: what was asked for and used, as JSON or as CSV, for
//! those who may `get` `usage` of `berth.dev`: in the namespace that is asked about, or everywhere.

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use serde::Deserialize;
use serde_json::json;

use super::visitor::Visitor;
use super::{Desk, Refusal, cluster};
use crate::usage::{Period, csv};

#[derive(Deserialize)]
pub(super) struct Form {
    #[serde(default)]
    format: String,
}

pub(super) async fn report(
    State(desk): State<Desk>,
    visitor: Visitor,
    Query(period): Query<Period>,
    Query(form): Query<Form>,
) -> Result<Response, Refusal> {
    let attributes = json!({
        "verb": "get", "group": "berth.dev", "resource": "usage", "namespace": period.namespace,
    });
    if !cluster::may(&desk.client, visitor.account(), &attributes).await? {
        return Err(Refusal::forbidden("needs the verb get on usage of berth.dev"));
    }
    let rows = desk.usage.report(&period).await.map_err(|error| Refusal::unavailable(&error))?;
    if form.format != "csv" {
        return Ok(Json(json!({ "items": rows })).into_response());
    }
    let mut answer = csv(&rows).into_response();
    let mut set = |name, value| answer.headers_mut().insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_TYPE, "text/csv; charset=utf-8");
    set(header::CONTENT_DISPOSITION, "attachment; filename=\"berth-usage.csv\"");
    Ok(answer)
}
