//! What a collector answers, over HTTPS.
//!
//! | path | |
//! | --- | --- |
//! | `/healthz` | `ok` |
//! | `/v1/namespaces/NS/apps/APP/log` | what all nodes collected, by time; `node` names one |
//! | `/v1/namespaces/NS/apps/APP/kept` | what this node collected, each line with its time |
//!
//! Both take the options of container logs, and a token in the header `berth-logs-token`.

use std::collections::HashMap;
use std::path::PathBuf;
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
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Settings;
use super::access::Access;
use super::gather::{self, Gather, Wanted};
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
    dir: PathBuf,
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
        (code, [(header::CONTENT_TYPE, "application/json")], status.to_string()).into_response()
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

pub(super) fn routes(client: Client, settings: &Settings) -> Router {
    let gather = Gather {
        client: client.clone(),
        node: settings.node.clone(),
        dir: settings.dir.clone(),
        port: settings.listen.port(),
        certificate: settings.serving.0.clone(),
        clients: Arc::default(),
    };
    let collector = Collector {
        access: Access::new(client),
        gather,
        dir: settings.dir.clone(),
        places: Arc::new(Semaphore::new(STREAMS)),
        of_one: Arc::default(),
    };
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/v1/namespaces/{namespace}/apps/{app}/log", get(log))
        .route("/v1/namespaces/{namespace}/apps/{app}/kept", get(kept))
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
    let (token, places) = collector.admit(&headers, &namespace, &app).await?;
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
    let (_, places) = collector.admit(&headers, &namespace, &app).await?;
    let options = options(&asked, Timestamp::now())?;
    let opened = gather::open(&collector.dir, &namespace, &app, options).await;
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

/// Held for as long as an answer goes on.
type Places = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Collector {
    /// The token by which it may be read, and places for the answer.
    async fn admit(
        &self,
        headers: &HeaderMap,
        namespace: &str,
        app: &str,
    ) -> Result<(String, Places), Refusal> {
        if names::dns_label(namespace).is_err() || names::dns_label(app).is_err() {
            let text = format!("{namespace:.80?}/{app:.80?} can be no app");
            return Err(Refusal(StatusCode::NOT_FOUND, text));
        }
        let token = self.access.check(headers, namespace).await?;
        let many = || {
            let text = format!("more than {STREAMS_OF_ONE} logs of {namespace} are being read");
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
