//! What happens to one request, as Pingora asks it.

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora::ErrorSource;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::prelude::{Error, ErrorType, HttpPeer, Result};
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::server::ShutdownWatch;

use super::Config;
use super::access_log::{Line, Log, ms_since};
use super::answers::{answer, explain};
use super::connections::HeaderSeen;
use super::pick::{OpenRequest, Refused, random};
use super::routes::{Backend, Table};
use super::upgrade::RequestFirst;

/// The first try and three more.
pub(super) const TRIES: usize = 4;
/// How long a connection to a pod is kept for the next request.
const KEEP_UPSTREAM: Duration = Duration::from_secs(60);
/// How long the rest of a body is read that nobody wants, to keep the client's connection.
const DISCARD_BODY: Duration = Duration::from_secs(5);

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Decides for every request of this process.
pub(super) struct Proxy {
    pub(super) config: Config,
    pub(super) table: Arc<ArcSwap<Table>>,
    pub(super) log: Log,
    pub(super) upgrades: Arc<RequestFirst>,
    /// Turns true when the process begins to drain.
    pub(super) shutdown: ShutdownWatch,
}

/// A request under way.
pub(super) struct Request {
    started: Instant,
    id: String,
    host: String,
    backend: Option<Arc<Backend>>,
    tried: Vec<SocketAddrV4>,
    open: Option<OpenRequest>,
}

impl Proxy {
    fn find(&self, session: &Session, host: &str) -> Option<Arc<Backend>> {
        let path = session.req_header().uri.path();
        self.table.load().find(host, path).cloned()
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Request;

    fn new_ctx(&self) -> Request {
        Request {
            started: Instant::now(),
            id: String::new(),
            host: String::new(),
            backend: None,
            tried: Vec::new(),
            open: None,
        }
    }

    /// None: what pods send is passed on as it is.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    fn on_connection_reuse(
        &self,
        _session: &mut Session,
        _request: &mut Request,
        carried: Box<dyn std::any::Any + Send + Sync>,
    ) {
        if let Ok(seen) = carried.downcast::<HeaderSeen>() {
            seen.set();
        }
    }

    async fn early_request_filter(
        &self,
        session: &mut Session,
        request: &mut Request,
    ) -> Result<()> {
        let pause = if session.is_upgrade_req() {
            self.config.tunnel_timeout
        } else {
            self.config.body_timeout
        };
        session.set_read_timeout(Some(pause));
        session.set_write_timeout(Some(pause));
        session.set_total_drain_timeout(Some(DISCARD_BODY));
        request.host = host(session.req_header());
        request.id = request_id(session.req_header());
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, request: &mut Request) -> Result<bool> {
        request.backend = self.find(session, &request.host);
        let (status, text) = match &request.backend {
            None => (
                StatusCode::NOT_FOUND,
                format!(
                    "no Ingress rule for host {:?} and path {:?}",
                    request.host,
                    session.req_header().uri.path()
                ),
            ),
            Some(backend) => match &backend.endpoints {
                Ok(_) => return Ok(false),
                Err(why) => {
                    (StatusCode::SERVICE_UNAVAILABLE, format!("{}: {why}, {backend}", request.host))
                }
            },
        };
        answer(session, status, &request.id, text).await?;
        Ok(true)
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        request: &mut Request,
    ) -> Result<Box<HttpPeer>> {
        if !request.tried.is_empty() {
            // The world has moved on since the first try, perhaps because of it.
            request.backend = self.find(session, &request.host);
        }
        let endpoints =
            request.backend.as_ref().and_then(|backend| backend.endpoints.as_ref().ok());
        let picked = endpoints.map_or(Err(Refused::NoEndpoint), |set| {
            let headers = &session.req_header().headers;
            let key = set.key(client(session).map(|address| address.ip()), |name| {
                headers.get(name).map(HeaderValue::as_bytes)
            });
            set.pick(&request.tried, key, random())
        });
        let open = match picked {
            Ok(open) => open,
            Err(why) => {
                let status = if why == Refused::TooManyASecond { 429 } else { 503 };
                return Error::e_explain(ErrorType::HTTPStatus(status), why.to_string());
            }
        };
        let endpoint = open.endpoint();
        let mut peer = Box::new(HttpPeer::new(endpoint.address(), false, String::new()));
        let options = &mut peer.options;
        options.connection_timeout = Some(self.config.connect_timeout);
        options.total_connection_timeout = Some(self.config.connect_timeout);
        let pause = if session.is_upgrade_req() {
            self.config.tunnel_timeout
        } else {
            self.config.response_timeout
        };
        options.read_timeout = Some(pause);
        options.write_timeout = Some(pause);
        options.idle_timeout = Some(KEEP_UPSTREAM);
        if session.is_upgrade_req() {
            // Never shared with another request, whatever the pod answers.
            peer.group_key = random();
            peer.options.idle_timeout = Some(Duration::ZERO);
            peer.options.custom_l4 = Some(self.upgrades.clone());
        } else if !session.req_header().method.is_idempotent() {
            // Not repeatable, so not on a connection that the pod may be closing, and not one for
            // another such request after it either.
            peer.group_key = random();
            peer.options.idle_timeout = Some(Duration::ZERO);
        }
        request.open = Some(open);
        Ok(peer)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        request: &mut Request,
    ) -> Result<()> {
        let client = client(session).map(|address| address.ip().to_string()).unwrap_or_default();
        let received = |name: HeaderName| {
            let value = session.req_header().headers.get(name)?.to_str().ok()?;
            self.config.trust_forwarded.then(|| value.to_owned())
        };
        let chain = received(FORWARDED_FOR).map(|before| format!("{before}, {client}"));
        upstream.insert_header(FORWARDED_FOR, chain.unwrap_or(client))?;
        let scheme = received(FORWARDED_PROTO).unwrap_or_else(|| scheme(session).to_owned());
        upstream.insert_header(FORWARDED_PROTO, scheme)?;
        let named = received(FORWARDED_HOST).or_else(|| authority(session.req_header()));
        upstream.insert_header(FORWARDED_HOST, named.unwrap_or_default())?;
        upstream.insert_header(REQUEST_ID, request.id.as_str())?;
        Ok(())
    }

    /// A request that was open when the drain began takes its connection with it.
    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        request: &mut Request,
    ) -> Result<()> {
        if let Some(open) = &request.open {
            let load = open.load_header().and_then(|name| response.headers.get(name));
            let good = !response.status.is_server_error();
            open.answered(good, load.map(HeaderValue::as_bytes));
        }
        if *self.shutdown.borrow() {
            session.set_keepalive(None);
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        request: &mut Request,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(open) = request.open.take() {
            open.refused();
            request.tried.push(open.endpoint().address());
        }
        // Nothing was sent, so any method may go elsewhere.
        error.set_retry(true);
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        request: &mut Request,
        client_reused: bool,
    ) -> Box<Error> {
        error.retry.decide_reuse(client_reused);
        let broke_off = matches!(
            error.etype(),
            ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError
        );
        let repeatable = session.req_header().method.is_idempotent()
            && session.response_written().is_none()
            && !session.as_ref().retry_buffer_truncated()
            && !session.is_upgrade_req();
        let again = broke_off && repeatable && *error.esource() == ErrorSource::Upstream;
        error.set_retry(again);
        if again && let Some(open) = request.open.take() {
            // On a pooled connection the pod may be fine; a fresh one says that it is not.
            if !client_reused {
                open.answered(false, None);
                request.tried.push(open.endpoint().address());
            }
        }
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        request: &mut Request,
    ) -> FailToProxy {
        let mut error_code = 0;
        if let Some((status, text)) = explain(error, &request.host, request.backend.as_deref()) {
            error_code = status.as_u16();
            if session.response_written().is_none() {
                session.set_keepalive(None);
                // A client that left meanwhile is no failure.
                let _ = answer(session, status, &request.id, text).await;
            }
        }
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, request: &mut Request) {
        let status = session.response_written().map_or(0, |response| response.status.as_u16());
        if !self.log.wants(status >= 500 || (status == 0 && error.is_some())) {
            return;
        }
        let header = session.req_header();
        let open = request.open.as_ref();
        self.log.write(&Line {
            time: k8s_openapi::jiff::Timestamp::now().to_string(),
            id: &request.id,
            client: client(session).map(|address| address.to_string()).unwrap_or_default(),
            scheme: scheme(session),
            host: &request.host,
            method: header.method.as_str(),
            path: header.uri.path(),
            status,
            bytes: session.body_bytes_sent(),
            ms: ms_since(request.started),
            backend: request.backend.as_ref().map(|backend| backend.service.as_str()),
            endpoint: open.map(|open| open.endpoint().address().to_string()),
            tries: request.tried.len() + usize::from(open.is_some()),
            error: error.map(ToString::to_string),
        });
    }

    /// The access log says it, with more of it.
    fn suppress_error_log(&self, _: &Session, _: &Request, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Request,
        _: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

fn client(session: &Session) -> Option<SocketAddr> {
    session.client_addr()?.as_inet().copied()
}

fn scheme(session: &Session) -> &'static str {
    let encrypted = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
    if encrypted { "https" } else { "http" }
}

/// Host and port as the client named them.
fn authority(header: &RequestHeader) -> Option<String> {
    let from_uri = header.uri.authority().map(|authority| authority.as_str().to_owned());
    let from_header = || Some(header.headers.get(header::HOST)?.to_str().ok()?.to_owned());
    from_uri.or_else(from_header)
}

/// The host in lower case, without a port and the root's dot.
fn host(header: &RequestHeader) -> String {
    let named = authority(header).unwrap_or_default();
    // An IPv6 address has colons of its own; no rule can name one.
    let host = if named.starts_with('[') { &named } else { named.split(':').next().unwrap_or("") };
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// The client's own, if it is short and plain, else a new one.
fn request_id(header: &RequestHeader) -> String {
    let plain = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=64).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
    };
    let given = header.headers.get(REQUEST_ID).filter(plain);
    given
        .and_then(|value| value.to_str().ok())
        .map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), str::to_owned)
}
