//! What happens to one request, as Pingora asks it.

mod changes;
mod compression;
mod forwarded;
mod mirror;
mod said;
mod strict;

use std::net::{IpAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, Version, header};
use pingora::ErrorSource;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::prelude::{Error, ErrorType, HttpPeer, Result};
use pingora::protocols::http::compression::ResponseCompressionCtx;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::server::ShutdownWatch;

use super::Config;
use super::access_log::{Line, Log, ms_since};
use super::answers::{answer, explain, redirect};
use super::connections::{HeaderSeen, Resets};
use super::pick::{OpenRequest, Refused, random};
use super::routes::{Asked, Backend, Filters, Protocol, Route, Table};
use super::upgrade::RequestFirst;
use said::{door, host, is_grpc, peer, protocol, request_id, scheme};

pub(super) use mirror::Copier;
pub(super) use said::request_id_or_new;
pub(super) use strict::{LONGEST_HEADER, has_lone_ends};

/// The first try and three more.
pub(super) const TRIES: usize = 4;
/// As many as any policy asks for, and the connections that are refused besides.
pub(super) const MOST_TRIES: usize = 16;
/// How long a connection to a pod is kept for the next request.
const KEEP_UPSTREAM: Duration = Duration::from_secs(60);
/// How long the rest of a body is read that nobody wants, to keep the client's connection.
const DISCARD_BODY: Duration = Duration::from_secs(5);
/// Requests at once on one HTTP/2 connection to a pod.
const STREAMS: usize = 100;
/// A body that comes slower than this, bytes a second, after [`SLOW_AFTER`] is cut.
const SLOWEST_BODY: u64 = 64;
const SLOW_AFTER: Duration = Duration::from_secs(60);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Decides for every request of this process.
pub(super) struct Proxy {
    pub(super) config: Config,
    pub(super) table: Arc<ArcSwap<Table>>,
    pub(super) log: Arc<Log>,
    pub(super) upgrades: Arc<RequestFirst>,
    pub(super) copier: Copier,
    pub(super) resets: Resets,
    /// Turns true when the process begins to drain.
    pub(super) shutdown: ShutdownWatch,
}

/// A request under way.
pub(super) struct Request {
    started: Instant,
    id: String,
    host: String,
    route: Option<Arc<Route>>,
    /// How much of the path is the prefix that the rule names.
    prefix: usize,
    /// Which of the route's targets.
    target: usize,
    tried: Vec<SocketAddrV4>,
    tries: usize,
    /// Tries because of an answer that the policy does not pass on.
    asked_again: usize,
    open: Option<OpenRequest>,
    /// Body bytes of the request so far.
    received: u64,
    /// Whether the client may pause as it likes: tunnels, gRPC.
    lasting: bool,
    copies: Option<mirror::Copies>,
    compression: Option<Box<ResponseCompressionCtx>>,
}

impl Request {
    fn backend(&self) -> Option<&Arc<Backend>> {
        self.route.as_ref()?.targets.get(self.target)?.to.as_ref().ok()
    }

    /// What is changed: by the rule, then by the backend's part of it.
    fn filters(&self) -> impl Iterator<Item = &Filters> {
        let route = self.route.as_ref();
        let target = route.and_then(|route| route.targets.get(self.target));
        route.map(|route| &route.filters).into_iter().chain(target.map(|target| &target.filters))
    }

    /// How long the request may still take.
    fn left(&self) -> Option<Duration> {
        let whole = self.route.as_ref()?.timeout?;
        Some(whole.saturating_sub(self.started.elapsed()))
    }
}

impl Proxy {
    /// Looks the request up, and draws among those that may get it.
    fn find(&self, session: &Session, request: &mut Request) {
        let header = session.req_header();
        let asked = Asked {
            host: &request.host,
            path: header.uri.path(),
            query: header.uri.query(),
            method: &header.method,
            headers: &header.headers,
        };
        let table = self.table.load();
        let found = table.find(door(session), &asked);
        (request.route, request.prefix) =
            found.map_or((None, 0), |(route, prefix)| (Some(route.clone()), prefix));
        let drawn = request.route.as_ref().and_then(|route| route.targets.pick(random()));
        request.target = drawn.unwrap_or(usize::MAX);
    }

    /// Why the request goes nowhere; `None` when it goes to a backend.
    fn refuse(&self, session: &Session, request: &Request) -> Option<(StatusCode, String)> {
        let host = &request.host;
        let Some(route) = &request.route else {
            let path = session.req_header().uri.path();
            let text = format!("no route for host {host:?} and path {path:?}");
            return Some((StatusCode::NOT_FOUND, text));
        };
        let Some(target) = route.targets.get(request.target) else {
            let text = format!("{host}: {} leads to no backend", route.name);
            return Some((StatusCode::INTERNAL_SERVER_ERROR, text));
        };
        let backend = match &target.to {
            Ok(backend) => backend,
            Err(why) => {
                let text = format!("{host}: {why} ({})", route.name);
                return Some((StatusCode::INTERNAL_SERVER_ERROR, text));
            }
        };
        if let Err(why) = backend.endpoints() {
            let text = format!("{host}: {why}, {backend}");
            return Some((StatusCode::SERVICE_UNAVAILABLE, text));
        }
        let length = session.req_header().headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if let (Some(most), Some(length)) = (self.most_body(route), length)
            && length > most
        {
            return Some((StatusCode::PAYLOAD_TOO_LARGE, too_large(host, most)));
        }
        None
    }

    fn most_body(&self, route: &Route) -> Option<u64> {
        route.max_body.or(self.config.max_body)
    }

    /// The client as the nearest proxy that is trusted names it.
    fn client(&self, session: &Session) -> Option<IpAddr> {
        let peer = peer(session)?.ip();
        let headers = &session.req_header().headers;
        Some(forwarded::client(peer, headers, &self.config.trusted_proxies))
    }

    /// How long one try may pause, by the policy and what is left of the whole.
    fn pause(&self, request: &Request) -> Result<Duration> {
        let usual =
            if request.lasting { self.config.tunnel_timeout } else { self.config.response_timeout };
        let asked = request.route.as_ref().and_then(|route| route.backend_timeout);
        let pause = asked.unwrap_or(usual).min(request.left().unwrap_or(Duration::MAX));
        if pause.is_zero() {
            return Error::e_explain(ErrorType::HTTPStatus(504), "the request is out of time");
        }
        Ok(pause)
    }
}

fn too_large(host: &str, most: u64) -> String {
    format!("{host}: a request's body may have {most} bytes")
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Request;

    fn new_ctx(&self) -> Request {
        Request {
            started: Instant::now(),
            id: String::new(),
            host: String::new(),
            route: None,
            prefix: 0,
            target: 0,
            tried: Vec::new(),
            tries: 0,
            asked_again: 0,
            open: None,
            received: 0,
            lasting: false,
            copies: None,
            compression: None,
        }
    }

    /// None: what pods send is passed on as it is, or changed by us.
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
        request.lasting = session.is_upgrade_req() || is_grpc(session.req_header());
        let pause =
            if request.lasting { self.config.tunnel_timeout } else { self.config.body_timeout };
        session.set_read_timeout(Some(pause));
        session.set_write_timeout(Some(pause));
        session.set_total_drain_timeout(Some(DISCARD_BODY));
        request.host = host(session.req_header());
        request.id = request_id(session.req_header());
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, request: &mut Request) -> Result<bool> {
        if let Some((status, text)) = strict::refuse(session) {
            // What follows on the connection may be anything.
            session.set_keepalive(None);
            answer(session, status, &request.id, text.to_owned()).await?;
            return Ok(true);
        }
        let proof = self.table.load().proof(&request.host, session.req_header().uri.path());
        if let Some(proof) = proof {
            answer(session, StatusCode::OK, &request.id, proof).await?;
            return Ok(true);
        }
        self.find(session, request);
        if let Some(to) = request.filters().find_map(|filters| filters.redirect.as_ref()) {
            let header = session.req_header();
            let path = (header.uri.path(), request.prefix);
            let (scheme, query) = (scheme(session), header.uri.query());
            let location = to.location(scheme, &request.host, path, query);
            redirect(session, to.status, &request.id, &location).await?;
            return Ok(true);
        }
        if let Some((status, text)) = self.refuse(session, request) {
            answer(session, status, &request.id, text).await?;
            return Ok(true);
        }
        Ok(false)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        request: &mut Request,
    ) -> Result<()> {
        request.received += body.as_ref().map_or(0, |part| part.len() as u64);
        let most = request.route.as_ref().and_then(|route| self.most_body(route));
        if most.is_some_and(|most| request.received > most) {
            return Error::e_explain(ErrorType::HTTPStatus(413), "the body is too long");
        }
        if !end_of_stream && !request.lasting {
            let late = request.started.elapsed().saturating_sub(SLOW_AFTER).as_secs();
            if late > 0 && request.received / (late + SLOW_AFTER.as_secs()) < SLOWEST_BODY {
                return Error::e_explain(ErrorType::HTTPStatus(408), "the body is too slow");
            }
        }
        if let Some(copies) = &mut request.copies {
            copies.body(body.as_ref());
            if end_of_stream && let Some(copies) = request.copies.take() {
                self.copier.send(copies);
            }
        }
        Ok(())
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        request: &mut Request,
    ) -> Result<Box<HttpPeer>> {
        if request.tries > 0 {
            // The world has moved on since the first try, perhaps because of it.
            self.find(session, request);
            let backoff = request.route.as_ref().and_then(|route| route.retry.as_ref());
            let backoff = backoff.map(|retry| retry.backoff).unwrap_or_default();
            if request.asked_again > 0 && !backoff.is_zero() {
                tokio::time::sleep(backoff).await;
            }
        }
        request.tries += 1;
        let pause = self.pause(request)?;
        let backend = request.backend();
        let set = backend.and_then(|backend| backend.endpoints().ok());
        let picked = set.map_or(Err(Refused::NoEndpoint), |set| {
            let headers = &session.req_header().headers;
            let key =
                set.key(self.client(session), |name| headers.get(name).map(HeaderValue::as_bytes));
            set.pick(&request.tried, key, random())
        });
        let open = match picked {
            Ok(open) => open,
            Err(why) => {
                let status = if why == Refused::TooManyASecond { 429 } else { 503 };
                return Error::e_explain(ErrorType::HTTPStatus(status), why.to_string());
            }
        };
        let h2c = backend.is_some_and(|backend| backend.protocol == Protocol::H2c);
        let secured = backend.and_then(|backend| backend.secured.as_ref());
        let upgrades = session.is_upgrade_req();
        let address = open.endpoint().address();
        let mut peer = Box::new(match secured.filter(|_| !upgrades) {
            Some(secured) => HttpPeer::new(address, true, secured.host.clone()),
            None => HttpPeer::new(address, false, String::new()),
        });
        let options = &mut peer.options;
        options.connection_timeout = Some(self.config.connect_timeout.min(pause));
        options.total_connection_timeout = options.connection_timeout;
        options.read_timeout = Some(pause);
        options.write_timeout = Some(pause);
        options.idle_timeout = Some(KEEP_UPSTREAM);
        if let Some(secured) = secured {
            peer.group_key = secured.group;
            peer.options.ca = Some(secured.authority.clone());
        }
        if upgrades {
            // Never shared with another request, whatever the pod answers.
            peer.group_key = random();
            peer.options.idle_timeout = Some(Duration::ZERO);
            peer.options.custom_l4 = Some(match secured {
                Some(secured) => secured.clone(),
                None => self.upgrades.clone(),
            });
        } else if h2c {
            // A stream that a closing connection does not take says so, and goes elsewhere.
            peer.options.set_http_version(2, 2);
            peer.options.max_h2_streams = STREAMS;
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
        forwarded::put(&self.config, session, upstream)?;
        upstream.insert_header(REQUEST_ID, request.id.as_str())?;
        for filters in request.filters() {
            changes::request(upstream, filters, request.prefix)?;
        }
        if request.tries == 1 {
            let mirrors = request.filters().flat_map(|filters| &filters.mirrors);
            let copies = mirror::Copies::of(mirrors, upstream);
            request.copies = copies;
            if session.as_mut().is_body_empty()
                && let Some(copies) = request.copies.take()
            {
                self.copier.send(copies);
            }
        }
        Ok(())
    }

    /// An answer that the policy does not pass on is asked for again.
    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        request: &mut Request,
    ) -> Result<()> {
        let Some(retry) = request.route.as_ref().and_then(|route| route.retry.as_ref()) else {
            return Ok(());
        };
        let again = retry.codes.contains(&response.status.as_u16())
            && request.asked_again < retry.attempts
            && request.tries < MOST_TRIES
            && request.left().is_none_or(|left| left > retry.backoff)
            && !session.as_ref().retry_buffer_truncated()
            && !session.is_upgrade_req();
        if !again {
            return Ok(());
        }
        request.asked_again += 1;
        if let Some(open) = request.open.take() {
            open.answered(false, None);
            request.tried.push(open.endpoint().address());
        }
        let mut error = Error::explain(ErrorType::HTTPStatus(502), "to be asked for again");
        error.set_retry(true);
        Err(error.into_up())
    }

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
        for filters in request.filters() {
            changes::response(response, filters)?;
        }
        if self.config.compress {
            request.compression = compression::begin(session.req_header(), response);
        }
        if *self.shutdown.borrow() {
            // A request that was open when the drain began takes its connection with it.
            session.set_keepalive(None);
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        request: &mut Request,
    ) -> Result<Option<Duration>> {
        if let Some(compression) = &mut request.compression {
            *body = compression.response_body_filter(body.as_ref(), end_of_stream);
        }
        if request.left().is_some_and(|left| left.is_zero()) && !end_of_stream {
            return Error::e_explain(ErrorType::WriteTimedout, "the request is out of time");
        }
        Ok(None)
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
        error.set_retry(request.tries - request.asked_again < TRIES);
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
        // Only `upstream_response_filter` makes such errors of the upstream's.
        let by_policy = matches!(error.etype(), ErrorType::HTTPStatus(502)) && error.retry();
        let broke_off = matches!(
            error.etype(),
            ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError
        );
        // What an HTTP/2 connection says that it did not take was not begun, whatever its method.
        let not_begun = matches!(error.etype(), ErrorType::H2Error) && error.retry();
        let idempotent = session.req_header().method.is_idempotent();
        let repeatable = session.response_written().is_none()
            && !session.as_ref().retry_buffer_truncated()
            && !session.is_upgrade_req()
            && request.tries - request.asked_again < TRIES;
        let again = *error.esource() == ErrorSource::Upstream
            && repeatable
            && (by_policy || not_begun || (broke_off && idempotent));
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
        let backend = request.backend().map(AsRef::as_ref);
        if let Some((status, text)) = explain(error, &request.host, backend) {
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
        let gone = error.is_some_and(|error| *error.esource() == ErrorSource::Downstream);
        if gone && session.req_header().version == Version::HTTP_2 {
            self.resets.count(peer(session));
        }
        let status = session.response_written().map_or(0, |response| response.status.as_u16());
        if !self.log.wants(status >= 500 || (status == 0 && error.is_some())) {
            return;
        }
        let header = session.req_header();
        let open = request.open.as_ref();
        let text = |name| header.headers.get(name).and_then(|value| value.to_str().ok());
        self.log.write(&Line {
            time: k8s_openapi::jiff::Timestamp::now().to_string(),
            id: &request.id,
            client: self.client(session).map(|address| address.to_string()).unwrap_or_default(),
            peer: peer(session).map(|address| address.to_string()).unwrap_or_default(),
            scheme: scheme(session),
            protocol: protocol(header.version),
            host: &request.host,
            method: header.method.as_str(),
            path: header.uri.path(),
            user_agent: text(header::USER_AGENT),
            status,
            received: request.received,
            bytes: session.body_bytes_sent(),
            ms: ms_since(request.started),
            route: request.route.as_ref().map(|route| route.name.as_str()),
            backend: request.backend().map(|backend| backend.service.as_str()),
            endpoint: open.map(|open| open.endpoint().address().to_string()),
            tries: request.tries,
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
