//! One record of a log file.

use jiff::Timestamp;

/// `TIME STREAM TAG TEXT`, without the line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub time: &'a str,
    pub stream: &'a str,
    /// Whether the next record of the stream continues this line.
    pub partial: bool,
    pub text: &'a [u8],
}

impl<'a> Record<'a> {
    /// `None` for what is no record: half a line after a crash, for instance.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(fields.next()?).ok()?;
        let stream = std::str::from_utf8(fields.next()?).ok()?;
        // Tags are a list with colons between; only the first is known.
        let partial = match fields.next()?.split(|byte| *byte == b':').next()? {
            b"P" => true,
            b"F" => false,
            _ => return None,
        };
        let known = matches!(stream, "stdout" | "stderr");
        known.then_some(Self { time, stream, partial, text: fields.next().unwrap_or_default() })
    }

    pub fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_rubbish_is_not() {
        let record = Record::parse(b"2026-01-02T03:04:05.6Z stdout F a b").expect("a record");
        assert_eq!((record.stream, record.partial, record.text), ("stdout", false, &b"a b"[..]));
        assert!(record.timestamp().is_some());
        assert!(Record::parse(b"2026-01-02T03:04:05Z stderr P ").expect("a record").partial);
        assert_eq!(Record::parse(b"t stdout F").expect("empty text").text, b"");
        for rubbish in ["", "x", "t stdout", "t stdout X y", "t other F y"] {
            assert_eq!(Record::parse(rubbish.as_bytes()), None, "{rubbish:?}");
        }
    }
}
