//! Telling others of a zone that changed, and being told (RFC 1996).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use berth_daemon::Tasks;
use domain::base::iana::{Class, Opcode, Rcode};
use domain::base::{Message, Name, Rtype, ToName};
use domain::rdata::tsig::Time48;
use domain::tsig::{ClientTransaction, Key};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::signed::{builder, bytes, check};
use super::{Rules, serial};
use crate::name;
use crate::served::Served;

/// A server that does not answer is told again after this time, then after twice as long.
const PATIENCE: Duration = Duration::from_secs(1);
const TIMES: u32 = 4;
/// Servers told at a time.
const AT_ONCE: usize = 16;

/// The answer to a NOTIFY from `client`; wakes who follows the zone. `None` for what is none.
pub(crate) fn answer(rules: &Rules, client: IpAddr, packet: &[u8]) -> Option<Vec<u8>> {
    let checked = match check(&rules.keys, packet) {
        Ok(checked) => checked,
        Err(answer) => return Some(answer).filter(|answer| !answer.is_empty()),
    };
    let message = Message::from_slice(&checked.packet).ok()?;
    if message.header().qr() || message.header().opcode() != Opcode::NOTIFY {
        return None;
    }
    let question = message.sole_question().ok()?;
    let apex = question.qname().to_vec().as_slice().to_ascii_lowercase();
    let client = client.to_canonical();
    let zone = rules.secondaries.iter().find(|zone| zone.apex == apex).filter(|zone| {
        let from = zone.primaries.iter().any(|primary| primary.ip().to_canonical() == client);
        match &zone.key {
            Some(key) => checked.key().is_some_and(|signed| signed.name() == key.name()),
            None => from,
        }
    });
    let code = match zone {
        Some(zone) => {
            tracing::info!(zone = name::text(&apex), %client, "told that it changed");
            zone.wake.notify_one();
            Rcode::NOERROR
        }
        None => Rcode::REFUSED,
    };
    let mut built = builder().start_answer(message, code).ok()?;
    built.header_mut().set_aa(zone.is_some());
    let answer = bytes(built.additional());
    checked.sign(answer)
}

/// Tells the servers that the rules name of each zone whose serial changes, in `tasks`.
pub(crate) fn tell(served: Arc<Served>, tasks: &Tasks) {
    let mut changes = served.zone.changes();
    tasks.spawn_until_stop("notify", async move {
        let mut told: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        loop {
            let zones = served.zone.get();
            let now: BTreeMap<_, _> =
                zones.all_written().map(|zone| (zone.apex.clone(), serial(zone))).collect();
            drop(zones);
            let rules = served.rules.load_full();
            let mut all = Vec::new();
            for (apex, serial) in &now {
                if told.get(apex) != Some(serial) {
                    all.extend(rules.notify.iter().map(|server| (apex.clone(), *server)));
                }
            }
            let mut all = all.into_iter();
            let mut under_way = FuturesUnordered::new();
            loop {
                while under_way.len() < AT_ONCE
                    && let Some((apex, server)) = all.next()
                {
                    under_way.push(tell_logged(apex, server, rules.key.clone()));
                }
                if under_way.next().await.is_none() {
                    break;
                }
            }
            told = now;
            if changes.changed().await.is_err() {
                return;
            }
        }
    });
}

async fn tell_logged(apex: Vec<u8>, server: SocketAddr, key: Option<Arc<Key>>) {
    if let Err(error) = tell_one(&apex, server, key).await {
        tracing::warn!(zone = name::text(&apex), %server, %error, "not told of the change");
    }
}

async fn tell_one(apex: &[u8], server: SocketAddr, key: Option<Arc<Key>>) -> std::io::Result<()> {
    let mut built = builder();
    built.header_mut().set_id(rand::random());
    built.header_mut().set_opcode(Opcode::NOTIFY);
    built.header_mut().set_aa(true);
    let id = built.header().id();
    let mut built = built.question();
    let name = Name::from_octets(apex).map_err(std::io::Error::other)?;
    built.push((name, Rtype::SOA, Class::IN)).map_err(std::io::Error::other)?;
    let mut built = built.additional();
    let transaction = match key {
        Some(key) => Some(
            ClientTransaction::request(key, &mut built, Time48::now())
                .map_err(std::io::Error::other)?,
        ),
        None => None,
    };
    let packet = bytes(built);
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let mut answer = [0; 1232];
    for turn in 0..TIMES {
        socket.send(&packet).await?;
        let came = timeout(PATIENCE * (1 << turn), socket.recv(&mut answer)).await;
        let Ok(length) = came else { continue };
        let length = length?;
        let Ok(mut message) = Message::from_octets(answer[..length].to_vec()) else { continue };
        if message.header().id() != id || !message.header().qr() {
            continue;
        }
        if let Some(transaction) = &transaction {
            let checked = transaction.answer(&mut message, Time48::now());
            checked.map_err(std::io::Error::other)?;
        }
        return match message.header().rcode() {
            Rcode::NOERROR => Ok(()),
            code => Err(std::io::Error::other(format!("the server says {code}"))),
        };
    }
    Err(std::io::ErrorKind::TimedOut.into())
}
