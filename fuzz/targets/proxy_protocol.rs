//! Any bytes as a PROXY header: no panic, no length beyond them; what is read is written and read
//! again the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_protocol::{Version, parse, write};

// The file alone: the crate around it would bring Pingora, instrumented.
#[allow(dead_code)]
#[path = "../../crates/balancer/src/proxy_protocol.rs"]
mod proxy_protocol;

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some((ends, length))) = parse(bytes) else { return };
    assert!(length <= bytes.len());
    // Nothing after the header changes it.
    assert_eq!(parse(&bytes[..length]), Ok(Some((ends, length))));
    let Some(ends) = ends else { return };
    for version in [Version::One, Version::Two] {
        let written = write(version, ends);
        let (again, whole) = parse(&written).expect("ours is one").expect("ours is whole");
        assert_eq!(whole, written.len());
        let again = again.expect("ours names both ends");
        assert_eq!(again.from.ip().to_canonical(), ends.from.ip().to_canonical());
        assert_eq!(again.to.port(), ends.to.port());
    }
});
