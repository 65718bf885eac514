//! Copies of requests to other backends, whose answers nobody reads.
//!
//! A copy never delays or fails the request that it is of: it is sent when that one's body is
//! complete, by a task of its own. So many at once, and bodies of so many bytes; what is beyond is
//! not copied, and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use pingora::http::RequestHeader;
use tokio::sync::Semaphore;

use berth_daemon::Tasks;

use crate::l7::pick::random;
use crate::l7::routes::{Backend, Mirror, Protocol};

/// The longest body that is copied, bytes.
const LONGEST_BODY: usize = 256 * 1024;
/// Copies under way.
const AT_ONCE: usize = 128;
/// A copy that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request to be copied, until its body is complete.
pub(super) struct Copies {
    to: Vec<Arc<Backend>>,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: BytesMut,
    too_long: bool,
}

impl Copies {
    /// Draws which of `mirrors` get a copy; `None` when none does.
    pub(super) fn of<'a>(
        mirrors: impl Iterator<Item = &'a Mirror>,
        upstream: &RequestHeader,
    ) -> Option<Self> {
        let drawn = |mirror: &&Mirror| random() % 1_000_000 < u64::from(mirror.per_million);
        let to: Vec<_> = mirrors.filter(drawn).map(|mirror| mirror.backend.clone()).collect();
        if to.is_empty() {
            return None;
        }
        let mut headers = upstream.headers.clone();
        // The copy's body is whole and has a length of its own.
        for name in [header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::CONNECTION] {
            headers.remove(name);
        }
        let path = upstream.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let (method, body) = (upstream.method.clone(), BytesMut::new());
        Some(Self { to, method, path, headers, body, too_long: false })
    }

    pub(super) fn body(&mut self, part: Option<&Bytes>) {
        let Some(part) = part else { return };
        if self.body.len() + part.len() > LONGEST_BODY {
            self.too_long = true;
            self.body = BytesMut::new();
        } else if !self.too_long {
            self.body.extend_from_slice(part);
        }
    }
}

/// Sends copies.
pub(in crate::l7) struct Copier {
    http1: Client<HttpConnector, Full<Bytes>>,
    h2c: Client<HttpConnector, Full<Bytes>>,
    room: Arc<Semaphore>,
    tasks: Tasks,
    left_out: AtomicU64,
}

impl Copier {
    pub(in crate::l7) fn new(connect: Duration, tasks: Tasks) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(connect));
        connector.set_nodelay(true);
        Self {
            http1: Client::builder(TokioExecutor::new()).build(connector.clone()),
            h2c: Client::builder(TokioExecutor::new()).http2_only(true).build(connector),
            room: Arc::new(Semaphore::new(AT_ONCE)),
            tasks,
            left_out: AtomicU64::new(0),
        }
    }

    /// Sends `copies`, unless too many are under way.
    pub(super) fn send(&self, copies: Copies) {
        if copies.too_long {
            return self.leave_out();
        }
        let body = copies.body.freeze();
        for backend in copies.to {
            // Copies go in the clear.
            let picked = backend.endpoints().ok().filter(|_| backend.secured.is_none());
            let open = picked.and_then(|set| set.pick(&[], None, random()).ok());
            let room = self.room.clone().try_acquire_owned().ok();
            let (Some(open), Some(room)) = (open, room) else {
                self.leave_out();
                continue;
            };
            let uri = format!("http://{}{}", open.endpoint().address(), copies.path);
            let Ok(uri) = uri.parse::<Uri>() else { continue };
            let mut request = http::Request::new(Full::new(body.clone()));
            *request.method_mut() = copies.method.clone();
            *request.uri_mut() = uri;
            *request.headers_mut() = copies.headers.clone();
            let client = match backend.protocol {
                Protocol::Http1 => &self.http1,
                Protocol::H2c => {
                    *request.version_mut() = http::Version::HTTP_2;
                    &self.h2c
                }
            };
            let sending = client.request(request);
            self.tasks.spawn_until_stop("mirror", async move {
                let answer = tokio::time::timeout(PATIENCE, async {
                    // Read to its end, so that the connection can be used again.
                    if let Ok(answer) = sending.await {
                        let mut body = answer.into_body();
                        while let Some(Ok(_)) = body.frame().await {}
                    }
                });
                let _ = answer.await;
                drop((open, room));
            });
        }
    }

    fn leave_out(&self) {
        let left_out = self.left_out.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::debug!(left_out, "a request was not copied");
    }
}
