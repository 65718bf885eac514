//! `etcd://HOST:PORT[,HOST:PORT…][?ca=FILE&cert=FILE&key=FILE&prefix=TEXT]`, taken apart.
//!
//! `etcds://`, or any of `ca`, `cert` and `key`, asks for TLS. There are no roots built in: who asks
//! for TLS names the authority that signed etcd's certificate.

use std::path::PathBuf;
use std::str::FromStr;

/// Where entries stand when nothing is said.
const PREFIX: &str = "/berth";

/// An etcd and a place in it, from a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `HOST:PORT` each, at least one.
    pub endpoints: Vec<String>,
    /// How the connection is secured; plain without.
    pub tls: Option<Tls>,
    /// What all keys begin with, without a slash at the end.
    pub prefix: String,
}

/// Files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Who signed the server's certificate.
    pub ca: PathBuf,
    /// Our certificate and its key, where the server asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Why a text is no [`Target`]: the part, what is wrong with it and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{part} cannot work: it must be {right}")]
pub struct TargetError {
    part: String,
    right: &'static str,
}

fn wrong(part: impl Into<String>, right: &'static str) -> TargetError {
    TargetError { part: part.into(), right }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Target, TargetError> {
        let (secure, rest) = match text.split_once("://") {
            Some(("etcd", rest)) => (false, rest),
            Some(("etcds", rest)) => (true, rest),
            _ => return Err(wrong(format!("`{text}`"), "etcd://HOST:PORT, or etcds:// for TLS")),
        };
        let (hosts, query) = rest.split_once('?').unwrap_or((rest, ""));
        let endpoints = hosts.split(',').map(endpoint).collect::<Result<Vec<_>, _>>()?;
        let (mut ca, mut cert, mut key, mut prefix) = (None, None, None, PREFIX.to_owned());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if value.is_empty() {
                return Err(wrong(format!("`{pair}`"), "NAME=VALUE"));
            }
            if matches!(name, "ca" | "cert" | "key") && !value.starts_with('/') {
                return Err(wrong(format!("`{pair}`"), "an absolute path"));
            }
            match name {
                "ca" => ca = Some(PathBuf::from(value)),
                "cert" => cert = Some(PathBuf::from(value)),
                "key" => key = Some(PathBuf::from(value)),
                "prefix" => prefix = value.trim_end_matches('/').to_owned(),
                _ => return Err(wrong(format!("`{name}`"), "one of ca, cert, key and prefix")),
            }
        }
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => return Err(wrong("`cert` alone", "given with `key`")),
            (None, Some(_)) => return Err(wrong("`key` alone", "given with `cert`")),
        };
        let tls = match ca {
            Some(ca) => Some(Tls { ca, identity }),
            None if secure || identity.is_some() => {
                return Err(wrong(
                    "TLS without `ca`",
                    "given with ca=FILE, the authority that signed etcd's certificate",
                ));
            }
            None => None,
        };
        Ok(Target { endpoints, tls, prefix })
    }
}

fn endpoint(text: &str) -> Result<String, TargetError> {
    let right = "HOST:PORT, as in 127.0.0.1:2379";
    let error = || wrong(format!("`{text}`"), right);
    let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_fits = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
            !host.is_empty() && host.chars().all(fits)
        }
    };
    let port_fits = port.parse::<u16>().is_ok_and(|port| port != 0);
    if host_fits && port_fits { Ok(text.to_owned()) } else { Err(error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_taken_apart() {
        let target: Target = "etcd://a:1,[::1]:2".parse().expect("it is right");
        assert_eq!(target.endpoints, ["a:1", "[::1]:2"]);
        assert_eq!((target.tls, target.prefix.as_str()), (None, "/berth"));
        let target: Target =
            "etcds://a.b:2379?ca=/x/ca&cert=/x/c&key=/x/k&prefix=/mine/".parse().expect("right");
        assert_eq!(target.prefix, "/mine");
        let tls = target.tls.expect("it was asked for");
        assert_eq!(tls.ca, PathBuf::from("/x/ca"));
        assert_eq!(tls.identity, Some(("/x/c".into(), "/x/k".into())));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        for (text, named) in [
            ("http://a:1", "etcd://HOST:PORT"),
            ("a:1", "etcd://HOST:PORT"),
            ("etcd://", "HOST:PORT"),
            ("etcd://a", "`a`"),
            ("etcd://a:1,b", "`b`"),
            ("etcd://a:0", "`a:0`"),
            ("etcd://a/b:1", "`a/b:1`"),
            ("etcd://a:1?user=x", "`user`"),
            ("etcd://a:1?prefix=", "`prefix=`"),
            ("etcds://a:1", "without `ca`"),
            ("etcd://a:1?ca=x", "absolute"),
            ("etcd://a:1?ca=/x&cert=/y", "`cert` alone"),
            ("etcd://a:1?ca=/x&key=/y", "`key` alone"),
            ("etcd://a:1?cert=/x&key=/y", "without `ca`"),
        ] {
            let error = text.parse::<Target>().expect_err(text).to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
