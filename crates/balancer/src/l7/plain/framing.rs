//! Where an answer's body ends, RFC 9112 section 6. Bodies pass as they are.

/// How much of a body is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes.
    Length(u64),
    Chunked(Chunks),
    /// Until the pod closes.
    UntilClose,
}

/// A body that is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// How much of the bytes given belongs to the body, and whether it ends there.
pub(super) type Taken = (usize, bool);

/// Where in a chunked body we are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks {
    at: At,
    /// Of the size that is read, or of the chunk that passes.
    left: u64,
    /// Of a line that may not be too long.
    line: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    FirstDigit,
    Size,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataEnd,
    /// The first byte of a line behind the last chunk.
    Trailer,
    TrailerLine,
    TrailerEnd,
    LastEnd,
}

/// A line of sizes and extensions, or all trailers.
const LONGEST: usize = 16 * 1024;

impl Framing {
    /// What of `bytes` belongs to the body.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Taken, Malformed> {
        match self {
            Self::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= here as u64;
                Ok((here, *left == 0))
            }
            Self::Chunked(chunks) => chunks.take(bytes),
            Self::UntilClose => Ok((bytes.len(), false)),
        }
    }
}

impl Chunks {
    fn take(&mut self, bytes: &[u8]) -> Result<Taken, Malformed> {
        let mut used = 0;
        while let Some(byte) = bytes.get(used) {
            if self.at == At::Data {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - used);
                self.left -= here as u64;
                used += here;
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            used += 1;
            self.line += 1;
            if self.line > LONGEST {
                return Err(Malformed);
            }
            self.at = match (self.at, byte) {
                (At::FirstDigit | At::Size, digit) if digit.is_ascii_hexdigit() => {
                    let digit = (*digit as char).to_digit(16).ok_or(Malformed)?;
                    let left = self.left.checked_mul(16).ok_or(Malformed)?;
                    self.left = left + u64::from(digit);
                    At::Size
                }
                (At::Size, b';' | b' ' | b'\t') => At::Extension,
                (At::Size | At::Extension, b'\r') => At::SizeEnd,
                (At::Extension, byte) if *byte != b'\n' => At::Extension,
                (At::SizeEnd, b'\n') => {
                    self.line = 0;
                    if self.left == 0 { At::Trailer } else { At::Data }
                }
                (At::DataCr, b'\r') => At::DataEnd,
                (At::DataEnd, b'\n') => {
                    self.line = 0;
                    At::FirstDigit
                }
                (At::Trailer, b'\r') => At::LastEnd,
                (At::Trailer | At::TrailerLine, byte) if !matches!(byte, b'\r' | b'\n') => {
                    At::TrailerLine
                }
                (At::TrailerLine, b'\r') => At::TrailerEnd,
                (At::TrailerEnd, b'\n') => At::Trailer,
                (At::LastEnd, b'\n') => return Ok((used, true)),
                _ => return Err(Malformed),
            };
        }
        Ok((used, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much of `body` is one, in one piece and byte by byte; `None` if it is none.
    fn end(body: &str) -> Option<Taken> {
        let whole = Framing::Chunked(Chunks::default()).take(body.as_bytes());
        let mut framing = Framing::Chunked(Chunks::default());
        let mut pieces = Ok((0, false));
        for byte in body.as_bytes() {
            let Ok((used, false)) = pieces else { break };
            pieces = framing.take(&[*byte]).map(|(more, ends)| (used + more, ends));
        }
        assert_eq!(whole, pieces, "{body:?}");
        whole.ok()
    }

    #[test]
    fn chunks_end_where_they_end() {
        let check =
            |body: &str, expected: Option<Taken>| assert_eq!(end(body), expected, "{body:?}");
        check("0\r\n\r\n", Some((5, true)));
        check("3\r\nabc\r\n0\r\n\r\nHTTP/1.1", Some((13, true)));
        check("A;x=\"y\"\r\n0123456789\r\n0\r\n\r\n", Some((26, true)));
        check("0\r\nA: b\r\nC: d\r\n\r\nrest", Some((17, true)));
        check("3\r\nab", Some((5, false)));
        check("ffffffffffffffff\r\nab", Some((20, false)));
        for bad in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "+3\r\nabc",
            "3\nabc",
            "3\rabc",
            "3\r\nabcd\r\n",
            "3;a\nb",
            "10000000000000000\r\n",
            "0\r\n\n",
            "0\r\nA: b\nC: d\r\n\r\n",
            ";x\r\n",
        ] {
            check(bad, None);
        }
        let long = format!("1;{}\r\n", "x".repeat(LONGEST));
        check(&long, None);
    }

    #[test]
    fn a_length_takes_so_much_and_no_more() {
        let mut framing = Framing::Length(5);
        assert_eq!(framing.take(b"abc"), Ok((3, false)));
        assert_eq!(framing.take(b"defg"), Ok((2, true)));
        assert_eq!(Framing::UntilClose.take(b"abc"), Ok((3, false)));
    }
}
