//! Zones that another server has: fetched, kept up to date, given up when nobody confirms them.
//!
//! Asked for again when NOTIFY says so, and as often as the zone's SOA record says. Changes alone
//! are asked for (IXFR); where the primary does not do that, or what comes does not fit, the whole.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_daemon::Tasks;
use domain::base::iana::{Class, Rcode};
use domain::base::rdata::UnknownRecordData;
use domain::base::{Message, Name, Rtype, Ttl};
use domain::rdata::tsig::Time48;
use domain::tsig::ClientSequence;
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::incoming::{BadTransfer, Came, Incoming};
use super::signed::{builder, bytes};
use super::{Followed, kept, times_of};
use crate::name;
use crate::query::kind;
use crate::served::Served;
use crate::written::Origin;
use crate::zone::file::Static;

/// How long a primary may take to answer, and between messages.
const PATIENCE: Duration = Duration::from_secs(10);
/// A zone is asked for no more often, whatever its SOA record says.
const MOST_OFTEN: u32 = 2;
/// Where no SOA record is known: how long until the next try.
const FIRST_RETRY: u32 = 10;
/// Without an answer for so long it is given up, where its SOA record says nothing.
const LONGEST: u32 = 7 * 86_400;

/// Why a zone could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("talk to the primary")]
    Stream(#[from] std::io::Error),
    #[error("the primary takes too long")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error("the signature is not right: {0}")]
    Signature(String),
    #[error(transparent)]
    Bad(#[from] BadTransfer),
}

/// Follows all zones that the rules name, in `tasks`; others when they are exchanged.
pub(crate) fn follow(served: Arc<Served>, tasks: &Tasks) {
    let mut changed = served.new_rules.subscribe();
    tasks.spawn_until_stop("secondary zones", async move {
        let confirmed = Confirmed::default();
        loop {
            let rules = served.rules.load_full();
            for origin in served.written.origins() {
                if let Origin::Primary(apex) = &origin
                    && !rules.secondaries.iter().any(|zone| zone.apex == *apex)
                {
                    served.written.forget(&origin);
                }
            }
            let mut all = Vec::new();
            for zone in &rules.secondaries {
                all.push(keep(Arc::clone(&served), Arc::clone(zone), &confirmed));
            }
            let mut all = join_all(all);
            let nothing = rules.secondaries.is_empty();
            tokio::select! {
                _ = &mut all, if !nothing => {}
                told = changed.changed() => told.expect("this task holds the sender too"),
            }
        }
    });
}

/// When a primary last confirmed each zone, by apex, and how old what it confirmed was by then.
/// Other settings change nothing of that.
type Confirmed = Mutex<HashMap<Vec<u8>, (Instant, Duration)>>;

/// Keeps one zone up to date; never ends.
async fn keep(served: Arc<Served>, zone: Arc<Followed>, all: &Confirmed) {
    let origin = Origin::Primary(zone.apex.clone());
    let shown = name::text(&zone.apex);
    let table = || all.lock().expect("no holder of the lock panics");
    let last = table().get(&zone.apex).copied();
    let last = last.filter(|_| served.written.from(&origin).is_some());
    let (mut confirmed, mut before) = match last {
        Some(last) => last,
        None => (Instant::now(), restore(&served, &zone).await.unwrap_or_default()),
    };
    table().insert(zone.apex.clone(), (confirmed, before));
    loop {
        let mut fetched = false;
        for primary in &zone.primaries {
            let known = served.written.from(&origin);
            match fetch(*primary, &zone, known.as_deref()).await {
                Ok(Came::Same) => {
                    fetched = true;
                    on_disk(&zone, None).await;
                }
                Ok(Came::Zone(new)) => match served.written.take(origin.clone(), new) {
                    Ok(()) => {
                        fetched = true;
                        on_disk(&zone, served.written.from(&origin)).await;
                    }
                    Err(error) => tracing::warn!(zone = shown, %primary, %error, "not taken"),
                },
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(zone = shown, %primary, error, "zone not fetched");
                }
            }
            if fetched {
                (confirmed, before) = (Instant::now(), Duration::ZERO);
                table().insert(zone.apex.clone(), (confirmed, before));
                break;
            }
        }
        let known = served.written.from(&origin);
        let times = known.as_ref().map(|zone| times_of(&zone.soa));
        let [refresh, retry, expire] = times.unwrap_or([FIRST_RETRY, FIRST_RETRY, LONGEST]);
        let wait = if fetched { refresh } else { retry }.max(MOST_OFTEN);
        if known.is_some() && before + confirmed.elapsed() > Duration::from_secs(expire.into()) {
            tracing::warn!(zone = shown, "no primary has confirmed it for too long");
            served.written.forget(&origin);
        }
        // Who is told or has waited looks again.
        let _ = timeout(Duration::from_secs(wait.into()), zone.wake.notified()).await;
    }
}

/// Puts the zone in force that is kept on disk; for how long nobody has confirmed it.
async fn restore(served: &Arc<Served>, zone: &Arc<Followed>) -> Option<Duration> {
    let origin = Origin::Primary(zone.apex.clone());
    let path = zone.file.clone()?;
    if served.written.from(&origin).is_some() {
        return None;
    }
    let (served, apex) = (Arc::clone(served), zone.apex.clone());
    let loading = tokio::task::spawn_blocking(move || {
        let shown = name::text(&apex);
        match kept::load(&path, &apex) {
            Ok(Some((zone, age))) => match served.written.take(origin, zone) {
                Ok(()) => return Some(age),
                Err(error) => tracing::warn!(zone = shown, %error, "not taken"),
            },
            Ok(None) => tracing::warn!(zone = shown, "what is kept of it has expired"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(zone = shown, %error, "what is kept is not used"),
        }
        None
    });
    loading.await.ok().flatten()
}

/// Keeps the zone for the next start, or that what is kept was confirmed.
async fn on_disk(zone: &Arc<Followed>, new: Option<Arc<Static>>) {
    let Some(path) = zone.file.clone() else { return };
    let shown = name::text(&zone.apex);
    let keeping = tokio::task::spawn_blocking(move || match new {
        Some(new) => kept::store(&path, &new),
        None => kept::confirm(&path),
    });
    if let Ok(Err(error)) = keeping.await {
        tracing::warn!(zone = shown, %error, "zone not kept on disk");
    }
}

async fn fetch(
    primary: SocketAddr,
    zone: &Followed,
    known: Option<&Static>,
) -> Result<Came, FetchError> {
    let Some(known) = known else { return ask(primary, zone, kind::AXFR, None).await };
    match ask(primary, zone, kind::IXFR, Some(known)).await {
        Err(FetchError::Bad(error)) if !matches!(error, BadTransfer::Older) => {
            tracing::debug!(%error, "changes alone not taken, asking for the whole");
            ask(primary, zone, kind::AXFR, Some(known)).await
        }
        other => other,
    }
}

async fn ask(
    primary: SocketAddr,
    zone: &Followed,
    kind: u16,
    known: Option<&Static>,
) -> Result<Came, FetchError> {
    let other = |error: domain::base::message_builder::PushError| {
        FetchError::Stream(std::io::Error::other(error))
    };
    let name = Name::from_octets(zone.apex.as_slice()).map_err(std::io::Error::other)?;
    let mut built = builder();
    built.header_mut().set_id(rand::random());
    let id = built.header().id();
    let mut built = built.question();
    built.push((&name, Rtype::from_int(kind), Class::IN)).map_err(other)?;
    let mut built = built.authority();
    if let Some(known) = known.filter(|_| kind == kind::IXFR) {
        let soa = UnknownRecordData::from_octets(Rtype::SOA, known.soa.as_slice());
        let soa = soa.map_err(std::io::Error::other)?;
        built.push((&name, Class::IN, Ttl::from_secs(known.soa_ttl), soa)).map_err(other)?;
    }
    let mut built = built.additional();
    let mut sequence = match &zone.key {
        Some(key) => Some(
            ClientSequence::request(Arc::clone(key), &mut built, Time48::now()).map_err(other)?,
        ),
        None => None,
    };
    let question = bytes(built);
    let mut stream = timeout(PATIENCE, TcpStream::connect(primary)).await??;
    let length = u16::try_from(question.len()).map_err(std::io::Error::other)?;
    timeout(PATIENCE, stream.write_all(&[&length.to_be_bytes(), question.as_slice()].concat()))
        .await??;
    let mut incoming = Incoming::new(&zone.apex, known);
    loop {
        let length = timeout(PATIENCE, stream.read_u16()).await??;
        let mut answer = vec![0; usize::from(length)];
        timeout(PATIENCE, stream.read_exact(&mut answer)).await??;
        let mut message = Message::from_octets(answer).map_err(|_| BadTransfer::Unreadable)?;
        if message.header().id() != id || !message.header().qr() {
            return Err(BadTransfer::Unreadable.into());
        }
        if let Some(sequence) = &mut sequence {
            // A refusal may come unsigned; whatever it says, nothing is taken then.
            let checked = sequence.answer(&mut message, Time48::now());
            if let Err(error) = checked {
                let code = message.header().rcode();
                return Err(match code {
                    Rcode::NOERROR => FetchError::Signature(error.to_string()),
                    code => BadTransfer::Code(code).into(),
                });
            }
        }
        let Some(came) = incoming.take(&message)? else { continue };
        if let Some(sequence) = sequence {
            sequence.done().map_err(|error| FetchError::Signature(error.to_string()))?;
        }
        return Ok(came);
    }
}
