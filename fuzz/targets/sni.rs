//! Any bytes as the beginning of a TLS connection: no panic; a name is a host name; a hello that is
//! whole stays the same whatever follows, and no beginning of it is refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sni::{Hello, parse};

// The file alone: the crate around it would bring Pingora, instrumented.
#[allow(dead_code)]
#[path = "../../crates/balancer/src/sni.rs"]
mod sni;

fuzz_target!(|bytes: &[u8]| {
    let Ok(Hello::Whole(name)) = parse(bytes) else { return };
    if let Some(name) = &name {
        assert!(!name.is_empty() && name.len() <= 253);
        assert!(name.bytes().all(|byte| !byte.is_ascii_uppercase() && byte.is_ascii_graphic()));
    }
    let whole = Ok(Hello::Whole(name));
    assert_eq!(parse(&[bytes, b"more"].concat()), whole);
    // A beginning of it asks for more, or is all that was needed.
    for cut in 0..bytes.len().min(600) {
        let beginning = parse(&bytes[..cut]);
        assert!(beginning == Ok(Hello::Partial) || beginning == whole, "{cut}: {beginning:?}");
    }
});
