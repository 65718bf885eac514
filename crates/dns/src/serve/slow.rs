//! What takes longer than a table: names of others, signatures, NOTIFY.

use std::net::IpAddr;

use crate::answer::{Outcome, Transport, Via, answer as from_zone};
use crate::forward::{Answered, Freshness};
use crate::query::{self, HEADER, flag};
use crate::served::Served;
use crate::transfer::{notify, signed};

/// The answer to `packet`; `None` where nothing is to be said.
pub(super) async fn answer(
    served: &Served,
    packet: &[u8],
    client: IpAddr,
    transport: Transport,
) -> Option<Answered> {
    let plain = |bytes| Answered { bytes, kept: None };
    if is_notify(packet) {
        return notify::answer(&served.rules.load(), client, packet).map(plain);
    }
    if !query::parse(packet).is_ok_and(|query| query.signed) {
        return served.forward.answer(packet, transport, Freshness::Kept).await;
    }
    let checked = match signed::check(&served.rules.load().keys, packet) {
        Ok(checked) => checked,
        Err(refusal) => return Some(plain(refusal)).filter(|refusal| !refusal.bytes.is_empty()),
    };
    let mut out = vec![0; usize::from(u16::MAX)];
    let outcome = {
        let own = served.own.load();
        let via = Via { transport, client, own: &own };
        from_zone(&served.zone.get(), &checked.packet, via, &mut out)
    };
    let bytes = match outcome {
        Outcome::Reply(length) => {
            out.truncate(length);
            out
        }
        Outcome::Forward => {
            served.forward.answer(&checked.packet, transport, Freshness::Kept).await?.bytes
        }
        Outcome::Drop => return None,
    };
    checked.sign(bytes).map(plain)
}

/// Whether it is a question of NOTIFY.
pub(super) fn is_notify(packet: &[u8]) -> bool {
    let flags = packet.get(2..4).map(|flags| u16::from_be_bytes([flags[0], flags[1]]));
    packet.len() >= HEADER
        && flags.is_some_and(|flags| flags & (flag::OPCODE | flag::RESPONSE) == flag::NOTIFY)
}
