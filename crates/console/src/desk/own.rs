//! `/own`: one's own password, sessions and service tokens.

use std::time::Instant;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::visitor::Visitor;
use super::{Desk, Refusal, login};
use crate::accounts::AccountError;
use crate::acts::Act;
use crate::database::now;

/// `GET /own`
pub(super) async fn show(State(desk): State<Desk>, visitor: Visitor) -> Result<Response, Refusal> {
    let name = &visitor.account().name;
    let account = desk.accounts.find(name).await.map_err(|error| Refusal::unavailable(&error))?;
    let sessions = desk.sessions.list(name).await.map_err(|error| Refusal::unavailable(&error))?;
    let tokens = desk.tokens.list_of(name).await.map_err(|error| Refusal::unavailable(&error))?;
    let sessions: Vec<Value> = sessions
        .iter()
        .map(|one| json!({ "session": one, "here": one.id == visitor.session.id }))
        .collect();
    let body = json!({ "account": account, "sessions": sessions, "tokens": tokens });
    let mut answer = Json(body).into_response();
    login::renew(&visitor, &mut answer);
    Ok(answer)
}

#[derive(Deserialize)]
pub(super) struct Passwords {
    old: String,
    new: String,
}

/// `POST /own/password`: who knows the old one chooses another; what else is logged in is logged out.
pub(super) async fn set_password(
    State(desk): State<Desk>,
    visitor: Visitor,
    Json(Passwords { old, new }): Json<Passwords>,
) -> Result<Response, Refusal> {
    let (name, address) = (&visitor.account().name, visitor.address);
    desk.throttle.allow(name, address, Instant::now()).map_err(login::too_soon)?;
    let done = desk.accounts.replace_password(name, &old, &new, &visitor.session.id).await;
    let done = match done {
        Ok(()) => {
            desk.throttle.succeeded(name, address);
            Ok(())
        }
        Err(AccountError::Refused) => {
            // A browser that was left open is no place to guess at.
            desk.throttle.failed(name, address, Instant::now());
            Err(Refusal::forbidden("the password that you have is another one"))
        }
        Err(error) => Err(refusal(&error)),
    };
    keep(&desk, &visitor, "password", "/own/password", &done).await;
    done?;
    let mut answer = Json(json!({})).into_response();
    login::renew(&visitor, &mut answer);
    Ok(answer)
}

/// `DELETE /own/sessions/ID`
pub(super) async fn end_session(
    State(desk): State<Desk>,
    Path(id): Path<String>,
    visitor: Visitor,
) -> Result<Response, Refusal> {
    let ended = desk.sessions.end_own(&visitor.account().name, &id).await;
    let done = match ended.map_err(|error| Refusal::unavailable(&error))? {
        true => Ok(()),
        false => Err(Refusal::new(StatusCode::NOT_FOUND, "NotFound", "you have no such session")),
    };
    keep(&desk, &visitor, "logout", "/own/sessions", &done).await;
    done?;
    let mut answer = Json(json!({})).into_response();
    login::renew(&visitor, &mut answer);
    Ok(answer)
}

/// Writes down what somebody did, or was refused.
pub(super) async fn keep(
    desk: &Desk,
    visitor: &Visitor,
    verb: &str,
    path: &str,
    done: &Result<(), Refusal>,
) {
    let act = Act {
        at: now(),
        account: visitor.who(),
        address: visitor.address.to_string(),
        verb: verb.to_owned(),
        path: path.to_owned(),
        status: done.as_ref().map_or_else(|refusal| refusal.status, |()| StatusCode::OK).as_u16(),
        milliseconds: 0,
    };
    desk.acts.keep(act).await;
}

pub(super) fn refusal(error: &AccountError) -> Refusal {
    match error {
        AccountError::Database(error) => Refusal::unavailable(error),
        AccountError::Busy => Refusal::later(2, "too much at once"),
        AccountError::Absent(_) => {
            Refusal::new(StatusCode::NOT_FOUND, "NotFound", error.to_string())
        }
        AccountError::Provider(_) => {
            Refusal::new(StatusCode::CONFLICT, "Conflict", error.to_string())
        }
        _ => Refusal::bad(error.to_string()),
    }
}
