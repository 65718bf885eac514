//! An OCI distribution registry on content-addressed files.
//!
//! It serves whoever reaches its port, so the port belongs on the loopback address: there is no
//! authentication, and no wall between repositories but their names. It knows SHA-256 only, and
//! takes no manifest above 4 MiB.
//!
//! # Source
//! OCI distribution spec 1.1. Names hold slashes, so paths are taken apart from the right.

mod blobs;
mod collect;
mod error;
mod manifests;
mod storage;
mod uploads;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use berth_daemon::Tasks;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

pub use self::collect::{Collected, Image, Policy, collect, images};
use self::error::Refusal;
use self::manifests::Wanted;
use self::storage::Storage;
use self::uploads::Uploads;
use crate::reference::{Digest, Name};

/// How often uploads that nobody continues are looked for.
const STALE_EVERY: Duration = Duration::from_secs(600);

type Query = HashMap<String, String>;

struct Registry {
    storage: Storage,
    uploads: Uploads,
}

/// Why the registry does not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the registry's directory {}", dir.display())]
pub struct ServeError {
    dir: PathBuf,
    #[source]
    source: io::Error,
}

/// Serves the registry in `dir` on `listener` until `tasks` stops.
///
/// # Errors
/// When `dir` cannot be made or written.
pub fn serve(
    listener: tokio::net::TcpListener,
    dir: PathBuf,
    tasks: &Tasks,
) -> Result<(), ServeError> {
    let storage = Storage::new(dir.clone());
    storage.prepare().map_err(|source| ServeError { dir, source })?;
    let uploads = Uploads::new(storage.uploads());
    let registry = Arc::new(Registry { storage, uploads });

    let sweeper = registry.clone();
    tasks.spawn_until_stop("registry-stale-uploads", async move {
        let mut turn = tokio::time::interval(STALE_EVERY);
        loop {
            turn.tick().await;
            sweeper.uploads.remove_stale().await;
        }
    });
    let router = Router::new().fallback(answer).with_state(registry);
    let stopping = tasks.clone();
    tasks.spawn("registry", async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(async move { stopping.stopping().await });
        if let Err(error) = served.await {
            tracing::error!(%error, "the registry stopped");
        }
    });
    Ok(())
}

async fn answer(State(registry): State<Arc<Registry>>, request: Request) -> Response {
    registry.dispatch(request).await.unwrap_or_else(IntoResponse::into_response)
}

impl Registry {
    async fn dispatch(&self, request: Request) -> Result<Response, Refusal> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let query = axum::extract::Query::<Query>::try_from_uri(&parts.uri);
        let query = query.map(|query| query.0).unwrap_or_default();
        let headers = &parts.headers;
        let method = &parts.method;
        let head = method == Method::HEAD;
        let read = head || method == Method::GET;
        match route(path)? {
            Route::Version if read => Ok(respond(StatusCode::OK, Body::from("{}"))),
            Route::Blob(name, digest) if read => self.read_blob(name, digest, headers, head).await,
            Route::Blob(name, digest) if method == Method::DELETE => {
                self.delete_blob(name, digest).await
            }
            Route::Uploads(name) if method == Method::POST => {
                self.start_upload(name, &query, body).await
            }
            Route::Upload(name, id) if method == Method::GET => self.upload_status(name, id).await,
            Route::Upload(name, id) if method == Method::PATCH => {
                self.append_upload(name, id, headers, body).await
            }
            Route::Upload(name, id) if method == Method::PUT => {
                self.finish_upload(name, id, &query, headers, body).await
            }
            Route::Upload(name, id) if method == Method::DELETE => {
                self.cancel_upload(name, id).await
            }
            Route::Manifest(name, wanted) if read => self.read_manifest(name, wanted, head).await,
            Route::Manifest(name, wanted) if method == Method::PUT => {
                self.put_manifest(name, wanted, headers, body).await
            }
            Route::Manifest(name, wanted) if method == Method::DELETE => {
                self.delete_manifest(name, wanted).await
            }
            Route::Tags(name) if read => self.list_tags(name, &query).await,
            Route::Referrers(name, subject) if read => self.referrers(name, subject, &query).await,
            _ => Err(Refusal::unsupported(format!("{method} is not served at {path}"))),
        }
    }
}

enum Route<'a> {
    Version,
    Blob(Name, Digest),
    Uploads(Name),
    Upload(Name, &'a str),
    Manifest(Name, Wanted),
    Tags(Name),
    Referrers(Name, Digest),
}

fn route(path: &str) -> Result<Route<'_>, Refusal> {
    if path == "/v2" || path == "/v2/" {
        return Ok(Route::Version);
    }
    let nothing = || Refusal::nothing_there(path);
    let rest = path.strip_prefix("/v2/").ok_or_else(nothing)?;
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return Ok(Route::Tags(Name::parse(name)?));
    }
    let posted = rest.strip_suffix('/').unwrap_or(rest);
    if let Some(name) = posted.strip_suffix("/blobs/uploads") {
        return Ok(Route::Uploads(Name::parse(name)?));
    }
    let (rest, last) = rest.rsplit_once('/').ok_or_else(nothing)?;
    if let Some(name) = rest.strip_suffix("/blobs/uploads") {
        return Ok(Route::Upload(Name::parse(name)?, last));
    }
    let (name, kind) = rest.rsplit_once('/').ok_or_else(nothing)?;
    match kind {
        "blobs" => Ok(Route::Blob(Name::parse(name)?, Digest::parse(last)?)),
        "manifests" => Ok(Route::Manifest(Name::parse(name)?, Wanted::parse(last)?)),
        "referrers" => Ok(Route::Referrers(Name::parse(name)?, Digest::parse(last)?)),
        _ => Err(nothing()),
    }
}

fn respond(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let version = HeaderName::from_static("docker-distribution-api-version");
    response.headers_mut().insert(version, HeaderValue::from_static("registry/2.0"));
    response
}

fn content_digest(headers: &mut HeaderMap, digest: &Digest) {
    if let Ok(value) = HeaderValue::from_str(digest.as_str()) {
        headers.insert(HeaderName::from_static("docker-content-digest"), value);
    }
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
