//! What browsers ask for, and who may ask.

mod acts;
mod cluster;
mod components;
mod live;
mod load;
mod login;

mod oidc;
mod own;
mod pages;
mod people;
mod requests;
mod scalings;
mod shell;
mod trends;
mod usage;
mod visitor;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post};
use http::{StatusCode, header};
use kube::Client;

use crate::accounts::{Accounts, Sessions, Throttle};
use crate::acts::Acts;
use crate::components::Components;
use crate::feed::Feeds;
use crate::oidc::Provider;
use crate::requests::Requests;
use crate::scalings::Scalings;
use crate::shell::Shells;
use crate::tokens::Tokens;
use crate::trends::Trends;
use crate::usage::Usage;

/// What the API server takes.
const BODY: usize = 3 * 1024 * 1024;

/// What every request can see.
#[derive(Clone)]
pub(crate) struct Desk {
    pub accounts: Accounts,
    pub sessions: Sessions,
    pub throttle: Arc<Throttle>,
    pub acts: Acts,
    pub components: Components,
    pub feeds: Feeds,
    pub shells: Shells,
    pub debug_image: Option<String>,
    pub tokens: Tokens,
    pub provider: Option<Provider>,
    pub usage: Usage,
    pub trends: Trends,
    pub scalings: Scalings,
    pub requests: Requests,
    pub client: Client,
}

pub(crate) fn routes(desk: Desk) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/session", get(login::show).post(login::log_in).delete(login::log_out))
        .route("/live", get(live::follow))
        .route("/acts", get(acts::list))
        .route("/components", get(components::list))
        .route("/load/nodes", get(load::nodes))
        .route("/load/apps", get(load::apps))
        .route("/people", get(people::list))
        .route("/people/{name}", post(people::change))
        .route("/accounts/requests/{name}", post(requests::decide))
        .route("/own", get(own::show))
        .route("/own/password", post(own::set_password))
        .route("/own/sessions/{id}", delete(own::end_session))
        .route("/oidc", get(oidc::begin))
        .route("/oidc/about", get(oidc::about))
        .route("/oidc/callback", get(oidc::end))
        .route("/usage", get(usage::report))
        .route("/usage/minutes", get(trends::of_cluster))
        .route("/trends", get(trends::of_app))
        .route("/scalings", get(scalings::list))
        .route("/shell", get(shell::open))
        .route("/shell/about", get(shell::about))
        .route("/shells", get(shell::list))
        .route("/shells/commands", get(shell::commands))
        .route("/shells/{id}", get(shell::show).delete(shell::cut))
        .route("/shells/{id}/recording", get(shell::recording))
        .route("/k8s/{*path}", any(cluster::pass))
        .fallback(pages::show)
        .layer(DefaultBodyLimit::max(BODY))
        .layer(axum::middleware::map_response(guarded))
        .with_state(desk)
}

/// Whether people can log in; says nothing else to whoever asks.
async fn healthz(State(desk): State<Desk>) -> Result<&'static str, Refusal> {
    desk.accounts.answers().await.map_err(|error| Refusal::unavailable(&error))?;
    Ok("ok")
}

/// What keeps a browser from being tricked, on every answer.
async fn guarded(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    let mut set = |name: header::HeaderName, value: &'static str| {
        headers.entry(name).or_insert(http::HeaderValue::from_static(value));
    };
    // Styles: the component kit sets some on elements. Nothing else may be inline.
    set(
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' \
         data:; font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    );
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    set(header::CACHE_CONTROL, "no-store");
    answer
}

/// A request that is not served, as a `Status` like the API server's.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    reason: &'static str,
    message: String,
    retry: Option<u64>,
}

impl Refusal {
    fn new(status: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into(), retry: None }
    }

    fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "not logged in")
    }

    fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// `error` is written down here; who asked is not told what is inside.
    fn unavailable(error: &dyn std::error::Error) -> Self {
        let causes: Vec<String> = std::iter::successors(Some(error), |error| error.source())
            .map(|e| e.to_string())
            .collect();
        tracing::warn!(error = causes.join(": "), "a request failed");
        let message = "the console cannot reach what it needs; see its log";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    fn later(seconds: u64, message: impl Into<String>) -> Self {
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        Self { retry: Some(seconds), ..refusal }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "apiVersion": "v1", "kind": "Status", "status": "Failure",
            "code": self.status.as_u16(), "reason": self.reason, "message": self.message,
        });
        let mut answer = (self.status, axum::body::Body::from(body.to_string())).into_response();
        let json = http::HeaderValue::from_static("application/json");
        answer.headers_mut().insert(header::CONTENT_TYPE, json);
        if let Some(seconds) = self.retry {
            answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        answer
    }
}
