//! Whole zones for those who may have them: AXFR, and IXFR answered with the whole zone (RFC 1995
//! §4 allows it) or with "you have it already".

use std::net::IpAddr;

use domain::base::iana::{Class, Rcode};
use domain::base::rdata::UnknownRecordData;
use domain::base::{Message, Name, Rtype, Serial, ToName, Ttl};
use domain::rdata::Soa;
use domain::rdata::tsig::Time48;
use domain::tsig::ServerSequence;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::signed::{builder, bytes};
use super::{Rules, is_newer, serial};
use crate::query::kind;
use crate::zone::Layers;
use crate::zone::file::Static;

/// Bytes of a message before its signature; several are sent where a zone is larger.
const MOST_MESSAGE: usize = 32 << 10;

/// Whether `packet` asks for a whole zone.
pub(crate) fn is_transfer(packet: &[u8]) -> bool {
    let Ok(message) = Message::from_slice(packet) else { return false };
    let header = message.header();
    let question = message.sole_question().ok();
    !header.qr()
        && u8::from(header.opcode()) == 0
        && question.is_some_and(|question| is_kind(question.qtype()))
}

fn is_kind(kind: Rtype) -> bool {
    matches!(kind.to_int(), kind::AXFR | kind::IXFR)
}

/// Answers a question for which [`is_transfer`] is true.
///
/// # Errors
/// When the client does not take it.
pub(crate) async fn send(
    zones: &Layers,
    rules: &Rules,
    client: IpAddr,
    packet: &[u8],
    stream: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let Ok(mut message) = Message::from_octets(packet.to_vec()) else { return Ok(()) };
    let mut sequence = match ServerSequence::request(&rules.keys, &mut message, Time48::now()) {
        Ok(sequence) => sequence,
        Err(error) => {
            let built = error.build_message(&message, builder()).map_err(std::io::Error::other)?;
            return write(stream, &bytes(built)).await;
        }
    };
    let question = message.sole_question().map_err(std::io::Error::other)?;
    let apex = question.qname().to_vec().as_slice().to_ascii_lowercase();
    let zone = zones.written(&apex);
    let key = sequence.as_ref().map(ServerSequence::key);
    let code = match zone {
        _ if !rules.may_have(client, key) => Rcode::REFUSED,
        None => Rcode::NOTAUTH,
        Some(_) if question.qclass() != Class::IN => Rcode::REFUSED,
        Some(_) => Rcode::NOERROR,
    };
    let shown = crate::name::text(&apex);
    tracing::info!(zone = shown, %client, code = %code, "transfer asked for");
    let known = match zone {
        Some(zone) if question.qtype().to_int() == kind::IXFR => {
            theirs(&message).is_some_and(|theirs| !is_newer(serial(zone), theirs))
        }
        _ => false,
    };
    let records = match zone.filter(|_| code == Rcode::NOERROR) {
        None => vec![],
        Some(zone) if known => vec![soa(zone)],
        Some(zone) => records(zone),
    };
    let mut rest = records.as_slice();
    let mut first = true;
    while std::mem::take(&mut first) || !rest.is_empty() {
        let mut built = builder().start_answer(&message, code).map_err(std::io::Error::other)?;
        built.header_mut().set_aa(code == Rcode::NOERROR);
        let mut any = false;
        while let Some(((name, kind, ttl, data), more)) = rest.split_first() {
            if any && built.as_slice().len() + name.len() + data.len() + 10 > MOST_MESSAGE {
                break;
            }
            let owner = Name::from_octets(*name).map_err(std::io::Error::other)?;
            let data = UnknownRecordData::from_octets(Rtype::from_int(*kind), *data)
                .map_err(std::io::Error::other)?;
            let record = (owner, Class::IN, Ttl::from_secs(*ttl), data);
            built.push(record).map_err(std::io::Error::other)?;
            (any, rest) = (true, more);
        }
        let mut built = built.additional();
        if let Some(sequence) = &mut sequence {
            sequence.answer(&mut built, Time48::now()).map_err(std::io::Error::other)?;
        }
        write(stream, &bytes(built)).await?;
    }
    Ok(())
}

type Shown<'a> = (&'a [u8], u16, u32, &'a [u8]);

/// The SOA record, all others, and the SOA record again (RFC 5936 §2.2).
fn records(zone: &Static) -> Vec<Shown<'_>> {
    let mut all = Vec::with_capacity(zone.records.len() + 2);
    all.push(soa(zone));
    for line in &zone.records {
        all.push((line.name.as_slice(), line.kind, line.ttl, line.data.as_slice()));
    }
    all.push(soa(zone));
    all
}

fn soa(zone: &Static) -> Shown<'_> {
    (&zone.apex, kind::SOA, zone.soa_ttl, &zone.soa)
}

/// The serial that a client of IXFR has.
fn theirs(message: &Message<Vec<u8>>) -> Option<u32> {
    let mut records = message.authority().ok()?.limit_to::<Soa<_>>();
    Some(Serial::into_int(records.next()?.ok()?.data().serial()))
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(message).await
}
