//! Values of options that are more than a number: where the store is, how often, where the console
//! listens.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use berth_store::etcd::{Target, TargetError};
use serde::{Deserialize, Serialize};

/// `embedded`, or the URL of an etcd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StoreAt {
    /// In the data directory.
    Embedded,
    /// The URL as it was given, and what it means.
    Etcd(String, Target),
}

impl StoreAt {
    /// The same etcd, under another prefix.
    ///
    /// # Errors
    /// When the prefix does not fit into a URL.
    pub fn with_prefix(&self, prefix: &str) -> Result<Self, TargetError> {
        let Self::Etcd(url, _) = self else { return Ok(self.clone()) };
        let (hosts, query) = url.split_once('?').unwrap_or((url, ""));
        let rest = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("prefix="));
        let mut pairs: Vec<&str> = rest.collect();
        let prefix = format!("prefix={prefix}");
        pairs.push(&prefix);
        format!("{hosts}?{}", pairs.join("&")).parse()
    }
}

impl FromStr for StoreAt {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        match text {
            "embedded" => Ok(Self::Embedded),
            url => Ok(Self::Etcd(url.to_owned(), url.parse()?)),
        }
    }
}

impl TryFrom<String> for StoreAt {
    type Error = TargetError;

    fn try_from(text: String) -> Result<Self, TargetError> {
        text.parse()
    }
}

impl From<StoreAt> for String {
    fn from(at: StoreAt) -> Self {
        at.to_string()
    }
}

impl fmt::Display for StoreAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Etcd(url, _) => f.write_str(url),
        }
    }
}

/// `30s`, `1m`, `2h`, `1d`, or `never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Every(pub Option<Duration>);

impl FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self(None));
        }
        let wrong = || format!("`{text}` is no time: write 30s, 1m, 2h, 1d, or `never`");
        let unit = text.chars().next_back().ok_or_else(wrong)?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            _ => return Err(wrong()),
        };
        let count: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
        if count == 0 { Err(wrong()) } else { Ok(Self(Some(Duration::from_secs(seconds) * count))) }
    }
}

impl TryFrom<String> for Every {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Every> for String {
    fn from(every: Every) -> Self {
        every.to_string()
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("never"),
            Some(time) => write!(f, "{}s", time.as_secs()),
        }
    }
}

/// `0.0.0.0:8444`, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ConsoleAt {
    /// There is none.
    Off,
    /// Where browsers connect.
    Listen(SocketAddr),
}

impl Default for ConsoleAt {
    fn default() -> Self {
        Self::Listen(SocketAddr::from(([0, 0, 0, 0], 8444)))
    }
}

impl FromStr for ConsoleAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let wrong = || format!("`{text}` is no place to listen: write 0.0.0.0:8444, or `off`");
        let address: SocketAddr = text.parse().map_err(|_| wrong())?;
        if address.port() == 0 { Err(wrong()) } else { Ok(Self::Listen(address)) }
    }
}

impl TryFrom<String> for ConsoleAt {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ConsoleAt> for String {
    fn from(at: ConsoleAt) -> Self {
        at.to_string()
    }
}

impl fmt::Display for ConsoleAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Listen(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_is_off_or_somewhere() {
        for text in ["off", "0.0.0.0:8444", "[::1]:1"] {
            assert_eq!(text.parse::<ConsoleAt>().unwrap().to_string(), text);
        }
        assert_eq!(ConsoleAt::default().to_string(), "0.0.0.0:8444");
        for wrong in ["", "on", "8444", "0.0.0.0:0", "localhost:8444"] {
            assert!(wrong.parse::<ConsoleAt>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_read_and_survive() {
        for (text, seconds) in [("30s", 30), ("1m", 60), ("2h", 7200), ("1d", 86400)] {
            let every: Every = text.parse().unwrap();
            assert_eq!(every.0, Some(Duration::from_secs(seconds)), "{text}");
            assert_eq!(String::from(every).parse(), Ok(every));
        }
        assert_eq!("never".parse(), Ok(Every(None)));
        for wrong in ["", "1", "m", "0s", "-1m", "1w", "1µ"] {
            assert!(wrong.parse::<Every>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_prefix_replaces_the_one_before() {
        let at: StoreAt = "etcd://h:1?prefix=/a&ca=/x".parse().unwrap();
        assert_eq!(at.with_prefix("/b").unwrap().to_string(), "etcd://h:1?ca=/x&prefix=/b");
        let plain: StoreAt = "etcd://h:1".parse().unwrap();
        assert_eq!(plain.with_prefix("/b").unwrap().to_string(), "etcd://h:1?prefix=/b");
    }
}
