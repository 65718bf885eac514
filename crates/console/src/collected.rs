//! An App's log directories on a Kubernetes that is not ours: there no API serves `apps/log`, and
//! collectors keep what was written. The words are `berth_api::app::logs::collector`'s.

use std::time::Duration;

use berth_api::app::logs::collector::{TOKEN_HEADER, log_path, token_path, token_request};
use berth_api::names;
use futures::TryStreamExt;
use futures::io::AsyncBufRead;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use k8s_openapi::api::authentication::v1::TokenRequest;
use kube::Client;
use kube::client::Body;

/// To the head of each of the two answers.
const ANSWER: Duration = Duration::from_secs(30);

/// Collectors that are asked before it is given up.
const TRIES: u32 = 3;

/// What came of it.
#[derive(Debug)]
pub enum Collected {
    /// The collectors' answer, whatever it is.
    Answer(Box<http::Response<Body>>),
    /// Nothing was ever collected in the namespace, or nobody collects.
    Nothing,
    /// The API server refuses.
    Refused(StatusCode),
}

/// Asks for the log of `app`, with the options of container logs in `query`. `sign` puts on each
/// request who asks, where that is not the client's own user.
///
/// # Errors
/// When nobody answers.
pub async fn ask(
    client: &Client,
    namespace: &str,
    app: &str,
    query: &str,
    sign: impl Fn(&mut HeaderMap),
) -> kube::Result<Collected> {
    if names::dns_label(namespace).is_err() || names::dns_label(app).is_err() {
        return Ok(Collected::Nothing);
    }
    let text = token_request().to_string();
    let mut request = http::Request::post(token_path(namespace))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(text.into_bytes()))
        .map_err(kube::Error::HttpError)?;
    sign(request.headers_mut());
    let answer = send(client, request).await?;
    let token = match answer.status() {
        StatusCode::NOT_FOUND => return Ok(Collected::Nothing),
        status if !status.is_success() => return Ok(Collected::Refused(status)),
        _ => {
            let bytes = answer.into_body().collect_bytes().await?;
            let given: TokenRequest =
                serde_json::from_slice(&bytes).map_err(kube::Error::SerdeError)?;
            given.status.and_then(|status| status.token).unwrap_or_default()
        }
    };
    let mut token = HeaderValue::from_str(&token).unwrap_or(HeaderValue::from_static(""));
    token.set_sensitive(true);
    let mut tries = TRIES;
    loop {
        let mut request = http::Request::get(log_path(namespace, app, query))
            .header(TOKEN_HEADER, &token)
            .body(Body::empty())
            .map_err(kube::Error::HttpError)?;
        sign(request.headers_mut());
        let answer = send(client, request).await?;
        tries -= 1;
        // The one that was chosen is gone; there may be another.
        if tries > 0 && answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            continue;
        }
        return Ok(Collected::Answer(Box::new(answer)));
    }
}

/// What an answer holds, as it comes.
pub fn reader(answer: http::Response<Body>) -> impl AsyncBufRead + Send + use<> {
    answer.into_body().into_data_stream().map_err(std::io::Error::other).into_async_read()
}

async fn send(client: &Client, request: http::Request<Body>) -> kube::Result<http::Response<Body>> {
    match tokio::time::timeout(ANSWER, client.send(request)).await {
        Ok(answer) => answer,
        Err(late) => Err(kube::Error::Service(late.into())),
    }
}
