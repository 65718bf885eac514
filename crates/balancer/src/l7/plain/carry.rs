//! One plain request to a pod, and its answer back.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, SocketAddrV4};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use pingora::prelude::{Error, ErrorType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::answer::{self, Found};
use super::clock::Clock;
use super::fields::{Told, write_request};
use super::framing::Framing;
use super::head::Head;
use super::{Plain, Way};
use crate::l7::access_log::{Line, ms_since};
use crate::l7::answers::{explain, whole};
use crate::l7::pick::{OpenRequest, Refused, random};
use crate::l7::proxy::{TRIES, request_id_or_new};
use crate::l7::routes::Filters;
use crate::l7::upgrade::connect_error;

/// Of an answer at once.
const PIECE: usize = 16 * 1024;
/// And of one that is long.
const LARGE: usize = 64 * 1024;

/// A request as it came.
pub(super) struct Request<'r, 'h, 'b> {
    pub(super) started: Instant,
    pub(super) head: &'r Head<'h, 'b>,
    /// In lower case, without a port.
    pub(super) host: &'r str,
    pub(super) peer: SocketAddr,
    /// The client's address as text.
    pub(super) shown: &'r str,
    /// How much may be held of what the client sends meanwhile, bytes.
    pub(super) room: usize,
}

/// What became of it.
pub(super) enum Carried {
    /// It was answered and the connection goes on; `more` came meanwhile.
    Whole {
        more: Vec<u8>,
    },
    Ended,
}

/// For the access log.
#[derive(Default)]
struct Outcome {
    status: u16,
    bytes: usize,
    tries: usize,
    endpoint: Option<SocketAddrV4>,
    error: Option<String>,
    /// Whether the client's connection can be used again.
    goes_on: bool,
}

/// What was heard from a pod first.
enum First {
    /// Bytes, at the end of the buffer.
    Bytes,
    /// The connection was closed or broke.
    Closed(io::Error),
    ClientLeft,
    Late,
}

/// What is the matter with a try.
enum Failed {
    /// Nobody knows whether anything was done, which is no matter for what is idempotent.
    Try(ErrorType),
    /// No other try will be better.
    Request(ErrorType),
    /// The answer has begun.
    Answer(String),
    Client,
}

impl Plain {
    /// Carries it to a pod, from one to the next while they refuse.
    pub(super) async fn carry(
        &self,
        client: &mut TcpStream,
        clock: &mut Clock,
        request: &Request<'_, '_, '_>,
        way: &Way,
    ) -> Carried {
        let given = request.head.get("x-request-id");
        let id = request_id_or_new(given);
        let mut more = Vec::new();
        let outcome = self.tries(client, clock, request, way, &id, &mut more).await;
        self.write_down(request, way, &id, &outcome);
        if outcome.goes_on { Carried::Whole { more } } else { Carried::Ended }
    }

    async fn tries(
        &self,
        client: &mut TcpStream,
        clock: &mut Clock,
        request: &Request<'_, '_, '_>,
        way: &Way,
        id: &str,
        more: &mut Vec<u8>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let (Some(set), Some(filters)) = (way.set(), way.filters()) else { return outcome };
        let mut upstream = Vec::with_capacity(1024);
        let told = Told { client: request.shown, id };
        write_request(request.head, &told, &filters, way.prefix, &mut upstream);
        let key = set.key(Some(request.peer.ip()), |name| request.head.get(name));
        let mut tried = Vec::new();
        // One that was kept may have been closed meanwhile; then a new one is made.
        let mut kept = true;
        loop {
            outcome.tries += 1;
            let open = match set.pick(&tried, key, random()) {
                Ok(open) => open,
                Err(why) => {
                    let status = if why == Refused::TooManyASecond { 429 } else { 503 };
                    let error = ErrorType::HTTPStatus(status);
                    self.refuse(client, clock, request, way, id, error, &mut outcome).await;
                    return outcome;
                }
            };
            let address = open.endpoint().address();
            outcome.endpoint = Some(address);
            let pooled = if kept { self.pool.take(address) } else { None };
            let reused = pooled.is_some();
            let connected = match pooled {
                Some(stream) => Ok(stream),
                None => self.connect(address, clock, request, way).await,
            };
            let failed = match connected {
                Ok(mut server) => {
                    let attempt = Attempt { plain: self, request, way, filters, open: &open };
                    let done = attempt
                        .carry(client, &mut server, clock, &upstream, more, &mut outcome)
                        .await;
                    match done {
                        Ok(true) => {
                            self.pool.put(address, server);
                            return outcome;
                        }
                        Ok(false) => return outcome,
                        Err(failed) => failed,
                    }
                }
                Err(error) => {
                    open.refused();
                    tried.push(address);
                    Failed::Try(error)
                }
            };
            match failed {
                Failed::Try(error) => {
                    if reused {
                        kept = false;
                    } else if !tried.contains(&address) {
                        open.answered(false, None);
                        tried.push(address);
                    }
                    if outcome.tries >= TRIES {
                        self.refuse(client, clock, request, way, id, error, &mut outcome).await;
                        return outcome;
                    }
                }
                Failed::Request(error) => {
                    self.refuse(client, clock, request, way, id, error, &mut outcome).await;
                    return outcome;
                }
                Failed::Answer(error) => {
                    outcome.error = Some(error);
                    outcome.goes_on = false;
                    return outcome;
                }
                Failed::Client => {
                    outcome.error = Some("the client left".to_owned());
                    outcome.goes_on = false;
                    return outcome;
                }
            }
        }
    }

    async fn connect(
        &self,
        address: SocketAddrV4,
        clock: &mut Clock,
        request: &Request<'_, '_, '_>,
        way: &Way,
    ) -> Result<TcpStream, ErrorType> {
        let pause = self.pause(request, way).min(self.config.connect_timeout);
        let connecting = TcpStream::connect(SocketAddr::V4(address));
        match clock.within(pause, connecting).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                Ok(stream)
            }
            Ok(Err(error)) => Err(connect_error(&error)),
            Err(_) => Err(ErrorType::ConnectTimedout),
        }
    }

    /// How long one try may pause, by the policy and what is left of the whole.
    fn pause(&self, request: &Request<'_, '_, '_>, way: &Way) -> Duration {
        let usual = way.route.backend_timeout.unwrap_or(self.config.response_timeout);
        match way.route.timeout {
            Some(whole) => usual.min(whole.saturating_sub(request.started.elapsed())),
            None => usual,
        }
    }

    /// Tells the client why there is no answer, and ends the connection.
    #[allow(clippy::too_many_arguments)] // what a request is, in six words
    async fn refuse(
        &self,
        client: &mut TcpStream,
        clock: &mut Clock,
        request: &Request<'_, '_, '_>,
        way: &Way,
        id: &str,
        error: ErrorType,
        outcome: &mut Outcome,
    ) {
        let error = match error {
            ErrorType::HTTPStatus(_) => Error::new_in(error),
            error => Error::new_up(error),
        };
        outcome.error = Some(error.to_string());
        outcome.goes_on = false;
        let backend = way.backend().map(AsRef::as_ref);
        let Some((status, text)) = explain(&error, request.host, backend) else { return };
        outcome.status = status.as_u16();
        let bytes = whole(status, id, &text, request.head.method != "HEAD");
        outcome.bytes = text.len() + 1;
        let _ = clock.within(self.config.body_timeout, client.write_all(&bytes)).await;
    }

    fn write_down(&self, request: &Request<'_, '_, '_>, way: &Way, id: &str, outcome: &Outcome) {
        let (status, error) = (outcome.status, &outcome.error);
        if !self.log.wants(status >= 500 || (status == 0 && error.is_some())) {
            return;
        }
        let head = request.head;
        let text = |name| std::str::from_utf8(head.get(name)?).ok();
        self.log.write(&Line {
            time: k8s_openapi::jiff::Timestamp::now().to_string(),
            id,
            client: request.shown.to_owned(),
            peer: request.peer.to_string(),
            scheme: "http",
            protocol: "HTTP/1.1",
            host: request.host,
            method: head.method,
            path: head.path(),
            user_agent: text("user-agent"),
            status,
            received: 0,
            bytes: outcome.bytes,
            ms: ms_since(request.started),
            route: Some(&way.route.name),
            backend: way.backend().map(|backend| backend.service.as_str()),
            endpoint: outcome.endpoint.map(|endpoint| endpoint.to_string()),
            tries: outcome.tries,
            error: error.clone(),
        });
    }
}

/// One try.
struct Attempt<'a, 'r, 'h, 'b> {
    plain: &'a Plain,
    request: &'a Request<'r, 'h, 'b>,
    way: &'a Way,
    filters: [&'a Filters; 2],
    open: &'a OpenRequest,
}

/// How far an answer's header is.
enum Begun {
    Partial,
    /// So many bytes of an interim answer.
    Interim(usize),
    Whole(Header),
    Malformed,
}

/// Of an answer's header, what is not written.
struct Header {
    framing: Option<Framing>,
    /// Whether the client's connection ends after it.
    closes: bool,
    /// Whether the pod's goes on.
    keeps: bool,
    length: usize,
}

impl Attempt<'_, '_, '_, '_> {
    /// Sends the request and passes the answer on; whether `server` takes another.
    async fn carry(
        &self,
        client: &mut TcpStream,
        server: &mut TcpStream,
        clock: &mut Clock,
        upstream: &[u8],
        more: &mut Vec<u8>,
        outcome: &mut Outcome,
    ) -> Result<bool, Failed> {
        let cut = |why: &str| Failed::Answer(why.to_owned());
        let broke = |error: &io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ErrorType::ConnectionClosed,
            _ => ErrorType::ReadError,
        };
        match clock.within(self.pause()?, server.write_all(upstream)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Failed::Try(ErrorType::WriteError)),
            Err(_) => return Err(Failed::Request(ErrorType::WriteTimedout)),
        }
        let mut read: Vec<u8> = Vec::with_capacity(PIECE);
        let mut out: Vec<u8> = Vec::new();
        // Once the client got a part of an answer there is nothing to begin again.
        let mut interim = false;
        let header = loop {
            match self.begin(&read, &mut out, outcome) {
                Begun::Whole(header) => break header,
                Begun::Malformed if !interim => {
                    return Err(Failed::Request(ErrorType::InvalidHTTPHeader));
                }
                Begun::Malformed => return Err(cut("the endpoint's answer is no HTTP")),
                Begun::Interim(length) => {
                    interim = true;
                    self.write(client, clock, &read[..length]).await?;
                    read.drain(..length);
                    continue;
                }
                Begun::Partial => {}
            }
            match self.listen(client, server, clock, &mut read, more).await? {
                First::Bytes => {}
                First::Closed(error) if interim => return Err(cut(&error.to_string())),
                First::Closed(error) => return Err(Failed::Try(broke(&error))),
                First::ClientLeft => return Err(Failed::Client),
                First::Late if interim => return Err(cut("the answer is late")),
                First::Late => return Err(Failed::Request(ErrorType::ReadTimedout)),
            }
        };
        let Header { mut framing, closes, mut keeps, length } = header;
        outcome.goes_on = !closes;
        let mut body = &read[length..];
        let mut done = framing.is_none();
        loop {
            if let Some(framing) = &mut framing {
                let taken = match framing.take(body) {
                    Ok(taken) => taken,
                    // Nothing was sent on so far.
                    Err(_) if !out.is_empty() && !interim => {
                        return Err(Failed::Request(ErrorType::InvalidHTTPHeader));
                    }
                    Err(_) => return Err(cut("the pod's chunks are none")),
                };
                done = taken.1;
                keeps &= taken.0 == body.len();
                body = &body[..taken.0];
            } else {
                keeps &= body.is_empty();
                body = &[];
            }
            outcome.bytes += body.len();
            if out.is_empty() {
                self.write(client, clock, body).await?;
            } else {
                out.extend_from_slice(body);
                self.write(client, clock, &out).await?;
                out = Vec::new();
            }
            if done {
                return Ok(keeps);
            }
            if read.len() == read.capacity() && read.capacity() < LARGE {
                read = Vec::with_capacity(LARGE);
            }
            read.clear();
            let Ok(pause) = self.pause() else { return Err(cut("the request is out of time")) };
            match clock.within(pause, server.read_buf(&mut read)).await {
                Ok(Ok(0)) if framing == Some(Framing::UntilClose) => return Ok(false),
                Ok(Ok(0)) => return Err(cut("the endpoint broke off")),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(cut(&error.to_string())),
                Err(_) => return Err(cut("the answer is late")),
            }
            body = &read;
        }
    }

    /// Reads the answer's header, and writes it once it is whole.
    fn begin(&self, read: &[u8], out: &mut Vec<u8>, outcome: &mut Outcome) -> Begun {
        let mut room = [const { MaybeUninit::uninit() }; answer::FIELDS];
        let found = match answer::find(read, &mut room, self.request.head.method == "HEAD") {
            Found::Final(found) => found,
            Found::Partial => return Begun::Partial,
            Found::Interim(length) => return Begun::Interim(length),
            Found::Malformed => return Begun::Malformed,
        };
        let load = self.open.load_header().and_then(|name| found.get(name));
        self.open.answered(found.status < 500, load);
        let closes = self.request.head.closes
            || found.framing == Some(Framing::UntilClose)
            || *self.plain.shutdown.borrow();
        out.reserve(read.len() + 256);
        found.write(&self.filters, closes, out);
        outcome.status = found.status;
        let (framing, keeps, length) = (found.framing, found.keeps, found.length);
        Begun::Whole(Header { framing, closes, keeps, length })
    }

    fn pause(&self) -> Result<Duration, Failed> {
        let pause = self.plain.pause(self.request, self.way);
        if pause.is_zero() { Err(Failed::Request(ErrorType::HTTPStatus(504))) } else { Ok(pause) }
    }

    async fn write(
        &self,
        client: &mut TcpStream,
        clock: &mut Clock,
        bytes: &[u8],
    ) -> Result<(), Failed> {
        match clock.within(self.plain.config.body_timeout, client.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Failed::Client),
        }
    }

    /// Waits for the pod, and looks whether the client waits too.
    async fn listen(
        &self,
        client: &mut TcpStream,
        server: &mut TcpStream,
        clock: &mut Clock,
        read: &mut Vec<u8>,
        more: &mut Vec<u8>,
    ) -> Result<First, Failed> {
        let pause = self.pause()?;
        read.reserve(1024);
        let heard = poll_fn(|context| {
            let mut reading = std::pin::pin!(server.read_buf(read));
            if let Poll::Ready(heard) = reading.as_mut().poll(context) {
                return Poll::Ready(match heard {
                    Ok(0) => First::Closed(io::ErrorKind::UnexpectedEof.into()),
                    Ok(_) => First::Bytes,
                    Err(error) => First::Closed(error),
                });
            }
            // As much as is kept of the next request; the rest waits in the kernel.
            while more.len() < self.request.room {
                if ready!(client.poll_read_ready(context)).is_err() {
                    return Poll::Ready(First::ClientLeft);
                }
                more.reserve(512);
                let mut reading = std::pin::pin!(client.read_buf(more));
                match ready!(reading.as_mut().poll(context)) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Poll::Ready(First::ClientLeft),
                }
            }
            Poll::Pending
        });
        Ok(clock.within(pause, heard).await.unwrap_or(First::Late))
    }
}
