//! Any text as a zone file: never a panic; a zone that was read is written and read to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Some(once) = berth_dns::fuzzing::rewritten(text) else { return };
    let twice = berth_dns::fuzzing::rewritten(once.as_bytes());
    assert_eq!(twice.as_deref(), Some(once.as_str()));
});
