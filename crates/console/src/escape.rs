//! Words within addresses and forms.

/// `text` as a part of a query or of `application/x-www-form-urlencoded` (RFC 3986 §2.3: what is
/// not unreserved is written in hexadecimal).
pub(crate) fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
