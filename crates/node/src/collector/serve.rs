//! What a collector answers, over HTTPS.
//!
//! | path | |
//! | --- | --- |
//! | `/healthz` | `ok` |
//! | `/v1/namespaces/NS/apps/APP/log` | what all nodes collected, by time; `node` names one |
//! | `/v1/namespaces/NS/apps/APP/kept` | what this node collected, each line with its time |
//! | `/v1/namespaces/NS/stats?nodes=A,B` | load and I/O of the containers there, by their nodes |
//! | `/v1/namespaces/NS/stats/here` | the same of this node |
//!
//! Logs take the options of container logs; all take a token in the header `berth-logs-token`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use berth_api::app::logs::NONE_HERE;
use berth_api::names;
use berth_daemon::Tasks;
use futures::{Stream, StreamExt};
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Settings;
use super::access::Access;
use super::gather::{self, Gather, Wanted};
use super::peers::Peers;
use super::stats::Stats;
use crate::logs;
use crate::server::{Asked, Door, Refusal, ServerError, listen, options, tls_for_all};

/// Answers at the same time, and of one namespace.
const STREAMS: usize = 192;
const STREAMS_OF_ONE: usize = 32;
/// No answer goes on for longer: rights are looked at when it begins.
const LONGEST: Duration = Duration::from_secs(4 * 3600);
/// The last lines of an App that are given at most: they are held until all nodes have told theirs.
const TAIL: u64 = 100_000;

/// What every request can see.
#[derive(Clone)]
struct Collector {
    access: Access,
    gather: Gather,
    stats: Arc<Stats>,
    places: Arc<Semaphore>,
    of_one: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

/// A refusal as a Kubernetes client reads it.
struct Refused(Refusal);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Refusal(code, message) = self.0;
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": code.canonical_reason().unwrap_or_default().replace(' ', ""),
            "code": code.as_u16(),
        });
        (code, document(&status)).into_response()
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

pub(super) fn routes(client: Client, settings: &Settings, counted: Arc<Stats>) -> Router {
    let Settings { node, dir, listen, serving } = settings.clone();
    let peers = Peers::new(client.clone(), node, listen.port(), serving.0);
    let collector = Collector {
        access: Access::new(client),
        gather: Gather { peers, dir },
        stats: counted,
        places: Arc::new(Semaphore::new(STREAMS)),
        of_one: Arc::default(),
    };
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/v1/namespaces/{namespace}/apps/{app}/log", get(log))
        .route("/v1/namespaces/{namespace}/apps/{app}/kept", get(kept))
        .route("/v1/namespaces/{namespace}/stats", get(stats))
        .route("/v1/namespaces/{namespace}/stats/here", get(stats_here))
        .with_state(collector)
}

pub(super) async fn start(
    settings: &Settings,
    routes: Router,
    tasks: &Tasks,
) -> Result<(), ServerError> {
    let tls = tls_for_all(&settings.serving)?;
    listen(settings.listen, tls, Door { routes, is_guarded: false }, tasks).await
}

#[derive(Debug, Default, Deserialize)]
struct Which {
    node: Option<String>,
}

async fn log(
    State(collector): State<Collector>,
    Path((namespace, app)): Path<(String, String)>,
    Query(which): Query<Which>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let (token, places) = collector.admit(&headers, &namespace, Some(&app)).await?;
    let options = options(&asked, Timestamp::now())?;
    if options.tail_lines.is_some_and(|lines| lines > TAIL) {
        let text = format!("tailLines is more than {TAIL}");
        return Err(Refusal(StatusCode::BAD_REQUEST, text).into());
    }
    let wanted = Wanted { namespace, app, asked, options, node: which.node, token };
    Ok(answer(collector.gather.open(wanted).await?, places))
}

async fn kept(
    State(collector): State<Collector>,
    Path((namespace, app)): Path<(String, String)>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let (_, places) = collector.admit(&headers, &namespace, Some(&app)).await?;
    let options = options(&asked, Timestamp::now())?;
    let opened = gather::open(&collector.gather.dir, &namespace, &app, options).await;
    let opened = opened.map_err(|error| {
        let text = format!("cannot read the log of app {app:?}: {error}");
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, text)
    })?;
    let reader = opened.ok_or_else(|| {
        let text = format!("{NONE_HERE} {namespace}/{app} is on this node");
        Refusal(StatusCode::NOT_FOUND, text)
    })?;
    Ok(answer(logs::stream(reader, || true), places))
}

#[derive(Debug, Default, Deserialize)]
struct On {
    #[serde(default)]
    nodes: String,
}

async fn stats(
    State(collector): State<Collector>,
    Path(namespace): Path<String>,
    Query(on): Query<On>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let (token, _places) = collector.admit(&headers, &namespace, None).await?;
    let nodes: Vec<&str> = on.nodes.split(',').filter(|node| !node.is_empty()).collect();
    let peers = &collector.gather.peers;
    Ok(document(&collector.stats.gather(peers, &namespace, &nodes, &token).await?))
}

async fn stats_here(
    State(collector): State<Collector>,
    Path(namespace): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let (_, _places) = collector.admit(&headers, &namespace, None).await?;
    Ok(document(&json!({ "pods": collector.stats.here(&namespace).await })))
}

fn document(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// Held for as long as an answer goes on.
type Places = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Collector {
    /// The token by which it may be read, and places for the answer.
    async fn admit(
        &self,
        headers: &HeaderMap,
        namespace: &str,
        app: Option<&str>,
    ) -> Result<(String, Places), Refusal> {
        let mut said = [Some(namespace), app].into_iter().flatten();
        if let Some(wrong) = said.find(|name| names::dns_label(name).is_err()) {
            let text = format!("{wrong:.80?} can be no name of an app or a namespace");
            return Err(Refusal(StatusCode::NOT_FOUND, text));
        }
        let token = self.access.check(headers, namespace).await?;
        let many = || {
            let text = format!("more than {STREAMS_OF_ONE} answers about {namespace} go on");
            Refusal(StatusCode::TOO_MANY_REQUESTS, text)
        };
        let own = self.place_of(namespace).try_acquire_owned().map_err(|_| many())?;
        let place = self.places.clone().try_acquire_owned().map_err(|_| many())?;
        Ok((token, (own, place)))
    }

    fn place_of(&self, namespace: &str) -> Arc<Semaphore> {
        let mut all = self.of_one.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, places| places.available_permits() < STREAMS_OF_ONE);
        let new = || Arc::new(Semaphore::new(STREAMS_OF_ONE));
        all.entry(namespace.to_owned()).or_insert_with(new).clone()
    }
}

fn answer(
    chunks: impl Stream<Item = std::io::Result<bytes::Bytes>> + Send + 'static,
    places: Places,
) -> Response {
    let chunks = chunks.take_until(tokio::time::sleep(LONGEST));
    let held = chunks.map(move |chunk| {
        let _held = &places;
        chunk
    });
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(held)).into_response()
}
