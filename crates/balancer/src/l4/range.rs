//! A range of IPv4 addresses, `10.42.0.0/24`.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Addresses that share their first `prefix` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Range {
    base: Ipv4Addr,
    prefix: u8,
}

/// Why a text is no range.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no IPv4 range like 10.42.0.0/24")]
pub struct RangeError {
    text: String,
}

impl Ipv4Range {
    /// Whether `address` lies in the range.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.base.to_bits()
    }

    fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }
}

impl FromStr for Ipv4Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let wrong = || RangeError { text: text.to_owned() };
        let (base, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let base: Ipv4Addr = base.parse().map_err(|_| wrong())?;
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32).ok_or_else(wrong)?;
        let mut range = Self { base, prefix };
        range.base = Ipv4Addr::from_bits(base.to_bits() & range.mask());
        Ok(range)
    }
}

impl fmt::Display for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_contains_what_shares_its_prefix() {
        let range: Ipv4Range = "10.42.3.9/16".parse().unwrap();
        assert_eq!(range.to_string(), "10.42.0.0/16");
        assert!(range.contains(Ipv4Addr::new(10, 42, 255, 1)));
        assert!(!range.contains(Ipv4Addr::new(10, 43, 0, 1)));
        for wrong in ["10.42.0.0", "10.42.0.0/33", "10.42/16", "::/0", ""] {
            assert!(wrong.parse::<Ipv4Range>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_whole_range_has_no_mask() {
        let all: Ipv4Range = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains(Ipv4Addr::new(8, 8, 8, 8)));
    }
}
