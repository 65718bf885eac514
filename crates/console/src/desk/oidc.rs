//! `/oidc`: to the provider, and back from it.

use axum::Json;
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::visitor::{address, set_cookie};
use super::{Desk, Refusal};
use crate::accounts::AccountError;
use crate::acts::Act;
use crate::database::now;
use crate::oidc::{OidcError, PENDING, Provider};

/// What the browser keeps until it comes back. `Lax`: it comes from the provider's page.
const COOKIE: &str = "__Host-berth-oidc";

#[derive(Deserialize)]
pub(super) struct Back {
    #[serde(default)]
    code: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    error: String,
}

fn provider(desk: &Desk) -> Result<&Provider, Refusal> {
    let absent = || Refusal::new(StatusCode::NOT_FOUND, "NotFound", "there is no provider");
    desk.provider.as_ref().ok_or_else(absent)
}

/// `GET /oidc/about`: whether there is one, for the log-in page.
pub(super) async fn about(State(desk): State<Desk>) -> Json<Value> {
    Json(json!({ "issuer": desk.provider.as_ref().map(Provider::issuer) }))
}

/// `GET /oidc`
pub(super) async fn begin(State(desk): State<Desk>) -> Result<Response, Refusal> {
    let (to, state) = provider(&desk)?.begin().await.map_err(|error| refused(&error))?;
    let mut answer = see_other(&to)?;
    answer.headers_mut().append(header::SET_COOKIE, keep(&state, PENDING.as_secs()));
    Ok(answer)
}

/// `GET /oidc/callback`
pub(super) async fn end(
    State(desk): State<Desk>,
    Query(back): Query<Back>,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, _) = request.into_parts();
    let provider = provider(&desk)?;
    if !back.error.is_empty() {
        let message = format!("the provider refuses: {:.100}", back.error);
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized", message));
    }
    let kept = kept(&parts.headers).unwrap_or_default();
    let named = provider.end(&back.code, &back.state, kept).await;
    let named = named.map_err(|error| refused(&error))?;
    let act = |status| Act {
        at: now(),
        account: named.name.chars().take(64).collect(),
        address: address(&parts).to_string(),
        verb: "login".to_owned(),
        path: "/oidc".to_owned(),
        status,
        milliseconds: 0,
    };
    let (issuer, subject) = (provider.issuer(), &named.subject);
    let account = desk.accounts.enter(&named.name, issuer, subject, &named.groups).await;
    let account = match account {
        Ok(account) => account,
        Err(AccountError::Database(error)) => return Err(Refusal::unavailable(&error)),
        Err(error) => {
            desk.acts.keep(act(403)).await;
            return Err(Refusal::forbidden(error.to_string()));
        }
    };
    let started = desk.sessions.start(&account.name, address(&parts)).await;
    let started = started.map_err(|error| Refusal::unavailable(&error))?;
    desk.acts.keep(act(200)).await;
    let mut answer = see_other("/")?;
    answer.headers_mut().append(header::SET_COOKIE, set_cookie(&started.token));
    answer.headers_mut().append(header::SET_COOKIE, keep("", 0));
    Ok(answer)
}

fn refused(error: &OidcError) -> Refusal {
    match error {
        OidcError::State => Refusal::bad(error.to_string()),
        OidcError::Token(_) | OidcError::Name(_) => {
            tracing::warn!(%error, "a log-in through the provider is refused");
            Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized", error.to_string())
        }
        error => Refusal::unavailable(error),
    }
}

fn see_other(to: &str) -> Result<Response, Refusal> {
    let to = HeaderValue::from_str(to).map_err(|_| Refusal::bad("the address is none"))?;
    Ok((StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response())
}

fn keep(state: &str, seconds: u64) -> HeaderValue {
    let cookie =
        format!("{COOKIE}={state}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Lax");
    HeaderValue::from_str(&cookie).expect("states are base64")
}

fn kept(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(header::COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    let mut pairs =
        lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find_map(|(name, value)| (name == COOKIE).then_some(value))
}
