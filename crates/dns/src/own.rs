//! What a server says of itself: its name, and cookies that prove where a client is.
//!
//! Source: RFC 5001 (NSID), RFC 7873 and RFC 9018 (cookies that any server with the secret makes).

use std::fs::{self, File};
use std::hash::Hasher;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use siphasher::sip::SipHasher24;

use crate::query::{Edns, option};
use crate::zone::Sites;

/// Longest name of a server.
pub(crate) const MOST_NSID: usize = 32;
/// Both options at their longest.
pub(crate) const MOST_OPTIONS: usize = 4 + MOST_NSID + 4 + COOKIE;
const COOKIE: usize = 24;
/// A cookie is good for an hour, and for five minutes of clocks that differ (RFC 9018 §4.3).
const COOKIE_AGE: u32 = 3600;
const COOKIE_AHEAD: u32 = 300;

/// What does not change with the names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own {
    /// At most [`MOST_NSID`] bytes; empty for none.
    pub nsid: Vec<u8>,
    /// Shared by servers behind one address.
    pub secret: [u8; 16],
    pub sites: Sites,
}

impl Own {
    /// Writes the options of an answer, and says how long they are.
    pub(crate) fn options(
        &self,
        edns: &Edns<'_>,
        client: IpAddr,
        to: &mut [u8; MOST_OPTIONS],
    ) -> usize {
        let mut length = 0;
        let mut put = |code: u16, value: &[u8]| {
            let end = length + 4 + value.len();
            to[length..length + 2].copy_from_slice(&code.to_be_bytes());
            to[length + 2..length + 4].copy_from_slice(&(value.len() as u16).to_be_bytes());
            to[length + 4..end].copy_from_slice(value);
            length = end;
        };
        if edns.nsid && !self.nsid.is_empty() {
            put(option::NSID, &self.nsid[..self.nsid.len().min(MOST_NSID)]);
        }
        if let Some(theirs) = edns.cookie.and_then(|cookie| cookie.first_chunk()) {
            put(option::COOKIE, &self.cookie(theirs, client, now()));
        }
        length
    }

    /// Whether the client has shown a cookie of ours: it is where it says it is.
    pub(crate) fn is_known(&self, edns: &Edns<'_>, client: IpAddr) -> bool {
        edns.cookie.is_some_and(|cookie| self.is_ours(cookie, client, now()))
    }

    fn is_ours(&self, cookie: &[u8], client: IpAddr, now: u32) -> bool {
        let (Some(theirs), Some(said)) = (cookie.first_chunk(), cookie.get(12..16)) else {
            return false;
        };
        let made = said.try_into().map_or(0, u32::from_be_bytes);
        // Serial number arithmetic (RFC 1982): the clock wraps in 2106.
        let fresh = now.wrapping_sub(made) <= COOKIE_AGE || made.wrapping_sub(now) <= COOKIE_AHEAD;
        fresh && self.cookie(theirs, client, made) == cookie
    }

    /// Client's cookie, version, three zero bytes, time, hash (RFC 9018 §4).
    fn cookie(&self, theirs: &[u8; 8], client: IpAddr, made: u32) -> [u8; COOKIE] {
        let mut cookie = [0; COOKIE];
        cookie[..8].copy_from_slice(theirs);
        cookie[8] = 1;
        cookie[12..16].copy_from_slice(&made.to_be_bytes());
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(&cookie[..16]);
        match client.to_canonical() {
            IpAddr::V4(ip) => hasher.write(&ip.octets()),
            IpAddr::V6(ip) => hasher.write(&ip.octets()),
        }
        cookie[16..].copy_from_slice(&hasher.finish().to_le_bytes());
        cookie
    }
}

/// The secret of cookies that servers share who name the same file. One that is absent is made:
/// whole or not at all, and of several servers that do so at once by one.
///
/// # Errors
/// When it can be neither read nor made, or holds no secret: 32 hexadecimal digits.
pub fn cookie_secret(path: &Path) -> io::Result<[u8; 16]> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let new = path.with_extension(format!("new-{:016x}", rand::random::<u64>()));
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
            writeln!(file, "{:032x}", rand::random::<u128>())?;
            let linked = fs::hard_link(&new, path);
            fs::remove_file(&new)?;
            if let Err(error) = linked
                && error.kind() != io::ErrorKind::AlreadyExists
            {
                return Err(error);
            }
            fs::read_to_string(path)?
        }
        read => read?,
    };
    secret(text.trim()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "32 hexadecimal digits are a secret")
    })
}

/// The secret that 32 hexadecimal digits are.
pub fn secret(digits: &str) -> Option<[u8; 16]> {
    let number = u128::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 32)?;
    Some(number.to_be_bytes())
}

fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() as u32 // the protocol's clock wraps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        digits
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).expect("x"), 16).expect("x"))
            .collect()
    }

    #[test]
    fn servers_with_the_same_file_have_the_same_secret_and_rubbish_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("cookies");
        let servers: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || cookie_secret(&path).expect("a secret"))
            })
            .collect();
        let secrets: Vec<_> =
            servers.into_iter().map(|server| server.join().expect("no panic")).collect();
        assert!(secrets.iter().all(|secret| *secret == secrets[0] && *secret != [0; 16]));
        assert_eq!(fs::read_dir(&dir).expect("a list").count(), 1, "nothing is left over");
        fs::write(&path, "rubbish").expect("it is written");
        assert!(cookie_secret(&path).is_err());
    }

    #[test]
    fn cookies_are_those_of_the_standards_examples() {
        // RFC 9018 appendix A.1 and A.3.
        let secret = hex("e5e973e5a6b2a43f48e7dc849e37bfcf").try_into().expect("16 bytes");
        let own = Own { secret, ..Own::default() };
        let theirs = hex("2464c4abcf10c957").try_into().expect("8 bytes");
        let client = "198.51.100.100".parse().expect("an address");
        let cookie = own.cookie(&theirs, client, 1_559_731_985);
        assert_eq!(cookie.to_vec(), hex("2464c4abcf10c957010000005cf79f111f8130c3eee29480"));
        let is_ours = |now| own.is_ours(&cookie, client, now);
        assert!(is_ours(1_559_731_985) && is_ours(1_559_735_585) && is_ours(1_559_731_700));
        assert!(!is_ours(1_559_735_586) && !is_ours(1_559_731_600));
        assert!(!own.is_ours(&cookie, "198.51.100.101".parse().expect("x"), 1_559_731_985));
        assert!(!own.is_ours(&theirs, client, 1_559_731_985), "its own cookie alone");
    }
}
