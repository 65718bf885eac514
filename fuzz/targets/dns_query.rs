//! Any packet at the DNS server: never a panic; what is read as a query, hickory reads alike; what
//! is answered can be read by hickory, has the query's id, and is no amplification beyond what the
//! client said it takes.
#![no_main]

use hickory_proto::op::{Message, MessageType};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| {
    let read = berth_dns::fuzzing::decode(packet);
    let theirs = Message::from_vec(packet);
    if let (Some((id, name, kind, class)), Ok(theirs)) = (&read, &theirs) {
        assert_eq!(theirs.metadata.id, *id);
        let [query] = theirs.queries.as_slice() else { panic!("one question was read") };
        let mut wire = Vec::new();
        for label in query.name().iter() {
            wire.push(label.len() as u8);
            wire.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        wire.push(0);
        assert_eq!((&wire, u16::from(query.query_type())), (name, *kind));
        assert_eq!(u16::from(query.query_class()), *class);
    }
    let Some(answer) = berth_dns::fuzzing::respond(packet) else { return };
    let payload = theirs.ok().and_then(|theirs| theirs.edns.map(|edns| edns.max_payload()));
    let most = usize::from(payload.unwrap_or(1232)).clamp(512, 1232);
    assert!(answer.len() <= most, "{} bytes, {most} are taken", answer.len());
    assert_eq!(answer[..2], packet[..2]);
    let said = Message::from_vec(&answer).expect("what is answered can be read");
    assert_eq!(said.metadata.message_type, MessageType::Response);
    // An answer is no query: two servers cannot be set upon each other.
    assert!(berth_dns::fuzzing::respond(&answer).is_none());
});
