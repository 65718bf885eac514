//! A shorter way for plain requests: read, looked up, passed on, without Pingora in between.
//!
//! ```text
//! connection ─▶ header whole, clear, no body, HTTP/1.1? ─yes▶ its rule asks for nothing more?
//!                     │ no                                       │ no            │ yes
//!                     ▼                                          ▼               ▼
//!                Pingora, from here to the end of the connection ◀┘     pod, on a kept connection
//! ```
//!
//! Most requests of most sites are a GET in HTTP/1.1. Pingora's proxy carries one through two tasks'
//! worth of channels, a zeroed buffer of 64 KiB, several timers and a pool that starts a task for
//! each idle connection; here it is one task, two buffers and one timer for each connection.
//!
//! # Guarantees
//! - A request is carried by one of the two from its beginning to its end: it is handed over before
//!   anything of it went to a pod, or not at all.
//! - What is refused is refused in one place: whatever is not clear goes to Pingora's path, whose
//!   checks (`proxy::strict`) have the words for it.
//! - Endpoints are picked, counted and ejected by the same sets, with the same tries.
//!
//! # What it leaves to Pingora
//! TLS on either side, HTTP/2, HTTP/1.0, requests with a body, upgrades, gRPC, clients behind trusted proxies,
//! compression, RFC 7239, redirects, mirrors, retries by policy, and every refusal before a pod was
//! picked. A connection that was handed over does not come back.
//!
//! # Source
//! nginx's and HAProxy's one buffer each way; the figures are in docs/FIGURES.md.

mod answer;
mod carry;
mod clock;
mod fields;
mod framing;
mod head;
mod pool;

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::Method;
use pingora::server::ShutdownWatch;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Config;
use super::access_log::Log;
use super::pick::{BackendSet, random};
use super::routes::{Backend, DoorName, Filters, Protocol, Route, Table};
use carry::{Carried, Request};
use clock::Clock;
use head::{FIELDS, Found, Head};
pub(super) use pool::Pool;

/// Room for a request's header at first; what is longer than [`LONGEST`] goes to Pingora.
const ROOM: usize = 4 * 1024;
const LONGEST: usize = 16 * 1024;
/// How long a connection may be idle between two requests.
const KEEP: Duration = Duration::from_secs(60);

/// What plain requests are carried by.
pub(super) struct Plain {
    pub(super) config: Config,
    pub(super) table: Arc<ArcSwap<Table>>,
    pub(super) log: Arc<Log>,
    pub(super) pool: Pool,
    /// Turns true when the process begins to drain.
    pub(super) shutdown: ShutdownWatch,
    /// Turns true when connections without a request are to be closed.
    pub(super) leave: watch::Receiver<bool>,
}

/// How a connection ended here.
pub(super) enum Left {
    /// It is over.
    Closed,
    /// Something else is to be done with it; these bytes were read already.
    HandedOver(TcpStream, Vec<u8>),
}

/// Where a request goes, and what is changed about it.
struct Way {
    route: Arc<Route>,
    target: usize,
    prefix: usize,
}

impl Way {
    fn backend(&self) -> Option<&Arc<Backend>> {
        self.route.targets.get(self.target)?.to.as_ref().ok()
    }

    fn set(&self) -> Option<Arc<BackendSet>> {
        self.backend()?.endpoints().ok()
    }

    /// By the rule, then by the backend's part of it.
    fn filters(&self) -> Option<[&Filters; 2]> {
        Some([&self.route.filters, &self.route.targets.get(self.target)?.filters])
    }

    /// Whether nothing is asked for that is not done here.
    fn is_plain(&self) -> bool {
        let plain = |filters: &&Filters| filters.redirect.is_none() && filters.mirrors.is_empty();
        self.route.retry.is_none()
            && self.filters().is_some_and(|filters| filters.iter().all(plain))
            && self.set().is_some()
            && self.backend().is_some_and(|backend| {
                backend.protocol == Protocol::Http1 && backend.secured.is_none()
            })
    }
}

impl Plain {
    /// Whether clients with this address are served here at all.
    pub(super) fn takes(&self, peer: SocketAddr) -> bool {
        !self.config.forwarded
            && !self.config.trusted_proxies.iter().any(|net| net.contains(&peer.ip()))
    }

    /// Serves requests of `client` until there is one that is not plain.
    pub(super) async fn serve(&self, mut client: TcpStream, peer: SocketAddr) -> Left {
        let mut leave = self.leave.clone();
        let mut clock = Clock::new(self.config.header_timeout);
        let mut limit = self.config.header_timeout;
        let shown = peer.ip().to_string();
        let mut read = Vec::new();
        loop {
            if read.is_empty() {
                // Nothing is held for a client that says nothing.
                read = Vec::new();
                let said = async {
                    tokio::select! {
                        biased;
                        said = poll_fn(|context| client.poll_read_ready(context)) => said.is_ok(),
                        _ = leave.wait_for(|leave| *leave) => false,
                    }
                };
                if clock.within(limit, said).await != Ok(true) {
                    return Left::Closed;
                }
                read.reserve(ROOM);
            }
            limit = KEEP;
            if !self.whole(&mut client, &mut clock, &mut read).await {
                return Left::Closed;
            }
            let mut room = [const { MaybeUninit::uninit() }; FIELDS];
            let Found::Plain(head) = head::find(&read, &mut room) else {
                return Left::HandedOver(client, read);
            };
            let Some(host) = self.plain_host(&head) else {
                return Left::HandedOver(client, read);
            };
            let Some(way) = self.way(&head, &host) else {
                return Left::HandedOver(client, read);
            };
            let request = Request {
                started: Instant::now(),
                head: &head,
                host: &host,
                peer,
                shown: &shown,
                room: LONGEST.saturating_sub(read.len() - head.length),
            };
            let carried = self.carry(&mut client, &mut clock, &request, &way).await;
            let length = head.length;
            match carried {
                Carried::Whole { more } => {
                    read.drain(..length);
                    read.extend_from_slice(&more);
                }
                Carried::Ended => return Left::Closed,
            }
        }
    }

    /// Reads until a header is whole, or something that this way does not take; false when the
    /// client is too slow for that, or gone.
    async fn whole(&self, client: &mut TcpStream, clock: &mut Clock, read: &mut Vec<u8>) -> bool {
        let mut begun = None;
        while read.is_empty() || (read.len() < LONGEST && is_partial(read)) {
            let since: Instant = *begun.get_or_insert_with(Instant::now);
            let left = self.config.header_timeout.saturating_sub(since.elapsed());
            match clock.within(left, client.read_buf(read)).await {
                Ok(Ok(1..)) => {}
                _ => return false,
            }
        }
        true
    }

    /// The host in lower case, without a port and the root's dot.
    fn plain_host<'a>(&self, head: &Head<'_, 'a>) -> Option<std::borrow::Cow<'a, str>> {
        if self.config.compress && head.get("accept-encoding").is_some() {
            return None;
        }
        let name = head.host.split(':').next()?.trim_end_matches('.');
        Some(if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            name.to_ascii_lowercase().into()
        } else {
            name.into()
        })
    }

    fn way(&self, head: &Head<'_, '_>, host: &str) -> Option<Way> {
        let method = Method::from_bytes(head.method.as_bytes()).ok()?;
        let table = self.table.load();
        let (route, prefix) =
            table.find_plain(DoorName::Http, host, head.path(), head.query(), &method)?;
        let target = route.targets.pick(random())?;
        let way = Way { route: route.clone(), target, prefix };
        way.is_plain().then_some(way)
    }
}

fn is_partial(read: &[u8]) -> bool {
    // The end of a header is seldom missed, and looking for it is cheaper than reading it twice.
    !read.ends_with(b"\r\n\r\n")
        && matches!(
            head::find(read, &mut [const { MaybeUninit::uninit() }; FIELDS]),
            Found::Partial
        )
}
