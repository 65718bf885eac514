//! The decoders as any bytes reach them, for fuzz/targets: what a socket would do with a packet,
//! without the socket.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};

use crate::answer::{MAX_UDP, Outcome, Transport, Via, answer};
use crate::own::Own;
use crate::transfer::{Rules, Transfers, TsigKey};
use crate::zone::file::read;
use crate::zone::{Layers, Policies};
use crate::{forward, query, transfer};

const ZONE: &str = "$ORIGIN example.org.\n$TTL 300\n@ SOA ns admin 1 7200 1800 86400 60\n@ NS ns\n\
    ns A 192.0.2.1\nwww CNAME ns\n*.wild TXT \"any\"\nsub NS ns.sub\nns.sub A 192.0.2.53\n\
    many A 192.0.2.2\nmany A 192.0.2.3\nmail MX 5 ns\n_x._tcp SRV 1 2 3 ns\na.b.c AAAA ::1\n";

static LAYERS: LazyLock<Layers> = LazyLock::new(|| {
    let (zone, _) = read(ZONE.as_bytes(), None).expect("the zone above is in order");
    Layers::default().with_written(&[Arc::new(zone)], &Policies::new())
});
static OWN: LazyLock<Own> =
    LazyLock::new(|| Own { nsid: b"fuzz".to_vec(), secret: [7; 16], ..Own::default() });

static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let key = TsigKey {
        name: "key.example".into(),
        algorithm: "hmac-sha256".into(),
        secret: "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=".into(),
    };
    Rules::new(&[key], &Transfers::default(), &[]).expect("the key above is one")
});

/// What `packet` says, as far as it is a query: its id, name in lower case, type and class.
pub fn decode(packet: &[u8]) -> Option<(u16, Vec<u8>, u16, u16)> {
    let query = query::parse(packet).ok()?;
    Some((query.id, query.name.to_ascii_lowercase(), query.kind, query.class))
}

/// The answer that a client gets from a small zone over UDP; `None` for silence, or where an
/// upstream would be asked.
pub fn respond(packet: &[u8]) -> Option<Vec<u8>> {
    let mut out = [0; MAX_UDP];
    let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let via = Via { transport: Transport::Udp, client, own: &OWN };
    match answer(&LAYERS, packet, via, &mut out) {
        Outcome::Reply(length) => Some(out[..length].to_vec()),
        _ => None,
    }
}

/// An upstream's answer as a thread gives it again that has kept it: to which question, and what.
pub fn again(packet: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    forward::again(packet)
}

/// What another server sends of a zone, signed or not, as far as it can be taken: whether it was a
/// whole zone.
pub fn transferred(packet: &[u8]) -> bool {
    const APEX: &[u8] = b"\x07example\x03org\0";
    // Whether the signature is right, wrong or none, it must be looked at.
    let unsigned = transfer::signed::check(&RULES.keys, packet).map(|checked| checked.packet);
    let packet = unsigned.unwrap_or_else(|_| packet.to_vec());
    transfer::reads_whole(APEX, packet)
}

/// Reads a zone file and writes it again, record by record; `None` for one that is refused.
pub fn rewritten(text: &[u8]) -> Option<String> {
    read(text, None).ok().map(|(zone, _)| zone.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Message;

    /// What the targets hold, on their seeds and near them; `./dev fuzz` looks further.
    fn near_seeds(target: &str, rounds: usize, check: impl Fn(&[u8])) {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
        let files = std::fs::read_dir(dir.join(target)).expect("it is part of the repository");
        let seeds: Vec<Vec<u8>> = files
            .map(|file| std::fs::read(file.expect("it is listed").path()).expect("it is read"))
            .collect();
        assert!(!seeds.is_empty());
        let begun: u64 = rand::random();
        println!("{target}: seed {begun}");
        let mut random = begun | 1;
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 11) as usize % below.max(1)
        };
        seeds.iter().for_each(|seed| check(seed));
        for _ in 0..rounds {
            let mut bytes = seeds[next(seeds.len())].clone();
            for _ in 0..=next(4) {
                let (at, other) = (next(bytes.len()), &seeds[next(seeds.len())]);
                match next(4) {
                    0 => bytes.truncate(at),
                    1 => bytes.extend_from_slice(&other[next(other.len())..]),
                    _ if bytes.is_empty() => {}
                    2 => bytes[at] = next(256) as u8,
                    _ => bytes[at] ^= 1 << next(8),
                }
            }
            check(&bytes);
        }
    }

    #[test]
    fn packets_near_the_seeds_are_read_as_hickory_reads_them() {
        near_seeds("dns_query", 20_000, |packet| {
            if let (Some((id, ..)), Ok(theirs)) = (decode(packet), Message::from_vec(packet)) {
                assert_eq!((theirs.metadata.id, theirs.queries.len()), (id, 1));
            }
            let Some(answer) = respond(packet) else { return };
            assert!(answer.len() <= MAX_UDP && answer[..2] == packet[..2]);
            Message::from_vec(&answer).expect("what is answered can be read");
            assert!(respond(&answer).is_none());
        });
    }

    #[test]
    fn answers_near_the_seeds_are_kept_as_they_were() {
        near_seeds("dns_answer", 20_000, |packet| {
            transferred(packet);
            let Some((_, said)) = again(packet) else { return };
            let theirs = Message::from_vec(packet).expect("it was read before");
            let ours = Message::from_vec(&said).expect("what is said can be read");
            assert_eq!(
                (ours.answers, ours.authorities, ours.additionals),
                (theirs.answers, theirs.authorities, theirs.additionals)
            );
        });
    }

    #[test]
    fn zones_near_the_seeds_are_written_to_the_same() {
        near_seeds("dns_zone", 5_000, |text| {
            let Some(once) = rewritten(text) else { return };
            let twice = rewritten(once.as_bytes());
            assert_eq!(twice.as_deref(), Some(once.as_str()));
        });
    }
}
