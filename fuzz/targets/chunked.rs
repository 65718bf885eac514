//! Any bytes as a chunked body: no panic; in one piece and in many it ends at the same place or is
//! refused alike; and what it takes is a body by a reader that knows only the grammar.

#![no_main]

use framing::{Chunks, Framing};
use libfuzzer_sys::fuzz_target;

// The file alone: the crate around it would bring Pingora, instrumented.
#[allow(dead_code)]
#[path = "../../crates/balancer/src/l7/plain/framing.rs"]
mod framing;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let new = || Framing::Chunked(Chunks::default());
    let whole = new().take(bytes);
    let (mut framing, mut pieces) = (new(), Ok((0, false)));
    for part in bytes.chunks(usize::from(piece).max(1)) {
        let Ok((used, false)) = pieces else { break };
        pieces = framing.take(part).map(|(more, ends)| (used + more, ends));
    }
    assert_eq!(whole, pieces);
    let Ok((used, true)) = whole else { return };
    assert_eq!(ends(bytes), Some(used));
});

/// Where the body that `bytes` begin with ends.
fn ends(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let line = |at: &mut usize| -> Option<Vec<u8>> {
        let end = bytes[*at..].windows(2).position(|two| two == b"\r\n")?;
        let text = bytes[*at..*at + end].to_vec();
        *at += end + 2;
        Some(text)
    };
    loop {
        let text = line(&mut at)?;
        let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = std::str::from_utf8(&text[..digits]).ok()?;
        let size = usize::try_from(u64::from_str_radix(size, 16).ok()?).ok()?;
        if size == 0 {
            while !line(&mut at)?.is_empty() {}
            return Some(at);
        }
        at = at.checked_add(size)?;
        if bytes.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
}
