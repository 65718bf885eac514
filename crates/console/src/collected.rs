//! What collectors keep and count on a Kubernetes that is not ours: log directories of Apps, for
//! which no API serves `apps/log` there, and load and I/O of containers, which no kubelet tells. The
//! words are `berth_api::app::logs::collector`'s.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_api::app::logs::collector::{
    NODES_AT_ONCE, TOKEN_HEADER, log_path, stats_path, token_path, token_request,
};
use berth_api::names;
use berth_api::summary::Summary;
use futures::TryStreamExt;
use futures::future::try_join_all;
use futures::io::AsyncBufRead;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use k8s_openapi::api::authentication::v1::TokenRequest;
use kube::Client;
use kube::client::Body;

/// To the head of each of the two answers.
const ANSWER: Duration = Duration::from_secs(30);
/// A token is shown for so long; it is good for twice the time.
const SHOWN: Duration = Duration::from_secs(300);

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
    if names::dns_label(app).is_err() {
        return Ok(Collected::Nothing);
    }
    match token(client, namespace, &sign).await? {
        Ok(token) => get(client, &log_path(namespace, app, query), &token, &sign).await,
        Err(none) => Ok(none),
    }
}

/// Asks what containers do, again and again, as the client's own user.
#[derive(Debug, Default)]
pub struct Stats {
    tokens: Mutex<HashMap<String, (Instant, HeaderValue)>>,
}

impl Stats {
    /// What the containers of `namespace` on `nodes` do; none where nobody counts, or this user
    /// may not know.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn of(
        &self,
        client: &Client,
        namespace: &str,
        nodes: &BTreeSet<String>,
    ) -> kube::Result<Option<Summary>> {
        let Some(token) = self.token(client, namespace).await? else { return Ok(None) };
        let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
        let answers = nodes.chunks(NODES_AT_ONCE).map(async |nodes| {
            match get(client, &stats_path(namespace, nodes), &token, &|_| {}).await? {
                Collected::Answer(answer) if answer.status().is_success() => {
                    let bytes = answer.into_body().collect_bytes().await?;
                    serde_json::from_slice::<Summary>(&bytes)
                        .map(Some)
                        .map_err(kube::Error::SerdeError)
                }
                Collected::Answer(answer) => {
                    tracing::debug!(namespace, status = %answer.status(), "no stats of containers");
                    // The account was made anew, and with it the token is void.
                    self.lock().remove(namespace);
                    Ok(None)
                }
                Collected::Nothing | Collected::Refused(_) => Ok(None),
            }
        });
        let answers = try_join_all(answers).await?.into_iter().flatten();
        Ok(answers.reduce(|mut all, one| {
            all.pods.extend(one.pods);
            all.silent.extend(one.silent);
            all
        }))
    }

    async fn token(&self, client: &Client, namespace: &str) -> kube::Result<Option<HeaderValue>> {
        if let Some((_, token)) = self.lock().get(namespace).filter(|(at, _)| at.elapsed() < SHOWN)
        {
            return Ok(Some(token.clone()));
        }
        let Ok(token) = token(client, namespace, &|_| {}).await? else { return Ok(None) };
        let mut tokens = self.lock();
        tokens.retain(|_, (at, _)| at.elapsed() < SHOWN);
        tokens.insert(namespace.to_owned(), (Instant::now(), token.clone()));
        Ok(Some(token))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, HeaderValue)>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A token of the namespace's reader, or why there is none.
async fn token(
    client: &Client,
    namespace: &str,
    sign: &impl Fn(&mut HeaderMap),
) -> kube::Result<Result<HeaderValue, Collected>> {
    if names::dns_label(namespace).is_err() {
        return Ok(Err(Collected::Nothing));
    }
    let text = token_request().to_string();
    let mut request = http::Request::post(token_path(namespace))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(text.into_bytes()))
        .map_err(kube::Error::HttpError)?;
    sign(request.headers_mut());
    let answer = send(client, request).await?;
    match answer.status() {
        StatusCode::NOT_FOUND => return Ok(Err(Collected::Nothing)),
        status if !status.is_success() => return Ok(Err(Collected::Refused(status))),
        _ => {}
    }
    let bytes = answer.into_body().collect_bytes().await?;
    let given: TokenRequest = serde_json::from_slice(&bytes).map_err(kube::Error::SerdeError)?;
    let token = given.status.and_then(|status| status.token).unwrap_or_default();
    let mut token = HeaderValue::from_str(&token).unwrap_or(HeaderValue::from_static(""));
    token.set_sensitive(true);
    Ok(Ok(token))
}

async fn get(
    client: &Client,
    path: &str,
    token: &HeaderValue,
    sign: &impl Fn(&mut HeaderMap),
) -> kube::Result<Collected> {
    let mut tries = TRIES;
    loop {
        let mut request = http::Request::get(path)
            .header(TOKEN_HEADER, token)
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
