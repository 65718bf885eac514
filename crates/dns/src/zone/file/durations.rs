//! Times to live as people write them, `1h30m`, in seconds: a habit from BIND that the parser of
//! RFC 1035's form does not have.
//!
//! Only where a time may stand: behind `$TTL`, before a record's type, and in SOA's numbers. A host
//! may be called `1d` as well.

/// The same text with every such time as a plain number. Lines stay lines.
pub(super) fn in_seconds(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 16);
    let mut entry = Entry::default();
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'\n' => {
                if entry.open == 0 {
                    entry = Entry::default();
                } else {
                    entry.column = 0;
                }
            }
            b';' => {
                let rest = &text[at..];
                let length = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                out.extend_from_slice(&rest[..length]);
                at += length;
                continue;
            }
            b'(' => entry.open += 1,
            b')' => entry.open = entry.open.saturating_sub(1),
            byte if byte.is_ascii_whitespace() => entry.column += 1,
            _ => {
                let length = word(&text[at..]);
                let word = &text[at..at + length];
                match entry.is_time(word).then(|| seconds(word)).flatten() {
                    Some(seconds) => out.extend_from_slice(seconds.to_string().as_bytes()),
                    None => out.extend_from_slice(word),
                }
                entry.column += length;
                at += length;
                continue;
            }
        }
        out.push(*byte);
        at += 1;
    }
    out
}

/// What of an entry has been read.
#[derive(Default)]
struct Entry {
    open: usize,
    column: usize,
    /// `$TTL` began it.
    directive: Option<bool>,
    /// Words since its type SOA.
    authority: Option<usize>,
    typed: bool,
}

impl Entry {
    /// Whether a time may stand where `word` does; takes the word in.
    fn is_time(&mut self, word: &[u8]) -> bool {
        let first = self.column == 0 && self.open == 0;
        if let Some(is_ttl) = self.directive {
            return is_ttl;
        }
        if first {
            if word.first() == Some(&b'$') {
                self.directive = Some(word.eq_ignore_ascii_case(b"$TTL"));
            }
            return false; // the owner
        }
        if let Some(words) = &mut self.authority {
            *words += 1;
            return *words > 3; // server, mailbox and serial are no times
        }
        if self.typed {
            return false;
        }
        let class = [b"IN", b"CH", b"HS"].iter().any(|class| word.eq_ignore_ascii_case(*class));
        if class || seconds(word).is_some() || word.iter().all(u8::is_ascii_digit) {
            return true;
        }
        self.typed = true;
        if word.eq_ignore_ascii_case(b"SOA") {
            self.authority = Some(0);
        }
        false
    }
}

/// The length of the word that `rest` begins with, quoted or not.
fn word(rest: &[u8]) -> usize {
    let mut quoted = false;
    let mut at = 0;
    while let Some(byte) = rest.get(at) {
        match byte {
            b'\\' => at += 1,
            b'"' => quoted = !quoted,
            b'\n' => break,
            b';' | b'(' | b')' if !quoted => break,
            byte if byte.is_ascii_whitespace() && !quoted => break,
            _ => {}
        }
        at += 1;
    }
    at.clamp(1, rest.len())
}

/// `1h30m` and the like; `None` for anything else, plain numbers too.
fn seconds(word: &[u8]) -> Option<u32> {
    let (mut sum, mut number, mut digits) = (0u32, 0u32, false);
    for byte in word {
        let unit = match byte.to_ascii_lowercase() {
            digit @ b'0'..=b'9' => {
                number = number.checked_mul(10)?.checked_add(u32::from(digit - b'0'))?;
                digits = true;
                continue;
            }
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        if !digits {
            return None;
        }
        sum = sum.checked_add(number.checked_mul(unit)?)?;
        (number, digits) = (0, false);
    }
    (!digits && !word.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_numbers_where_times_stand_and_nowhere_else() {
        let check = |text: &str, expected: &str| {
            assert_eq!(String::from_utf8_lossy(&in_seconds(text.as_bytes())), expected);
        };
        check("$TTL 1h30m ; 1h\n", "$TTL 5400 ; 1h\n");
        check("1d 1d IN CNAME 1d\n", "1d 86400 IN CNAME 1d\n");
        check(" IN 2w TXT 1h \"1h ; 1h\" 1h\n", " IN 1209600 TXT 1h \"1h ; 1h\" 1h\n");
        check(
            "@ SOA 1m 1m 7 (1h\n 15m ; 1m\n1w 5)\na A 1m",
            "@ SOA 1m 1m 7 (3600\n 900 ; 1m\n604800 5)\na A 1m",
        );
        check("$ORIGIN 1h\n\\; 1m A x", "$ORIGIN 1h\n\\; 60 A x");
        check("a 99999999w A x", "a 99999999w A x");
    }
}
