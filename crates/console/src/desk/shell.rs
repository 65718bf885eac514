//! `/shell`: a terminal in a container. `/shells`: those that are open, and those that were recorded.
//!
//! | request | |
//! | --- | --- |
//! | `GET /shell?namespace&pod&container&command…&image&profile&columns&rows` | a WebSocket: binary messages are keys one way and what is shown the other; text messages say `{"resize": {columns, rows}}` one way and `opened`, `waiting`, `ended` the other |
//! | `GET /shell/about` | `{"image"}` that is offered for a container to look into a pod, or null |
//! | `GET /shells?account&namespace&live&before` | sessions |
//! | `GET /shells/commands?text&account&namespace&shell&before` | commands that were typed |
//! | `GET /shells/{id}` | one session |
//! | `GET /shells/{id}/recording` | an asciicast |
//! | `DELETE /shells/{id}` | cuts it off |
//!
//! A person sees and ends their own sessions; those of others take the verb `get` or `delete` on
//! `shells` of `berth.dev`.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::visitor::{Visitor, same};
use super::{Desk, Refusal, cluster};
use crate::accounts::Account;
use crate::acts::Act;
use crate::database::now;
use crate::shell::{Entry, Filter, Record, Rights, Wanted};

/// The WebSocket's protocol; the session's second secret comes beside it, as `csrf.SECRET`: a page
/// cannot give a WebSocket headers of its own.
const PROTOCOL: &str = "berth.shell";
const SECRET: &str = "csrf.";

/// `GET /shell/about`
pub(super) async fn about(State(desk): State<Desk>, _visitor: Visitor) -> Json<Value> {
    Json(json!({ "image": desk.debug_image }))
}

/// `GET /shell`
pub(super) async fn open(
    State(desk): State<Desk>,
    visitor: Visitor,
    Query(parameters): Query<Vec<(String, String)>>,
    mut request: Request,
) -> Result<Response, Refusal> {
    let headers = request.headers();
    let shown = offered(headers).find_map(|offer| offer.strip_prefix(SECRET)).unwrap_or_default();
    if !same(shown.as_bytes(), visitor.session.csrf.as_bytes()) {
        return Err(Refusal::forbidden("the page that asks is none of this console's"));
    }
    let accept = accept(headers)?;
    let wanted = Wanted::of(parameters).map_err(|error| Refusal::bad(error.to_string()))?;
    let rights = Held {
        desk: desk.clone(),
        account: visitor.account().clone(),
        session: visitor.session.id.clone(),
        namespace: wanted.namespace.clone(),
    };
    let browser = request
        .extensions_mut()
        .remove::<OnUpgrade>()
        .ok_or_else(|| Refusal::bad("this connection cannot become a WebSocket"))?;
    let mut as_person = HeaderMap::new();
    visitor.impersonate(&mut as_person);
    let entry = Entry {
        account: visitor.account().clone(),
        address: visitor.address,
        wanted,
        acts: desk.acts.clone(),
        headers: as_person,
    };
    let opened = desk.shells.open(browser, entry, rights);
    opened.map_err(|error| Refusal::later(10, error.to_string()))?;
    let mut answer = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    super::login::renew(&visitor, &mut answer);
    Ok(answer)
}

/// The protocols that the browser offers.
fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .into_iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}

/// The server's half of a WebSocket's handshake (RFC 6455 §4.2).
fn accept(headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let is = |name, value: &str| {
        let line = headers.get(name).and_then(|line: &HeaderValue| line.to_str().ok());
        line.unwrap_or_default().split(',').any(|word| word.trim().eq_ignore_ascii_case(value))
    };
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let asks = is(header::UPGRADE, "websocket")
        && is(header::CONNECTION, "upgrade")
        && is(header::SEC_WEBSOCKET_VERSION, "13")
        && offered(headers).any(|offer| offer == PROTOCOL);
    match key {
        Some(key) if asks => HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
            .map_err(|_| Refusal::bad("the WebSocket's key is none")),
        _ => Err(Refusal::bad(format!("this is a WebSocket of the protocol {PROTOCOL}"))),
    }
}

/// The person's log-in, and their right to `pods/exec` in the namespace.
struct Held {
    desk: Desk,
    account: Account,
    session: String,
    namespace: String,
}

impl Rights for Held {
    async fn hold(&self) -> bool {
        // A database or an API server that is away takes nobody's rights.
        if matches!(self.desk.sessions.is_alive(&self.session).await, Ok(false)) {
            return false;
        }
        for (verb, subresource) in [("create", "exec"), ("get", "exec"), ("create", "attach")] {
            let attributes = json!({
                "verb": verb, "resource": "pods", "subresource": subresource,
                "namespace": self.namespace,
            });
            match cluster::may(&self.desk.client, &self.account, &attributes).await {
                Ok(false) => {}
                Ok(true) | Err(_) => return true,
            }
        }
        false
    }
}

/// `GET /shells`
pub(super) async fn list(
    State(desk): State<Desk>,
    visitor: Visitor,
    Query(mut filter): Query<Filter>,
) -> Result<Json<Value>, Refusal> {
    let all = of_others(&desk, &visitor, "get").await?;
    if !all {
        filter.account = visitor.account().name.clone();
    }
    let items = desk.shells.records.list(&filter).await;
    let items = items.map_err(|error| Refusal::unavailable(&error))?;
    Ok(Json(json!({ "items": items, "all": all })))
}

/// `GET /shells/commands`
pub(super) async fn commands(
    State(desk): State<Desk>,
    visitor: Visitor,
    Query(mut filter): Query<Filter>,
) -> Result<Json<Value>, Refusal> {
    if !of_others(&desk, &visitor, "get").await? {
        filter.account = visitor.account().name.clone();
    }
    let items = desk.shells.records.commands(&filter).await;
    let items = items.map_err(|error| Refusal::unavailable(&error))?;
    Ok(Json(json!({ "items": items })))
}

/// `GET /shells/{id}`
pub(super) async fn show(
    State(desk): State<Desk>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Json<Record>, Refusal> {
    Ok(Json(find(&desk, &visitor, &id, "get").await?))
}

/// `GET /shells/{id}/recording`
pub(super) async fn recording(
    State(desk): State<Desk>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    find(&desk, &visitor, &id, "get").await?;
    let text = desk.shells.records.recording(&id).await;
    let text = text.map_err(|error| Refusal::unavailable(&error))?;
    let mut answer = Response::new(Body::from(text));
    let kind = HeaderValue::from_static("application/x-asciicast");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(answer)
}

/// `DELETE /shells/{id}`
pub(super) async fn cut(
    State(desk): State<Desk>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let record = find(&desk, &visitor, &id, "delete").await?;
    let by = &visitor.account().name;
    let cut = desk.shells.cut(&id, by).await.map_err(|error| Refusal::unavailable(&error))?;
    let act = Act {
        at: now(),
        account: by.clone(),
        address: visitor.address.to_string(),
        verb: "cut".to_owned(),
        path: format!("/shells/{id} of {}", record.account),
        status: if cut { 200 } else { 409 },
        milliseconds: 0,
    };
    desk.acts.keep(act).await;
    if cut {
        Ok(Json(json!({})))
    } else {
        Err(Refusal::new(StatusCode::CONFLICT, "Conflict", "the session has ended"))
    }
}

/// The session, when it is the person's own or one that they may `verb`; else as if it were none.
async fn find(desk: &Desk, visitor: &Visitor, id: &str, verb: &str) -> Result<Record, Refusal> {
    let found = desk.shells.records.find(id).await;
    let found = found.map_err(|error| Refusal::unavailable(&error))?;
    let absent = || Refusal::new(StatusCode::NOT_FOUND, "NotFound", "there is no such session");
    let record = found.ok_or_else(absent)?;
    if record.account != visitor.account().name && !of_others(desk, visitor, verb).await? {
        return Err(absent());
    }
    Ok(record)
}

async fn of_others(desk: &Desk, visitor: &Visitor, verb: &str) -> Result<bool, Refusal> {
    let attributes = json!({ "verb": verb, "group": "berth.dev", "resource": "shells" });
    cluster::may(&desk.client, visitor.account(), &attributes).await
}
