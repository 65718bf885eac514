//! `GET /live?path=/api/v1/pods`: server-sent events that keep a table as the cluster is.
//!
//! | event | data |
//! | --- | --- |
//! | `columns` | `[{name, type, format, priority, description}]`; the table begins anew |
//! | `rows` | `[{namespace, name, uid, created, ending, labels, notes, cells}]`: there, or changed |
//! | `gone` | `[[namespace, name]]` |
//! | `ready` | all that was there has come |
//! | `away` | the API server is: what was shown is what was last known, until `columns` comes |
//!
//! Whether the person may list is asked of the API server when the stream begins and every minute;
//! a session that has ended ends its streams then too.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::Response;
use bytes::Bytes;
use futures::Stream;
use http::{StatusCode, header};
use kube::Client;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::visitor::{Visitor, impersonate};
use super::{Desk, Refusal};
use crate::accounts::Account;
use crate::feed::{FeedError, Subscription};

const CHECK_EVERY: Duration = Duration::from_secs(60);
const CHECK: Duration = Duration::from_secs(10);
/// Frames that wait for a slow browser; then it waits for nobody and gets the table anew.
const AHEAD: usize = 4;

#[derive(Deserialize)]
pub(super) struct Wanted {
    path: String,
}

pub(super) async fn follow(
    State(desk): State<Desk>,
    visitor: Visitor,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Refusal> {
    let status = probe(&desk.client, visitor.account(), &wanted.path).await?;
    if !status.is_success() {
        let name = &visitor.account().name;
        let message = format!("{name} may not list {:.200}", wanted.path);
        return Err(Refusal::new(status, "Forbidden", message));
    }
    let subscription = desk.feeds.subscribe(&wanted.path).map_err(|error| match error {
        FeedError::Path => Refusal::bad("path is none of a list"),
        FeedError::Many => Refusal::later(10, "too many different tables are open"),
    })?;
    let stream = frames(desk, visitor, wanted.path, subscription);
    let mut answer = Response::new(Body::from_stream(stream));
    let kind = http::HeaderValue::from_static("text/event-stream");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(answer)
}

fn frames(
    desk: Desk,
    visitor: Visitor,
    path: String,
    mut subscription: Subscription,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let (send, receive) = mpsc::channel(AHEAD);
    let tasks = desk.feeds.tasks().clone();
    tasks.spawn_until_stop("console live", async move {
        let mut check = tokio::time::interval(CHECK_EVERY);
        check.tick().await;
        loop {
            tokio::select! {
                frame = subscription.next() => {
                    let Some(frame) = frame else { return };
                    if send.send(Ok(frame)).await.is_err() {
                        return;
                    }
                }
                () = send.closed() => return,
                _ = check.tick() => {
                    // Nothing passes for a minute: the proxy in between must not think it dead.
                    let alive = Bytes::from_static(b": here\n\n");
                    let allowed = probe(&desk.client, visitor.account(), &path).await;
                    // An API server that is away takes nobody's rights.
                    let refused = allowed.is_ok_and(|status| status == StatusCode::FORBIDDEN);
                    if refused || has_ended(&desk, &visitor).await || send.send(Ok(alive)).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    ReceiverStream::new(receive)
}

/// A database that is away ends nobody's session.
async fn has_ended(desk: &Desk, visitor: &Visitor) -> bool {
    let Some(id) = visitor.session_id() else { return false };
    matches!(desk.sessions.is_alive(id).await, Ok(false))
}

/// What the API server says to `account` listing one object at `path`.
async fn probe(client: &Client, account: &Account, path: &str) -> Result<StatusCode, Refusal> {
    if !crate::feed::is_list(path) {
        return Err(Refusal::bad("path is none of a list"));
    }
    let mut request = http::Request::get(format!("{path}?limit=1"));
    if let Some(headers) = request.headers_mut() {
        let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
        headers.insert(header::ACCEPT, http::HeaderValue::from_static(accept));
        impersonate(account, headers);
    }
    let request = request
        .body(kube::client::Body::empty())
        .map_err(|_| Refusal::bad("path is none of a list"))?;
    match tokio::time::timeout(CHECK, client.send(request)).await {
        Ok(Ok(answer)) => Ok(answer.status()),
        Ok(Err(error)) => Err(Refusal::unavailable(&error)),
        Err(error) => Err(Refusal::unavailable(&error)),
    }
}
