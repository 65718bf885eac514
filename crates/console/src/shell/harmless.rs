//! What a program prints, without what would make a terminal do more than show it.
//!
//! A file that somebody looks at can hold anything: sequences that set the clipboard (OSC 52) or the
//! window's title, that make the terminal answer into the shell as if the person had typed (device
//! attributes, status and mode reports), or that report the mouse there. Only what is on the lists
//! below goes on, written anew, so that a terminal that reads some oddity otherwise than this does
//! never sees the oddity. The same text is shown and recorded.
//!
//! # Source
//! ECMA-48 for the grammar; the states are those of Paul Williams' parser for DEC's terminals.

/// Parameters of a control sequence beyond this are of no sequence that is let through.
const LONG: usize = 64;
const ESC: char = '\u{1b}';

/// Final bytes of control sequences that move, erase, insert, scroll and colour.
const PLAIN: &str = "@ABCDEFGHIJKLMPSTXZ`abdefghlmrsu";
/// DEC's private modes: cursor keys, columns, reverse, origin, wrap, blink, cursor, alternate screen,
/// keypad, bracketed paste, synchronised output. None of them makes the terminal send anything by
/// itself; those of the mouse and of the focus do.
const MODES: [u16; 15] = [1, 3, 5, 6, 7, 12, 25, 45, 47, 66, 1047, 1048, 1049, 2004, 2026];

/// Where in a sequence the last byte was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    /// After ESC, with the intermediate bytes so far in `Filter::held`.
    Escape,
    /// After `ESC [`.
    Control,
    /// In a text for the terminal itself (OSC, DCS, SOS, PM, APC), which goes nowhere.
    Swallowed,
    /// As [`State::Swallowed`], after an ESC that may end it.
    SwallowedEscape,
}

/// Takes what comes, in any pieces.
#[derive(Debug, Default)]
pub(super) struct Filter {
    state: State,
    held: String,
    /// Of a character whose bytes have not all come.
    rest: Vec<u8>,
}

impl Filter {
    /// What of `bytes` is harmless, and of those before that had not ended.
    pub fn take(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let mut shown = String::with_capacity(all.len());
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            for letter in chunk.valid().chars() {
                self.letter(letter, &mut shown);
            }
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            // At the end it may be a character of which more comes.
            if chunks.peek().is_none() && unfinished(invalid) {
                self.rest = invalid.to_vec();
            } else {
                self.letter(char::REPLACEMENT_CHARACTER, &mut shown);
            }
        }
        shown
    }

    fn letter(&mut self, letter: char, shown: &mut String) {
        match (self.state, letter) {
            // These end whatever was begun.
            (_, '\u{18}' | '\u{1a}') => self.state = State::Ground,
            (State::Swallowed, ESC) => self.state = State::SwallowedEscape,
            (State::Swallowed, '\u{7}' | '\u{9c}') => self.state = State::Ground,
            (State::Swallowed, _) => {}
            // An ESC ends the text; what follows it is a sequence of its own, of which `\` is one.
            (State::SwallowedEscape, _) => {
                self.begin(State::Escape);
                self.escape(letter, shown);
            }
            (_, ESC) => self.begin(State::Escape),
            // The same in one character (C1).
            (_, '\u{9b}') => self.begin(State::Control),
            (_, '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}') => self.begin(State::Swallowed),
            (_, '\u{80}'..='\u{9f}' | '\u{7f}') => {}
            (_, '\u{0}'..='\u{1f}') => {
                // Terminals obey these even within a sequence. ENQ asks for an answer.
                if matches!(letter, '\u{7}'..='\u{f}') {
                    shown.push(letter);
                }
            }
            (State::Ground, _) => shown.push(letter),
            (State::Escape, _) => self.escape(letter, shown),
            (State::Control, _) => self.control(letter, shown),
        }
    }

    fn begin(&mut self, state: State) {
        self.state = state;
        self.held.clear();
    }

    fn escape(&mut self, letter: char, shown: &mut String) {
        match (self.held.as_str(), letter) {
            (_, ESC) => self.begin(State::Escape),
            ("", '[') => self.begin(State::Control),
            ("", ']' | 'P' | 'X' | '^' | '_') => self.begin(State::Swallowed),
            (_, ' '..='/') => self.hold(letter),
            (held, _) => {
                let known = match held {
                    // Save and restore, keypad, line feeds, tabulator, reset.
                    "" => "78=>DEHMc".contains(letter),
                    // Character sets.
                    "(" | ")" | "*" | "+" => letter.is_ascii_alphanumeric(),
                    "#" => letter == '8',
                    _ => false,
                };
                if known {
                    shown.push(ESC);
                    shown.push_str(held);
                    shown.push(letter);
                }
                self.state = State::Ground;
            }
        }
    }

    fn control(&mut self, letter: char, shown: &mut String) {
        if (' '..='?').contains(&letter) {
            self.hold(letter);
            return;
        }
        self.state = State::Ground;
        if let Some(held) = allowed(&self.held, letter) {
            shown.push(ESC);
            shown.push('[');
            shown.push_str(&held);
            shown.push(letter);
        }
    }

    fn hold(&mut self, letter: char) {
        // One more than what is allowed, so that it is not.
        if self.held.len() <= LONG {
            self.held.push(letter);
        }
    }
}

/// What stands between `ESC [` and `last`, as it goes on; `None` when the sequence does not.
fn allowed(held: &str, last: char) -> Option<String> {
    if held.len() > LONG {
        return None;
    }
    let plain =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || b";:".contains(&byte));
    match (held, last) {
        _ if plain(held) && PLAIN.contains(last) => Some(held.to_owned()),
        // The cursor's shape, and the soft reset.
        (_, 'q') if held.strip_suffix(' ').is_some_and(plain) => Some(held.to_owned()),
        ("!", 'p') => Some(held.to_owned()),
        ("?" | "?0" | "?1" | "?2", 'J' | 'K') => Some(held.to_owned()),
        (_, 'h' | 'l' | 'r' | 's') => {
            let modes: Vec<&str> = held
                .strip_prefix('?')?
                .split(';')
                .filter(|mode| mode.parse().is_ok_and(|mode: u16| MODES.contains(&mode)))
                .collect();
            (!modes.is_empty()).then(|| format!("?{}", modes.join(";")))
        }
        _ => None,
    }
}

/// Whether `bytes` are the beginning of a character in UTF-8.
fn unfinished(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(printed: &str, expected: &str) {
        assert_eq!(Filter::default().take(printed.as_bytes()), expected, "{printed:?}");
        // The same, however it was cut.
        let mut filter = Filter::default();
        let bytes: String = printed.as_bytes().iter().map(|byte| filter.take(&[*byte])).collect();
        assert_eq!(bytes, expected, "byte by byte: {printed:?}");
    }

    #[test]
    fn what_moves_and_colours_goes_on() {
        for text in [
            "plain\r\n\ttab \u{8}\u{7}",
            "\u{1b}[31mred\u{1b}[0m \u{1b}[38;2;1;2;3m \u{1b}[4:3m",
            "\u{1b}[2J\u{1b}[H\u{1b}[10;20H\u{1b}[K\u{1b}[?25l\u{1b}[?1049h\u{1b}[?2004h",
            "\u{1b}7\u{1b}8\u{1b}(0lqk\u{1b}(B\u{1b}=\u{1b}M\u{1b}[2 q\u{1b}[!p",
            "汉字 ünïcödé 🚀",
        ] {
            check(text, text);
        }
    }

    #[test]
    fn what_acts_or_answers_does_not() {
        for (printed, expected) in [
            // clipboard, title, hyperlink, colours asked for
            ("a\u{1b}]52;c;ZXZpbA==\u{7}b", "ab"),
            ("a\u{1b}]0;title\u{1b}\\b", "ab"),
            ("a\u{1b}]8;;http://evil\u{1b}\\text\u{1b}]8;;\u{1b}\\b", "atextb"),
            ("a\u{1b}]10;?\u{7}b", "ab"),
            ("a\u{9d}52;c;ZXZpbA==\u{9c}b", "ab"),
            // device attributes, status, modes, window, kitty, answerback
            ("a\u{1b}[c\u{1b}[>c\u{1b}[=c\u{1b}[6n\u{1b}[?6n\u{1b}[5nb", "ab"),
            ("a\u{9b}6nb", "ab"),
            ("a\u{1b}[?2004$pb\u{1b}[21t\u{1b}[>q\u{1b}[?ub\u{1b}[1x", "abb"),
            ("a\u{5}b\u{1b}Zc", "abc"),
            // a settings request, a picture, a program's own string
            ("a\u{1b}P$qm\u{1b}\\b\u{1b}_x\u{1b}\\c\u{1b}^y\u{1b}\\d\u{1b}Xz\u{1b}\\e", "abcde"),
            // the mouse and the focus, alone and among others
            ("a\u{1b}[?1000h\u{1b}[?1004hb", "ab"),
            ("\u{1b}[?1049;1003;1006;25h", "\u{1b}[?1049;25h"),
            // printing
            ("a\u{1b}[5i\u{1b}[?5ib", "ab"),
            // one within another, broken off, and without an end
            ("a\u{1b}]0;x\u{1b}[31mb", "a\u{1b}[31mb"),
            ("a\u{1b}[3\u{18}1mb", "a1mb"),
            ("a\u{1b}[\u{1b}[1mb", "a\u{1b}[1mb"),
            ("a\u{1b}[3\r1mb", "a\r\u{1b}[31mb"),
            ("a\u{1b}]never ends", "a"),
            ("\u{0}\u{7f}x", "x"),
        ] {
            check(printed, expected);
        }
        let long = format!("a\u{1b}[{}mb", "1;".repeat(100_000));
        check(&long, "ab");
    }

    #[test]
    fn what_is_no_text_is_shown_as_such() {
        assert_eq!(Filter::default().take(b"a\xff\xfeb\xc3"), "a\u{fffd}\u{fffd}b");
        let mut filter = Filter::default();
        assert_eq!(filter.take(b"\xe6\xb1"), "");
        assert_eq!(filter.take(b"\x89"), "汉");
        assert_eq!(filter.take(b"\xe6"), "");
        assert_eq!(filter.take(b"x"), "\u{fffd}x");
    }
}
