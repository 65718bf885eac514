//! Names that are not the cluster's: asked of the upstreams, kept for a little while.
//!
//! Also what needs more than one question: an alias (ExternalName) is followed here, because the
//! clients in pods do not.
//!
//! Refuses: more than a bounded number of questions at a time, and answers whose id or question is
//! not the one that was sent.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::Record;

use crate::answer::{self, MAX_UDP, MOST_ALIASES, Outcome, Transport, Via};
use crate::asked::Asked;
use crate::name::is_under;
use crate::own::Own;
use crate::query::{self, CLASS_IN, Query, code, flag, kind};
use crate::zone::{Current, FIXED, Found, Layers};

mod cache;
mod hot;
mod joined;
mod upstream;

pub(crate) use hot::{Hit, Hot, Kept};

/// How long a client waits for a new answer where there is an old one (RFC 8767 §5).
const STALE_AFTER: Duration = Duration::from_millis(1800);

/// What is asked of an upstream, and under what its answer is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    /// Lower-case wire form.
    name: Vec<u8>,
    kind: u16,
    dnssec: bool,
    checking_disabled: bool,
}

/// Answers what the zone cannot.
#[derive(Debug)]
pub(crate) struct Forward {
    /// Longest suffix first: the first that a name is under says whom to ask.
    routes: ArcSwap<Vec<Route>>,
    zone: Arc<Current>,
    cache: cache::Cache,
    joined: joined::Joined,
}

/// Whom to ask for names under a suffix.
#[derive(Debug)]
pub(crate) struct Route {
    /// Lower-case wire form.
    pub suffix: Vec<u8>,
    pub upstreams: Vec<SocketAddr>,
    /// The upstream that answered last: a dead one is not waited for each time.
    preferred: AtomicUsize,
}

impl Route {
    pub(crate) fn new(suffix: Vec<u8>, upstreams: Vec<SocketAddr>) -> Self {
        Self { suffix, upstreams, preferred: AtomicUsize::new(0) }
    }
}

/// An answer, and what the asking thread may keep of it.
#[derive(Debug)]
pub(crate) struct Answered {
    pub bytes: Vec<u8>,
    pub kept: Option<Kept>,
}

/// Whether what is kept may be the answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    Kept,
    /// An upstream is asked: what is kept ends soon.
    New,
}

impl Forward {
    pub(crate) fn new(
        mut routes: Vec<Route>,
        zone: Arc<Current>,
        answers: usize,
        longest: u32,
    ) -> Self {
        sort(&mut routes);
        let routes = ArcSwap::from_pointee(routes);
        let cache = cache::Cache::new(answers, longest);
        Self { routes, zone, cache, joined: joined::Joined::default() }
    }

    /// Asks others from now on; what is under way goes on.
    pub(crate) fn set_routes(&self, mut routes: Vec<Route>) {
        sort(&mut routes);
        self.routes.store(Arc::new(routes));
    }

    /// How many answers are kept for all threads together.
    pub(crate) fn kept(&self) -> usize {
        self.cache.len()
    }

    /// Forgets all answers.
    pub(crate) fn flush(&self) {
        self.cache.clear();
    }

    /// The whole answer to `packet`; `None` where nothing is to be said.
    pub(crate) async fn answer(
        &self,
        packet: &[u8],
        transport: Transport,
        freshness: Freshness,
    ) -> Option<Answered> {
        let query = query::parse(packet).ok()?;
        if query.flags & flag::RECURSION_DESIRED == 0 && self.is_foreign(&query) {
            let bytes = failure(packet, code::REFUSED)?;
            return Some(Answered { bytes, kept: None });
        }
        let question = Question {
            name: query.name.to_ascii_lowercase(),
            kind: query.kind,
            dnssec: query.edns.is_some_and(|edns| edns.dnssec),
            checking_disabled: query.flags & flag::CHECKING_DISABLED != 0,
        };
        let Some((found, seconds)) = self.resolve(question.clone(), freshness).await else {
            let bytes = failure(packet, code::SERVER_FAILURE)?;
            return Some(Answered { bytes, kept: None });
        };
        let kept = match seconds {
            0 => None,
            seconds => Kept::new(&question, &found, seconds),
        };
        let bytes = finish(found, &query, transport)?;
        Some(Answered { bytes, kept })
    }

    fn is_foreign(&self, query: &Query<'_>) -> bool {
        let asked = Asked::of(query.name);
        matches!(self.zone.get().find(&asked, query.kind), Found::Foreign)
    }

    /// Follows aliases through the zone and beyond it. With the answer comes for how long it may
    /// be kept elsewhere: not at all where names of ours were part of it, they may change.
    async fn resolve(
        &self,
        mut question: Question,
        freshness: Freshness,
    ) -> Option<(Message, u32)> {
        let mut chain: Vec<Record> = Vec::new();
        for _ in 0..=MOST_ALIASES {
            let zone = self.zone.get();
            let (mut found, seconds) = match zone.find(&Asked::of(&question.name), question.kind) {
                Found::Alias(set) => {
                    let target = set.record(0)[FIXED..].to_ascii_lowercase();
                    chain.extend(ask_zone(&zone, &question.name, kind::CNAME)?.answers);
                    question.name = target;
                    continue;
                }
                Found::Foreign => {
                    drop(zone);
                    self.look_up(&question, freshness).await?
                }
                _ => (ask_zone(&zone, &question.name, question.kind)?, 0),
            };
            if chain.is_empty() {
                return Some((found, seconds));
            }
            chain.append(&mut found.answers);
            found.answers = chain;
            return Some((found, 0));
        }
        None
    }

    async fn look_up(&self, question: &Question, freshness: Freshness) -> Option<(Message, u32)> {
        if freshness == Freshness::Kept
            && let Some((kept, left)) = self.cache.get(question)
        {
            return Some((kept, left));
        }
        let asked = self.joined.ask(question, self.ask(question));
        let Some(stale) = self.cache.stale(question) else { return asked.await };
        // A client asks again after five seconds; before, it gets the old answer (RFC 8767 §5).
        match tokio::time::timeout(STALE_AFTER, asked).await {
            Ok(Some(new)) => Some(new),
            Ok(None) | Err(_) => Some((stale, 0)),
        }
    }

    async fn ask(&self, question: &Question) -> Option<(Message, u32)> {
        let routes = self.routes.load_full();
        let route = routes.iter().find(|route| is_under(&question.name, &route.suffix))?;
        let count = route.upstreams.len();
        let first = route.preferred.load(Ordering::Relaxed);
        for turn in 0..count * upstream::ROUNDS {
            let index = (first + turn) % count;
            let upstream = route.upstreams[index];
            match upstream::ask(upstream, question).await {
                Ok(message) if message.metadata.response_code == ResponseCode::ServFail => {
                    tracing::debug!(%upstream, "upstream says that it failed");
                    if turn + 1 == count * upstream::ROUNDS {
                        return None;
                    }
                }
                Ok(message) => {
                    route.preferred.store(index, Ordering::Relaxed);
                    let seconds = self.cache.put(question.clone(), &message);
                    return Some((message, seconds));
                }
                Err(error) => {
                    tracing::debug!(%upstream, %error, "upstream did not answer");
                }
            }
        }
        None
    }
}

fn sort(routes: &mut [Route]) {
    routes.sort_by_key(|route| std::cmp::Reverse(route.suffix.len()));
}

/// An answer that only says `code`, to whatever `packet` asks.
pub(crate) fn failure(packet: &[u8], code: u16) -> Option<Vec<u8>> {
    let query = query::parse(packet).ok()?;
    let mut out = vec![0; MAX_UDP];
    let Outcome::Reply(length) = answer::refuse(&query, code, &mut out) else { return None };
    out.truncate(length);
    Some(out)
}

/// The wire form of a question.
fn encode(question: &Question, id: u16) -> Vec<u8> {
    let disabled = if question.checking_disabled { flag::CHECKING_DISABLED } else { 0 };
    let mut packet = Vec::with_capacity(query::HEADER + question.name.len() + 15);
    for word in [id, flag::RECURSION_DESIRED | disabled, 1, 0, 0, 1] {
        packet.extend_from_slice(&word.to_be_bytes());
    }
    packet.extend_from_slice(&question.name);
    packet.extend_from_slice(&question.kind.to_be_bytes());
    packet.extend_from_slice(&CLASS_IN.to_be_bytes());
    packet.push(0);
    packet.extend_from_slice(&kind::OPT.to_be_bytes());
    packet.extend_from_slice(&(MAX_UDP as u16).to_be_bytes());
    let dnssec = if question.dnssec { 0x80 } else { 0 };
    packet.extend_from_slice(&[0, 0, dnssec, 0, 0, 0]);
    packet
}

/// What the zone says, as a message.
fn ask_zone(zone: &Layers, name: &[u8], kind: u16) -> Option<Message> {
    let question = Question { name: name.to_vec(), kind, dnssec: false, checking_disabled: false };
    let packet = encode(&question, 0);
    let mut out = vec![0; usize::from(u16::MAX)];
    let own = Own::default();
    let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let via = Via { transport: Transport::Tcp, client, own: &own };
    match answer::answer(zone, &packet, via, &mut out) {
        Outcome::Reply(length) => Message::from_vec(&out[..length]).ok(),
        _ => None,
    }
}

/// An upstream's answer as a thread gives it again that has kept it; for fuzz targets.
pub(crate) fn again(packet: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut message = Message::from_vec(packet).ok()?;
    message.edns = None;
    let [asked] = message.queries.as_slice() else { return None };
    let mut name = Vec::new();
    for label in asked.name().iter() {
        name.push(u8::try_from(label.len()).ok()?);
        name.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    name.push(0);
    let kind = u16::from(asked.query_type());
    let question = Question { name, kind, dnssec: false, checking_disabled: false };
    let mut hot = Hot::new(1);
    hot.put(Kept::new(&question, &message, 60)?);
    let packet = encode(&question, 7);
    let query = query::parse(&packet).ok()?;
    let asked = Asked::of(query.name);
    let at = hot.locate(&query, &asked)?;
    let own = Own::default();
    let via = Via { transport: Transport::Udp, client: IpAddr::V4(Ipv4Addr::LOCALHOST), own: &own };
    let mut out = vec![0; MAX_UDP];
    match hot.answer(at, (&query, &asked), via, std::time::Instant::now(), &mut out) {
        Hit::Reply(length) | Hit::Renew(length) => {
            out.truncate(length);
            Some((packet, out))
        }
        Hit::None => None,
    }
}

/// `found` as the answer to `query`, within what its client takes.
fn finish(found: Message, query: &Query<'_>, transport: Transport) -> Option<Vec<u8>> {
    let mut reply = found;
    let code = reply.metadata.response_code;
    let authentic = reply.metadata.authentic_data;
    let mut metadata = Message::new(query.id, MessageType::Response, OpCode::Query).metadata;
    metadata.recursion_desired = query.flags & flag::RECURSION_DESIRED != 0;
    metadata.checking_disabled = query.flags & flag::CHECKING_DISABLED != 0;
    metadata.recursion_available = true;
    metadata.authentic_data = authentic && query.edns.is_some_and(|edns| edns.dnssec);
    metadata.response_code = match code {
        ResponseCode::NoError | ResponseCode::NXDomain => code,
        ResponseCode::Refused => ResponseCode::Refused,
        _ => ResponseCode::ServFail,
    };
    reply.metadata = metadata;
    reply.edns = query.edns.map(|edns| {
        let mut ours = Edns::new();
        ours.set_max_payload(MAX_UDP as u16).set_version(0).set_dnssec_ok(edns.dnssec);
        ours
    });
    // The question goes back exactly as it came: clients vary its case as a check.
    let asked = Message::from_vec(&encode(
        &Question {
            name: query.name.to_vec(),
            kind: query.kind,
            dnssec: false,
            checking_disabled: false,
        },
        query.id,
    ))
    .ok()?;
    reply.queries = asked.queries;
    let mut bytes = reply.to_vec().ok()?;
    if bytes.len() > answer::limit(query, transport) {
        bytes = reply.truncate().to_vec().ok()?;
    }
    let place = bytes.get_mut(query::HEADER..query::HEADER + query.question.len())?;
    place.copy_from_slice(query.question);
    Some(bytes)
}
