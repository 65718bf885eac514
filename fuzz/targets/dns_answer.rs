//! Any message as what another server says: never a panic; an answer of an upstream that is kept says
//! the same when it is given again, as hickory reads both; what is no transfer is taken for none.
#![no_main]

use hickory_proto::op::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| {
    berth_dns::fuzzing::transferred(packet);
    let Some((asked, said)) = berth_dns::fuzzing::again(packet) else { return };
    let theirs = Message::from_vec(packet).expect("it was read before");
    let ours = Message::from_vec(&said).expect("what is said can be read");
    assert_eq!(said[..2], asked[..2]);
    assert_eq!(ours.queries.len(), 1);
    // Of one owner and data; what is kept grows older, and begins with what was said.
    assert_eq!(ours.answers, theirs.answers);
    assert_eq!(ours.authorities, theirs.authorities);
    assert_eq!(ours.additionals, theirs.additionals);
    for (ours, theirs) in ours.answers.iter().zip(&theirs.answers) {
        assert!(ours.ttl <= theirs.ttl && theirs.ttl - ours.ttl <= 1);
    }
});
