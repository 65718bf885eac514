//! `GET /acts?account&path&verb&namespace&from&to&before&format`: what people changed from here, for
//! those who may `get` `acts` of `berth.dev`: a page as JSON, or all of them as CSV.

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{HeaderValue, header};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::visitor::Visitor;
use super::{Desk, Refusal, cluster};
use crate::acts::{Acts, Filter, Kept};
use crate::database::DatabaseError;

const HEAD: &str = "at,account,address,verb,path,status,milliseconds\r\n";

#[derive(Deserialize)]
pub(super) struct Form {
    #[serde(default)]
    format: String,
}

/// The newest first.
pub(super) async fn list(
    State(desk): State<Desk>,
    visitor: Visitor,
    Query(filter): Query<Filter>,
    Query(form): Query<Form>,
) -> Result<Response, Refusal> {
    let attributes = json!({ "verb": "get", "group": "berth.dev", "resource": "acts" });
    if !cluster::may(&desk.client, visitor.account(), &attributes).await? {
        return Err(Refusal::forbidden("needs the verb get on acts of berth.dev"));
    }
    let items = desk.acts.list(&filter).await.map_err(|error| Refusal::unavailable(&error))?;
    if form.format != "csv" {
        return Ok(Json(json!({ "items": items })).into_response());
    }
    let mut answer = Body::from_stream(sheet(desk.acts, filter, items)).into_response();
    let mut set = |name, value| answer.headers_mut().insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_TYPE, "text/csv; charset=utf-8");
    set(header::CONTENT_DISPOSITION, "attachment; filename=\"berth-audit.csv\"");
    Ok(answer)
}

/// All that `filter` finds, beginning with `first`: a page is read when the one before was taken.
fn sheet(
    acts: Acts,
    filter: Filter,
    first: Vec<Kept>,
) -> impl Stream<Item = Result<Bytes, DatabaseError>> {
    let rows = stream::try_unfold((acts, filter, Some(first)), async |(acts, mut filter, page)| {
        let page = match page {
            Some(page) => page,
            None => acts.list(&filter).await?,
        };
        let Some(last) = page.last() else { return Ok(None) };
        filter.before.clone_from(&last.id);
        let text: String = page.iter().map(line).collect();
        // A page that is not full is the last.
        let whole = page.len() as i64 >= Acts::PAGE;
        Ok(Some((Bytes::from(text), (acts, filter, if whole { None } else { Some(Vec::new()) }))))
    });
    stream::once(async { Ok(Bytes::from_static(HEAD.as_bytes())) }).chain(rows)
}

fn line(act: &Kept) -> String {
    let at = Timestamp::from_millisecond(act.at).map(|at| at.to_string()).unwrap_or_default();
    let [account, address, verb, path] =
        [&act.account, &act.address, &act.verb, &act.path].map(|text| field(text));
    let (status, milliseconds) = (act.status, act.milliseconds);
    format!("{at},{account},{address},{verb},{path},{status},{milliseconds}\r\n")
}

/// RFC 4180; what a spreadsheet would take for a formula is told to be text.
fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains(['"', ',', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn a_field_is_one_field_and_no_formula() {
        for (given, wanted) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("=1+1", "'=1+1"),
            ("@a,b", "\"'@a,b\""),
        ] {
            assert_eq!(field(given), wanted);
        }
    }
}
