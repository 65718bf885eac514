//! `POST /accounts/requests/NAME`: a request for an account is approved or denied, as who is logged
//! in: the API server says what they may give.

use std::time::Instant;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::visitor::Visitor;
use super::{Desk, Refusal, login};
use crate::accounts::AccountError;
use crate::acts::Act;
use crate::database::now;
use crate::requests::{Approver, Refused, RequestError, causes};

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Decision {
    Approve,
    Deny,
}

#[derive(Deserialize)]
pub(super) struct Decided {
    decision: Decision,
    /// Why, in a sentence; told when it is denied.
    #[serde(default)]
    why: String,
}

pub(super) async fn decide(
    State(desk): State<Desk>,
    Path(name): Path<String>,
    visitor: Visitor,
    Json(Decided { decision, why }): Json<Decided>,
) -> Result<Response, Refusal> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
    if name.len() > 253 || !name.bytes().all(plain) || name.starts_with('.') {
        return Err(Refusal::bad("that is no account request's name"));
    }
    let mut headers = HeaderMap::new();
    visitor.impersonate(&mut headers);
    let account = visitor.account();
    let approver = Approver::new(desk.client.clone(), headers, &account.name, &account.groups);
    let begun = Instant::now();
    let done: Result<Value, RequestError> = match decision {
        Decision::Approve => desk.requests.approve(&approver, &name).await.map(|made| json!(made)),
        Decision::Deny => desk.requests.deny(&approver, &name, &why).await.map(|()| json!({})),
    };
    let done = done.map_err(|error| refusal(&error));
    let act = Act {
        at: now(),
        account: visitor.who(),
        address: visitor.address.to_string(),
        verb: match decision {
            Decision::Approve => "approve".to_owned(),
            Decision::Deny => "deny".to_owned(),
        },
        path: format!("/apis/berth.dev/v1/accountrequests/{name}"),
        status: done.as_ref().map_or_else(|refusal| refusal.status, |_| StatusCode::OK).as_u16(),
        milliseconds: i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX),
    };
    desk.acts.keep(act).await;
    let mut answer = Json(done?).into_response();
    login::renew(&visitor, &mut answer);
    Ok(answer)
}

fn refusal(error: &RequestError) -> Refusal {
    let said = causes(error);
    match error {
        RequestError::NotYours(_)
        | RequestError::Refused(Refused::Group(_) | Refused::HasRights(_)) => {
            Refusal::forbidden(said)
        }
        RequestError::Refused(_) => Refusal::new(StatusCode::CONFLICT, "Conflict", said),
        RequestError::Account(AccountError::Database(error)) => Refusal::unavailable(error),
        RequestError::Account(AccountError::Busy) => Refusal::later(2, "too much at once"),
        RequestError::Account(_) => Refusal::new(StatusCode::CONFLICT, "Conflict", said),
        RequestError::Api { source, .. } => match &**source {
            kube::Error::Api(status) => {
                let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::BAD_GATEWAY);
                let reason = match code {
                    StatusCode::FORBIDDEN => "Forbidden",
                    StatusCode::NOT_FOUND => "NotFound",
                    StatusCode::CONFLICT => "Conflict",
                    _ => "Refused",
                };
                Refusal::new(code, reason, said)
            }
            _ => Refusal::unavailable(error),
        },
    }
}
