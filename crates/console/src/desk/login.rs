//! `/session`: who I am, logging in, logging out.

use std::time::Instant;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::json;

use super::visitor::{Visitor, address, same_site, set_cookie};
use super::{Desk, Refusal};
use crate::accounts::{AccountError, SessionError, Wait};
use crate::acts::Act;
use crate::database::now;

/// A name and a password.
const BODY: usize = 4096;

#[derive(Deserialize)]
struct Credentials {
    name: String,
    password: String,
}

/// `GET /session`
pub(super) async fn show(visitor: Visitor) -> Response {
    let account = visitor.account();
    let body = json!({
        "name": account.name, "groups": account.groups, "csrf": visitor.session.csrf,
    });
    let mut answer = Json(body).into_response();
    renew(&visitor, &mut answer);
    answer
}

/// `POST /session`, JSON alone: a foreign page's form cannot send it.
pub(super) async fn log_in(
    State(desk): State<Desk>,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    same_site(&parts.headers)?;
    if parts.headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        let message = "name and password come as application/json";
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            message,
        ));
    }
    let body = axum::body::to_bytes(body, BODY).await.map_err(|_| Refusal::bad("too long"))?;
    let given: Credentials =
        serde_json::from_slice(&body).map_err(|_| Refusal::bad("no name and password"))?;
    let address = address(&parts);
    desk.throttle.allow(&given.name, address, Instant::now()).map_err(too_soon)?;
    let act = |status| Act {
        at: now(),
        account: given.name.chars().take(64).collect(),
        address: address.to_string(),
        verb: "login".to_owned(),
        path: "/session".to_owned(),
        status,
        milliseconds: 0,
    };
    let account = match desk.accounts.check(&given.name, &given.password).await {
        Ok(account) => account,
        Err(AccountError::Busy) => return Err(Refusal::later(2, "too many log-ins at once")),
        Err(AccountError::Database(error)) => return Err(Refusal::unavailable(&error)),
        Err(_) => {
            desk.throttle.failed(&given.name, address, Instant::now());
            desk.acts.keep(act(401)).await;
            let message = "name or password is wrong";
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized", message));
        }
    };
    desk.throttle.succeeded(&given.name, address);
    let started =
        desk.sessions.start(&account.name, address).await.map_err(|error| failed(&error))?;
    desk.acts.keep(act(200)).await;
    let body = json!({ "name": account.name, "groups": account.groups, "csrf": started.csrf });
    let mut answer = Json(body).into_response();
    answer.headers_mut().insert(header::SET_COOKIE, set_cookie(&started.token));
    Ok(answer)
}

/// `DELETE /session`
pub(super) async fn log_out(
    State(desk): State<Desk>,
    visitor: Visitor,
) -> Result<Response, Refusal> {
    desk.sessions.end(&visitor.session.id).await.map_err(|error| failed(&error))?;
    let act = Act {
        at: now(),
        account: visitor.account().name.clone(),
        address: visitor.address.to_string(),
        verb: "logout".to_owned(),
        path: "/session".to_owned(),
        status: 200,
        milliseconds: 0,
    };
    desk.acts.keep(act).await;
    Ok(([(header::SET_COOKIE, set_cookie(""))], Json(json!({}))).into_response())
}

pub(super) fn too_soon(wait: Wait) -> Refusal {
    let seconds = wait.0.as_secs() + 1;
    Refusal::later(seconds, format!("too many wrong passwords; try again in {seconds} s"))
}

/// Gives the browser the cookie's next value, when there is one.
pub(super) fn renew(visitor: &Visitor, answer: &mut Response) {
    if let Some(token) = &visitor.session.renewed {
        answer.headers_mut().insert(header::SET_COOKIE, set_cookie(token));
    }
}

fn failed(error: &SessionError) -> Refusal {
    Refusal::unavailable(error)
}
