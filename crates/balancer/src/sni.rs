//! The server's name in a TLS ClientHello, without ending the encryption.
//!
//! Reads records and the one handshake message that may be spread over several, and of its
//! extensions `server_name` only. Nothing is checked that the server behind will check anyway.
//!
//! # What it refuses
//! Anything that is no TLS handshake, a hello longer than [`LONGEST`], a name that is no host name.
//! An encrypted client hello shows its outer name.
//!
//! Source: RFC 8446 §4.1.2 and §5.1, RFC 6066 §3.

/// The longest hello that is read; with post-quantum key shares they have some 2 KiB.
pub const LONGEST: usize = 16 * 1024;
/// The record and message types, and the extension.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// What a beginning of a connection says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// More bytes are needed.
    Partial,
    /// It is whole, with the name in lower case if it has one.
    Whole(Option<String>),
}

/// Why bytes are no ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no TLS ClientHello: {0}")]
pub struct Malformed(&'static str);

/// Reads the first bytes of a connection.
///
/// # Errors
/// When no ClientHello begins like this.
pub fn parse(bytes: &[u8]) -> Result<Hello, Malformed> {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        if let Some(body) = whole_message(&message)? {
            return name(body).map(Hello::Whole);
        }
        // type, version, length
        match rest.first() {
            None => return partial(bytes),
            Some(&HANDSHAKE) => {}
            Some(_) => return Err(Malformed("no handshake")),
        }
        if rest.get(1).is_some_and(|major| *major != 3) {
            return Err(Malformed("no TLS"));
        }
        let Some((header, after)) = rest.split_first_chunk::<5>() else { return partial(bytes) };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > LONGEST {
            return Err(Malformed("a record's length is wrong"));
        }
        let here = &after[..length.min(after.len())];
        message.extend_from_slice(here);
        if here.len() < length {
            return match whole_message(&message)? {
                Some(body) => name(body).map(Hello::Whole),
                None => partial(bytes),
            };
        }
        rest = &after[length..];
    }
}

fn partial(bytes: &[u8]) -> Result<Hello, Malformed> {
    if bytes.len() >= LONGEST { Err(Malformed("it is too long")) } else { Ok(Hello::Partial) }
}

/// The body of the handshake message, once all of it is there.
fn whole_message(message: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(Malformed("another message"));
    }
    let Some((header, body)) = message.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
    if length > LONGEST {
        return Err(Malformed("it is too long"));
    }
    Ok(body.get(..length))
}

fn name(body: &[u8]) -> Result<Option<String>, Malformed> {
    const CUT: Malformed = Malformed("it is cut off");
    // version and random
    let rest = body.get(34..).ok_or(CUT)?;
    let (_session, rest) = short(rest).ok_or(CUT)?;
    let (_ciphers, rest) = long(rest).ok_or(CUT)?;
    let (_compression, rest) = short(rest).ok_or(CUT)?;
    if rest.is_empty() {
        // Extensions are optional before TLS 1.3.
        return Ok(None);
    }
    let (mut extensions, _) = long(rest).ok_or(CUT)?;
    while !extensions.is_empty() {
        let (kind, rest) = extensions.split_first_chunk::<2>().ok_or(CUT)?;
        let (value, rest) = long(rest).ok_or(CUT)?;
        if u16::from_be_bytes(*kind) == SERVER_NAME {
            let (mut names, _) = long(value).ok_or(CUT)?;
            while let Some((kind, rest)) = names.split_first() {
                let (name, rest) = long(rest).ok_or(CUT)?;
                if *kind == HOST_NAME {
                    return host(name).map(Some);
                }
                names = rest;
            }
            return Ok(None);
        }
        extensions = rest;
    }
    Ok(None)
}

fn host(name: &[u8]) -> Result<String, Malformed> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.is_empty() || name.len() > 253 || !name.iter().all(plain) {
        return Err(Malformed("the name is none"));
    }
    Ok(name.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect())
}

/// Splits off what a length of one byte says.
fn short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// Splits off what a length of two bytes says.
fn long(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
#[path = "../tests/support/hello.rs"]
mod hello;

#[cfg(test)]
mod tests {
    use super::hello::hello;
    use super::*;
    use proptest::prelude::*;

    fn whole(name: &str) -> Result<Hello, Malformed> {
        Ok(Hello::Whole(Some(name.to_owned())))
    }

    #[test]
    fn a_real_clients_name_is_found_at_its_last_byte() {
        let bytes = hello("Db.Example.COM");
        assert_eq!(parse(&bytes), whole("db.example.com"));
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Ok(Hello::Partial), "{cut}");
        }
        // Without a name: an address is none.
        assert_eq!(parse(&hello("192.0.2.1")), Ok(Hello::Whole(None)));
    }

    #[test]
    fn a_hello_in_many_records_is_put_together() {
        let bytes = hello("db.example.com");
        let records: Vec<u8> = bytes[5..]
            .chunks(7)
            .flat_map(|part| {
                let length = u8::try_from(part.len()).unwrap();
                [&[22, 3, 1, 0, length], part].concat()
            })
            .collect();
        assert_eq!(parse(&records), whole("db.example.com"));
    }

    #[test]
    fn what_is_no_hello_is_refused() {
        let mut other_message = hello("a.example");
        other_message[5] = 2;
        let mut cut = hello("a.example");
        cut[8] = 40;
        for wrong in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"PROXY TCP4".to_vec(),
            vec![22, 2, 0],
            vec![22, 3, 1, 0, 0],
            vec![22, 3, 1, 0xff, 0xff],
            vec![22, 3, 1, 0, 9, 1, 0xff, 0, 0],
            other_message,
            cut,
        ] {
            assert!(parse(&wrong).is_err(), "{:?}", &wrong[..wrong.len().min(12)]);
        }
        assert_eq!(host(b"a b"), Err(Malformed("the name is none")));
        assert_eq!(host(b""), Err(Malformed("the name is none")));
        assert_eq!(host(b"A.b."), Ok("a.b".to_owned()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
            let _ = parse(&[&[22, 3, 1, 1, 0], &bytes[..]].concat());
        }

        #[test]
        fn a_changed_hello_is_read_or_refused(at in 0_usize..200, to: u8) {
            let mut bytes = hello("a.example");
            let at = at.min(bytes.len() - 1);
            bytes[at] = to;
            let _ = parse(&bytes);
        }
    }
}
