//! What was shown when, as lines of an asciicast (version 2), in pieces for the database.
//!
//! The first line is the header; each other is `[seconds, code, text]` with the codes `o` (shown),
//! `r` (another size) and `m` (a command that was typed, as a mark to jump to). What was typed is not
//! in it but as far as the terminal showed it.

use std::time::Duration;

use serde_json::json;

/// A piece goes to the database when it is this long.
const PIECE: usize = 32 * 1024;

/// The terminal's columns and rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Size {
    /// Letters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl Size {
    /// As it was given, within what a terminal can have.
    pub fn bounded(self) -> Self {
        Self { columns: self.columns.clamp(1, 1000), rows: self.rows.clamp(1, 1000) }
    }
}

/// Gathers events.
#[derive(Debug)]
pub(super) struct Recording {
    piece: String,
    /// Bytes of pieces that were taken.
    taken: usize,
    limit: usize,
}

impl Recording {
    /// Begins with the header. It is full at `limit` bytes.
    pub fn begin(size: Size, title: &str, at_ms: i64, limit: usize) -> Self {
        let header = json!({
            "version": 2, "width": size.columns, "height": size.rows,
            "timestamp": at_ms / 1000, "title": title, "env": { "TERM": super::TERM },
        });
        Self { piece: format!("{header}\n"), taken: 0, limit }
    }

    /// `text` was shown `at` after the beginning.
    pub fn shown(&mut self, at: Duration, text: &str) {
        self.event(at, "o", text);
    }

    /// The terminal has another size.
    pub fn resized(&mut self, at: Duration, size: Size) {
        self.event(at, "r", &format!("{}x{}", size.columns, size.rows));
    }

    /// `command` was entered.
    pub fn marked(&mut self, at: Duration, command: &str) {
        self.event(at, "m", command);
    }

    fn event(&mut self, at: Duration, code: &str, text: &str) {
        // Whole microseconds: a sum of floats would not read as people write it.
        let micros = at.as_micros();
        let seconds = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
        let (code, text) = (json!(code), json!(text));
        self.piece.push_str(&format!("[{seconds}, {code}, {text}]\n"));
    }

    /// Whether a piece is long enough to be written.
    pub fn is_due(&self) -> bool {
        self.piece.len() >= PIECE
    }

    /// Whether no more may come.
    pub fn is_full(&self) -> bool {
        self.taken + self.piece.len() >= self.limit
    }

    /// Whole lines since the last time, if any.
    pub fn take(&mut self) -> Option<String> {
        self.taken += self.piece.len();
        (!self.piece.is_empty()).then(|| std::mem::take(&mut self.piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_an_asciicast() {
        let size = Size { columns: 80, rows: 24 };
        let mut recording = Recording::begin(size, "shop/web", 1_700_000_000_123, 1 << 20);
        recording.shown(Duration::from_millis(1500), "\u{1b}[31m\"红\"\r\n");
        recording.resized(Duration::from_secs(2), Size { columns: 100, rows: 30 });
        recording.marked(Duration::from_secs(3), "ls");
        let text = recording.take().unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["version"], 2);
        assert_eq!((&lines[0]["width"], &lines[0]["height"]), (&json!(80), &json!(24)));
        assert_eq!(lines[0]["timestamp"], 1_700_000_000);
        assert_eq!(lines[1], json!([1.5, "o", "\u{1b}[31m\"红\"\r\n"]));
        assert_eq!(lines[2], json!([2.0, "r", "100x30"]));
        assert_eq!(lines[3], json!([3.0, "m", "ls"]));
        assert_eq!(recording.take(), None);
    }

    #[test]
    fn it_is_full_at_its_limit() {
        let mut recording = Recording::begin(Size { columns: 1, rows: 1 }, "", 0, 4096);
        assert!(!recording.is_full());
        recording.take();
        recording.shown(Duration::ZERO, &"x".repeat(4096));
        assert!(recording.is_full());
        assert!(recording.take().is_some_and(|piece| piece.len() > 4096));
        assert!(recording.is_full());
    }
}
