//! The header of a pod's answer: read strictly, and written for the client.

use std::mem::MaybeUninit;

use httparse::Header;
use pingora::protocols::http::date::get_cached_date;

use super::fields::Fields;
use super::framing::{Chunks, Framing};
use crate::l7::routes::Filters;

/// Fields that an answer of this path has at most.
pub(super) const FIELDS: usize = 128;
/// The longest header of an answer, bytes.
pub(super) const LONGEST: usize = 64 * 1024;

/// The header of an answer.
#[derive(Debug)]
pub(super) struct Answer<'h, 'b> {
    pub(super) status: u16,
    reason: &'b str,
    fields: &'h [Header<'b>],
    /// How the body ends; `None` when there is none.
    pub(super) framing: Option<Framing>,
    /// Whether the pod takes another request on this connection.
    pub(super) keeps: bool,
    /// Of the header, bytes.
    pub(super) length: usize,
}

/// What was found at the beginning of what a pod sent.
#[derive(Debug)]
pub(super) enum Found<'h, 'b> {
    Partial,
    /// So many bytes of an interim answer, status 1xx, which goes to the client as it is.
    Interim(usize),
    Final(Answer<'h, 'b>),
    Malformed,
}

/// Reads the answer to a request, to one by HEAD if `head`; `room` is for its fields.
pub(super) fn find<'h, 'b>(
    bytes: &'b [u8],
    room: &'h mut [MaybeUninit<Header<'b>>],
    head: bool,
) -> Found<'h, 'b> {
    let mut answer = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut answer,
        bytes,
        room,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < LONGEST => return Found::Partial,
        Ok(httparse::Status::Partial) | Err(_) => return Found::Malformed,
    };
    let (Some(status), Some(version)) = (answer.code, answer.version) else {
        return Found::Malformed;
    };
    match status {
        // Nobody asked for another protocol.
        0..100 | 101 => return Found::Malformed,
        102..200 | 100 => return Found::Interim(length),
        _ => {}
    }
    let (reason, fields): (_, &'h [Header<'b>]) =
        (answer.reason.unwrap_or_default(), answer.headers);
    let mut keeps = version == 1;
    let (mut size, mut chunked) = (None, false);
    for Header { name, value } in fields {
        if name.eq_ignore_ascii_case("content-length") {
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(value).ok().filter(|_| digits);
            let given: Option<u64> = text.and_then(|text| text.parse().ok());
            if given.is_none() || size.is_some() {
                return Found::Malformed;
            }
            size = given;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || version == 0 || !value.eq_ignore_ascii_case(b"chunked") {
                return Found::Malformed;
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case("connection") {
            for word in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                if word.eq_ignore_ascii_case(b"close") {
                    keeps = false;
                }
            }
        }
    }
    let framing = match (size, chunked) {
        (Some(_), true) => return Found::Malformed,
        _ if head || matches!(status, 204 | 304) => None,
        (Some(0), false) => None,
        (Some(size), false) => Some(Framing::Length(size)),
        (None, true) => Some(Framing::Chunked(Chunks::default())),
        (None, false) => Some(Framing::UntilClose),
    };
    keeps &= framing != Some(Framing::UntilClose);
    Found::Final(Answer { status, reason, fields, framing, keeps, length })
}

impl Answer<'_, '_> {
    /// The first field called `name`.
    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|f| f.value)
    }

    /// Writes it as the client gets it, whose connection ends after it if `closes`.
    pub(super) fn write(&self, filters: &[&Filters; 2], closes: bool, out: &mut Vec<u8>) {
        let date = get_cached_date();
        let mut fields = Fields::with_room(self.fields.len() + 4);
        // Fields that `Connection` names are for the pod's neighbour, which is us.
        let named = self.connection().any(|word| !is_usual_word(word));
        for Header { name, value } in self.fields {
            let hop = match name.len() {
                7 => name.eq_ignore_ascii_case("upgrade"),
                10 => {
                    name.eq_ignore_ascii_case("connection")
                        || name.eq_ignore_ascii_case("keep-alive")
                }
                16 => name.eq_ignore_ascii_case("proxy-connection"),
                _ => false,
            };
            if hop || named && self.is_named(name) {
                continue;
            }
            fields.add(name, value);
        }
        for filters in filters {
            fields.change(&filters.response);
        }
        if !fields.has("date") {
            fields.add("Date", date.as_bytes());
        }
        if closes {
            fields.add("Connection", b"close");
        }
        let status = [
            b'0' + (self.status / 100 % 10) as u8,
            b'0' + (self.status / 10 % 10) as u8,
            b'0' + (self.status % 10) as u8,
        ];
        for part in [b"HTTP/1.1 ", &status[..], b" ", self.reason.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
        fields.write(out);
    }

    /// What the fields of that name say.
    fn connection(&self) -> impl Iterator<Item = &[u8]> {
        let lines =
            self.fields.iter().filter(|field| field.name.eq_ignore_ascii_case("connection"));
        lines.flat_map(|line| line.value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    }

    fn is_named(&self, name: &str) -> bool {
        // How the body ends is not for a pod to take away.
        !["content-length", "transfer-encoding"].iter().any(|kept| name.eq_ignore_ascii_case(kept))
            && self.connection().any(|word| word.eq_ignore_ascii_case(name.as_bytes()))
    }
}

fn is_usual_word(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"close") || word.eq_ignore_ascii_case(b"keep-alive")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status, how the body ends, and whether the connection goes on.
    fn seen(text: &str, head: bool) -> Option<(u16, Option<Framing>, bool)> {
        let mut room = [const { MaybeUninit::uninit() }; FIELDS];
        match find(text.as_bytes(), &mut room, head) {
            Found::Final(answer) => Some((answer.status, answer.framing, answer.keeps)),
            Found::Partial | Found::Interim(_) | Found::Malformed => None,
        }
    }

    #[test]
    fn bodies_end_as_the_header_says() {
        let with = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
        let chunked = Some(Framing::Chunked(Chunks::default()));
        let check = |text: &str, framing, keeps| {
            assert_eq!(seen(text, false), Some((200, framing, keeps)), "{text:?}");
        };
        check(&with("Content-Length: 5\r\n"), Some(Framing::Length(5)), true);
        check(&with("Content-Length: 0\r\nConnection: close\r\n"), None, false);
        check(&with("Transfer-Encoding: Chunked\r\n"), chunked, true);
        check(&with(""), Some(Framing::UntilClose), false);
        check(
            &with("Content-Length: 5\r\nConnection: x, close\r\n"),
            Some(Framing::Length(5)),
            false,
        );
        check("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Some(Framing::Length(5)), false);
        let length = with("Content-Length: 5\r\n");
        assert_eq!(seen(&length, true), Some((200, None, true)));
        assert_eq!(
            seen("HTTP/1.1 304 \r\nContent-Length: 5\r\n\r\n", false),
            Some((304, None, true))
        );
        for bad in [
            with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            with("Content-Length: 5\r\nContent-Length: 5\r\n"),
            with("Content-Length: +5\r\n"),
            with("Content-Length: 5, 5\r\n"),
            with("Transfer-Encoding: gzip, chunked\r\n"),
            with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            "HTTP/1.1 101 Switching\r\n\r\n".to_owned(),
            "SSH-2.0-OpenSSH\r\n".to_owned(),
        ] {
            assert_eq!(seen(&bad, false), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_between_the_pod_and_us_goes_no_further() {
        let text = "HTTP/1.1 200 Fine\r\nServer: s\r\nConnection: keep-alive, X-Own, Content-Length\r\n\
                    Keep-Alive: timeout=5\r\nX-Own: 1\r\nContent-Length: 2\r\nDate: then\r\n\r\nhi";
        let mut room = [const { MaybeUninit::uninit() }; FIELDS];
        let Found::Final(answer) = find(text.as_bytes(), &mut room, false) else {
            panic!("{text}")
        };
        let (mut out, none) = (Vec::new(), Filters::default());
        answer.write(&[&none, &none], true, &mut out);
        let out = String::from_utf8(out).unwrap();
        assert_eq!(
            out,
            "HTTP/1.1 200 Fine\r\nServer: s\r\nContent-Length: 2\r\nDate: then\r\n\
             Connection: close\r\n\r\n"
        );
        assert_eq!(&text[answer.length..], "hi");
    }
}
