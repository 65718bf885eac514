//! Which commands were typed: what stood on the line when Enter was pressed.
//!
//! What a person types is not what the shell runs: names are completed, lines come back from the
//! history, letters are taken back. All of that is on the screen when Enter is pressed, and a
//! password is not. So this keeps the one line that the cursor is on, as the terminal shows it, and
//! takes from it what stands behind the prompt: behind where the cursor was at the line's first key.
//! That is the command when the next line begins.
//!
//! # Caveats
//! Nothing is taken from programs that fill the screen (editors, pagers), nor from those that show
//! nothing of what is typed. What was typed before the prompt came is kept with the prompt.

use std::collections::VecDeque;

/// A line longer than this is cut.
const LONG: usize = 4096;
/// Lines that were entered and whose end was not printed yet.
const AHEAD: usize = 64;

/// Keys between two Enters.
#[derive(Debug)]
struct Typed {
    /// Where the cursor was at the first of them.
    from: usize,
    /// Plain letters, as far as there were no others among them.
    keys: String,
    plain: bool,
}

/// The line that the cursor is on.
#[derive(Debug)]
pub(super) struct Line {
    columns: usize,
    letters: Vec<char>,
    cursor: usize,
    /// What is being typed.
    typing: Option<Typed>,
    /// What was entered, and whose line has not ended on the screen yet.
    entered: VecDeque<Typed>,
    /// A program has the screen for itself.
    full: bool,
    sequence: Option<String>,
}

impl Line {
    /// Of a terminal of so many columns.
    pub fn new(columns: u16) -> Self {
        Self {
            columns: usize::from(columns.max(1)),
            letters: Vec::new(),
            cursor: 0,
            typing: None,
            entered: VecDeque::new(),
            full: false,
            sequence: None,
        }
    }

    /// The terminal has another width.
    pub fn resize(&mut self, columns: u16) {
        self.columns = usize::from(columns.max(1));
    }

    /// The person typed `bytes`.
    pub fn typed(&mut self, bytes: &[u8]) {
        if self.full {
            return;
        }
        for byte in bytes {
            let from = self.cursor;
            let new = || Typed { from, keys: String::new(), plain: true };
            match byte {
                b'\r' | b'\n' => {
                    let typed = self.typing.take().unwrap_or_else(new);
                    self.entered.push_back(typed);
                    if self.entered.len() > AHEAD {
                        self.entered.pop_front();
                    }
                }
                // The shell drops the line and prints its prompt anew.
                0x03 => self.forget(),
                byte => {
                    let typing = self.typing.get_or_insert_with(new);
                    if !(b' '..=b'~').contains(byte) || typing.keys.len() >= LONG {
                        typing.plain = false;
                    } else {
                        typing.keys.push(char::from(*byte));
                    }
                }
            }
        }
    }

    /// The terminal shows `text`, which has gone through the filter; the commands that were entered.
    pub fn shown(&mut self, text: &str) -> Vec<String> {
        let mut commands = Vec::new();
        for letter in text.chars() {
            if let Some(mut held) = self.sequence.take() {
                // The filter writes whole sequences: ESC and one letter, ESC ( and one, ESC [ … one.
                let ends = match held.chars().next() {
                    None => !"[(#)*+".contains(letter),
                    Some('[') => ('@'..='~').contains(&letter),
                    Some(_) => true,
                };
                held.push(letter);
                if ends {
                    self.obey(&held);
                } else {
                    self.sequence = Some(held);
                }
                continue;
            }
            match letter {
                '\u{1b}' => self.sequence = Some(String::new()),
                '\n' | '\u{b}' | '\u{c}' => commands.extend(self.end()),
                '\r' => self.cursor -= self.cursor % self.columns,
                '\u{8}' => self.cursor = self.cursor.saturating_sub(1),
                '\t' => self.cursor = (self.cursor / 8 + 1) * 8,
                letter if letter >= ' ' => self.put(letter),
                _ => {}
            }
            self.cursor = self.cursor.min(LONG);
        }
        commands
    }

    fn put(&mut self, letter: char) {
        if self.cursor >= LONG {
            return;
        }
        if self.letters.len() <= self.cursor {
            self.letters.resize(self.cursor + 1, ' ');
        }
        if let Some(place) = self.letters.get_mut(self.cursor) {
            *place = letter;
        }
        self.cursor += 1;
    }

    /// The line is over; what was entered on it.
    fn end(&mut self) -> Option<String> {
        let letters = std::mem::take(&mut self.letters);
        self.cursor = 0;
        if self.full {
            return None;
        }
        let mut ended = None;
        while let Some(first) = self.entered.pop_front() {
            let next = self.entered.front().or(self.typing.as_ref()).map(|next| next.from);
            if !next.is_some_and(|next| first.is_hidden_before(&letters, next)) {
                ended = Some(first);
                break;
            }
        }
        // What follows was typed already, before there was a prompt.
        for later in self.entered.iter_mut().chain(&mut self.typing) {
            later.from = 0;
        }
        let Typed { from, keys, plain } = ended?;
        let text: String = letters.iter().skip(from).collect();
        // Plain letters stand on the line as they were typed, or nothing was shown of them.
        let text = text.trim();
        let shown = !plain || text.contains(keys.trim());
        (shown && !text.is_empty()).then(|| text.to_owned())
    }

    fn forget(&mut self) {
        self.typing = None;
        self.entered.clear();
    }

    fn obey(&mut self, sequence: &str) {
        let Some(rest) = sequence.strip_prefix('[') else {
            if sequence == "c" {
                self.letters.clear();
                self.cursor = 0;
            }
            return;
        };
        let Some(last) = rest.chars().last() else { return };
        let held = &rest[..rest.len() - last.len_utf8()];
        if let Some(modes) = held.strip_prefix('?') {
            if modes.split(';').any(|mode| matches!(mode, "47" | "1047" | "1049")) {
                self.full = last == 'h';
                self.letters.clear();
                self.cursor = 0;
                self.forget();
            }
            return;
        }
        let first: Option<usize> = held.split(';').next().and_then(|number| number.parse().ok());
        let count = first.unwrap_or(1).clamp(1, LONG);
        let here = self.cursor.min(self.letters.len());
        match last {
            'C' | 'a' => self.cursor = (self.cursor + count).min(LONG),
            'D' => self.cursor = self.cursor.saturating_sub(count),
            'G' | '`' => self.cursor = self.cursor - self.cursor % self.columns + count - 1,
            'A' => self.cursor = self.cursor.saturating_sub(count * self.columns),
            'B' => self.cursor = (self.cursor + count * self.columns).min(LONG),
            'H' | 'f' => {
                // Another line, of which nothing is known.
                self.letters.clear();
                self.cursor = 0;
            }
            'J' | 'K' => match first.unwrap_or(0) {
                0 => self.letters.truncate(self.cursor),
                1 => self.letters.iter_mut().take(self.cursor + 1).for_each(|at| *at = ' '),
                _ => self.letters.clear(),
            },
            'P' => drop(self.letters.drain(here..(here + count).min(self.letters.len()))),
            'X' => self.letters.iter_mut().skip(here).take(count).for_each(|at| *at = ' '),
            '@' => {
                self.letters.splice(here..here, std::iter::repeat_n(' ', count));
                self.letters.truncate(LONG);
            }
            _ => {}
        }
    }
}

impl Typed {
    /// Whether something else than these keys stands on the line between their beginning and that of
    /// the next: nothing was shown of them, not even Enter, and the next prompt is on the same line.
    fn is_hidden_before(&self, letters: &[char], next: usize) -> bool {
        let mut between = letters.iter().take(next).skip(self.from);
        let mut keys = self.keys.chars();
        self.plain && between.any(|letter| keys.next() != Some(*letter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys as `>keys`, the rest is what the terminal shows.
    fn check(story: &[&str], expected: &[&str]) {
        let mut line = Line::new(20);
        let mut found = Vec::new();
        for step in story {
            match step.strip_prefix('>') {
                Some(keys) => line.typed(keys.as_bytes()),
                None => found.extend(line.shown(step)),
            }
        }
        assert_eq!(found, expected, "{story:?}");
    }

    #[test]
    fn a_command_is_what_stands_behind_the_prompt() {
        check(&["/ # ", ">l", "l", ">s", "s", ">\r", "\r\nbin\r\n/ # "], &["ls"]);
        check(&["$ ", ">\r", "\r\n$ ", ">  \r", "  \r\n$ "], &[]);
        // pasted: the echo comes after Enter
        check(&["$ ", ">ls -l\r", "ls -l\r\ntotal 0\r\n$ "], &["ls -l"]);
        check(&["\u{1b}[1;32mroot\u{1b}[0m# ", ">id\r", "id\r\nuid=0\r\n"], &["id"]);
    }

    #[test]
    fn what_was_taken_back_is_no_part_of_it() {
        check(&["$ ", ">lx", "lx", ">\u{7f}", "\u{8} \u{8}", ">s\r", "s\r\n"], &["ls"]);
        // the same as busybox and as readline do it
        check(&["$ ", ">lx", "lx", ">\u{7f}", "\u{8}\u{1b}[J", ">s\r", "s\r\n"], &["ls"]);
        check(&["$ ", ">rm x", "rm x", ">\u{15}", "\r$ \u{1b}[K", ">ls\r", "ls\r\n"], &["ls"]);
        check(&["$ ", ">rm", "rm", ">\u{3}", "^C\r\n$ ", ">ls\r", "ls\r\n"], &["ls"]);
        // into the middle, and a letter put in
        check(
            &[
                "$ ",
                ">ct f",
                "ct f",
                ">\u{1b}[D",
                "\u{8}\u{8}\u{8}",
                ">a",
                "\u{1b}[1@a",
                ">\r",
                "\r\n",
            ],
            &["cat f"],
        );
        check(
            &[
                "$ ",
                ">caat",
                "caat",
                ">\u{1b}[D\u{1b}[D",
                "\u{8}\u{8}",
                ">\u{7f}",
                "\u{8}\u{1b}[1P",
                ">\r",
                "\r\n",
            ],
            &["cat"],
        );
    }

    #[test]
    fn completion_and_history_count_as_typed() {
        check(&["$ ", ">cat /et\t", "cat /etc/", ">ho\t\r", "hosts \r\n127"], &["cat /etc/hosts"]);
        check(&["$ ", ">\u{1b}[A", "make test", ">\r", "\r\nok\r\n"], &["make test"]);
    }

    #[test]
    fn a_password_does_not() {
        check(
            &["$ ", ">su\r", "su\r\nPassword: ", ">hunter2\r", "\r\n# ", ">id\r", "id\r\n"],
            &["su", "id"],
        );
    }

    #[test]
    fn a_hidden_line_is_told_from_keys_that_are_ahead_of_the_screen() {
        let secret = ["$ ", ">read x\r", "read x\r\nSecret:", ">hunter2\r"];
        check(&[&secret[..], &["$ ", ">id\r", "id\r\n"]].concat(), &["read x", "id"]);
        check(&[&secret[..], &["over\r\n$ ", ">id\r", "id\r\n"]].concat(), &["read x", "id"]);
        let ahead = ["$ ", ">ls\r", "l", ">p", "s\r\nbin\r\n$ p", ">wd\r", "wd\r\n/\r\n"];
        check(&ahead, &["ls", "$ pwd"]);
    }

    #[test]
    fn long_lines_wrap_and_screens_of_programs_are_left_alone() {
        let long = "echo 1234567890 1234567890";
        let wrapped = "echo 1234567890 12\u{20}\r34567890";
        let keys = format!(">{long}\r");
        // 20 columns: after the prompt 18 fit; a space and CR make the terminal wrap
        check(&["$ ", &keys, wrapped, "\r\n"], &[long]);
        check(
            &[
                "$ ",
                ">vi\r",
                "vi\r\n\u{1b}[?1049h\u{1b}[2J~\r\n~",
                ">:q\r",
                ":q\r\n",
                "\u{1b}[?1049l$ ",
                ">ls\r",
                "ls\r\n",
            ],
            &["vi", "ls"],
        );
    }

    #[test]
    fn nothing_grows_without_end() {
        let mut line = Line::new(80);
        line.typed(&vec![b'x'; 1 << 20]);
        line.shown(&"x".repeat(1 << 20));
        line.shown(&"\u{1b}[4000@".repeat(1000));
        line.shown(&"\t".repeat(1 << 20));
        line.typed(b"\r");
        let found = line.shown("\r\n");
        assert!(found[0].len() <= LONG);
    }
}
