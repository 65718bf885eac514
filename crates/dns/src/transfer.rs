//! Whole zones between servers: given to those who may have them, taken from a primary, and told
//! of when they change.
//!
//! ```text
//!  primary ──NOTIFY──▶ secondary task ──IXFR, else AXFR──▶ zone in force ──NOTIFY──▶ others
//!                                                              ▲
//!                        others ──AXFR, IXFR (answered whole)──┘
//! ```
//!
//! Refuses: transfers of clusters' names (they are in no file), transfers over UDP, anything
//! unsigned where a key is asked for.
//!
//! Source: RFC 1995 (IXFR), RFC 1996 (NOTIFY), RFC 5936 (AXFR), RFC 8945 (TSIG).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use domain::base::ToName;
use domain::tsig::{Algorithm, Key, KeyName};
use domain::utils::base64;
use tokio::sync::Notify;

use crate::name;
use crate::zone::{Sites, file::Static};

mod incoming;
mod kept;
pub(crate) mod notify;
pub(crate) mod outgoing;
pub(crate) mod secondary;
pub(crate) mod signed;

/// A key that two servers share.
#[derive(Clone, PartialEq, Eq)]
pub struct TsigKey {
    /// Its name, the same on both.
    pub name: String,
    /// `hmac-sha256` and so on.
    pub algorithm: String,
    /// Its bytes, in base64.
    pub secret: String,
}

impl std::fmt::Debug for TsigKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TsigKey").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Who may have whole zones, and who is told of changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transfers {
    /// Networks of those who may; none for nobody.
    pub allow: Vec<(IpAddr, u8)>,
    /// The key that they must sign with.
    pub key: Option<String>,
    /// Servers that are told of a zone that changed.
    pub notify: Vec<SocketAddr>,
}

/// A zone that another server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secondary {
    /// Its name.
    pub zone: String,
    /// Who has it, in the order in which they are asked.
    pub primaries: Vec<SocketAddr>,
    /// The key that questions and answers are signed with.
    pub key: Option<String>,
    /// Where it is kept for the next start; `None` for nowhere.
    pub file: Option<PathBuf>,
}

pub(crate) type Keys = HashMap<(KeyName, Algorithm), Arc<Key>>;

/// All of this as it can be used.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub keys: Keys,
    allow: Sites,
    key: Option<Arc<Key>>,
    pub notify: Vec<SocketAddr>,
    pub secondaries: Vec<Arc<Followed>>,
}

/// A zone that is followed.
#[derive(Debug)]
pub(crate) struct Followed {
    /// Lower-case wire form.
    pub apex: Vec<u8>,
    pub primaries: Vec<SocketAddr>,
    pub key: Option<Arc<Key>>,
    /// Where it is kept for the next start.
    pub file: Option<PathBuf>,
    /// Somebody said that it changed.
    pub wake: Notify,
}

/// What cannot be right about it.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The key's name, algorithm or length is none.
    #[error("key {name:?}: {what}")]
    Key {
        /// As given.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A key that nobody described is named.
    #[error("key {name:?} is not among the keys")]
    Unknown {
        /// As given.
        name: String,
    },
    /// The zone of a secondary is no name, or it has no primary.
    #[error("secondary {zone:?}: {what}")]
    Secondary {
        /// As given.
        zone: String,
        /// What is wrong.
        what: &'static str,
    },
}

impl Rules {
    /// Of what the settings say.
    ///
    /// # Errors
    /// For the first that cannot be right.
    pub(crate) fn new(
        keys: &[TsigKey],
        transfers: &Transfers,
        secondaries: &[Secondary],
    ) -> Result<Self, RulesError> {
        let mut known = HashMap::new();
        let mut all = Keys::new();
        for TsigKey { name, algorithm, secret } in keys {
            let wrong = |what| RulesError::Key { name: name.clone(), what };
            let algorithm: Algorithm =
                algorithm.parse().map_err(|_| wrong("hmac-sha256, -sha384, -sha512 or -sha1"))?;
            let wire = name::encode(name).ok_or_else(|| wrong("its name is no domain name"))?;
            let key_name: KeyName = domain::base::Name::from_slice(&wire)
                .map_err(|_| wrong("its name is no domain name"))?
                .try_to_name()
                .map_err(|_| wrong("its name is too long"))?;
            let secret: Vec<u8> =
                base64::decode(secret).map_err(|_| wrong("its secret is no base64"))?;
            let key = Key::new(algorithm, &secret, key_name.clone(), None, None)
                .map_err(|_| wrong("its length does not fit"))?;
            let key = Arc::new(key);
            known.insert(wire, Arc::clone(&key));
            all.insert((key_name, algorithm), key);
        }
        let named = |wanted: &Option<String>| {
            let find = |text: &String| {
                let found = name::encode(text).and_then(|wire| known.get(&wire).cloned());
                found.ok_or_else(|| RulesError::Unknown { name: text.clone() })
            };
            wanted.as_ref().map(find).transpose()
        };
        let mut followed = Vec::new();
        for Secondary { zone, primaries, key, file } in secondaries {
            let wrong = |what| RulesError::Secondary { zone: zone.clone(), what };
            let apex = name::encode(zone).ok_or_else(|| wrong("it is no domain name"))?;
            if primaries.is_empty() {
                return Err(wrong("it has no primary"));
            }
            followed.push(Arc::new(Followed {
                apex,
                primaries: primaries.clone(),
                key: named(key)?,
                file: file.clone(),
                wake: Notify::new(),
            }));
        }
        let networks = transfers.allow.iter().map(|(ip, prefix)| (*ip, *prefix, 1));
        Ok(Self {
            keys: all,
            allow: Sites::new(networks.collect()),
            key: named(&transfers.key)?,
            notify: transfers.notify.clone(),
            secondaries: followed,
        })
    }

    /// Whether a client that signed with `key` may have zones.
    fn may_have(&self, client: IpAddr, key: Option<&Key>) -> bool {
        let signed = match &self.key {
            None => true,
            Some(wanted) => key.is_some_and(|key| key.name() == wanted.name()),
        };
        signed && self.allow.of(client) != 0
    }
}

/// Whether `packet` alone is the answer to AXFR for `apex`; for fuzz targets.
pub(crate) fn reads_whole(apex: &[u8], packet: Vec<u8>) -> bool {
    let Ok(message) = domain::base::Message::from_octets(packet) else { return false };
    let came = incoming::Incoming::new(apex, None).take(&message);
    matches!(came, Ok(Some(incoming::Came::Zone(_))))
}

/// The serial number of a zone.
pub(crate) fn serial(zone: &Static) -> u32 {
    serial_of(&zone.soa)
}

/// The serial number in SOA data, which ends with five numbers.
fn serial_of(soa: &[u8]) -> u32 {
    number(soa, 0)
}

/// Refresh, retry and expire of SOA data, in seconds.
fn times_of(soa: &[u8]) -> [u32; 3] {
    [number(soa, 1), number(soa, 2), number(soa, 3)]
}

fn number(soa: &[u8], index: usize) -> u32 {
    let at = soa.len().checked_sub(20).map(|at| at + 4 * index);
    let bytes = at.and_then(|at| soa.get(at..)).and_then(|bytes| bytes.first_chunk());
    bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Whether serial `one` is newer than `two` (RFC 1982 §3.2).
fn is_newer(one: u32, two: u32) -> bool {
    let ahead = one.wrapping_sub(two);
    ahead != 0 && ahead < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_go_round() {
        assert!(is_newer(2, 1) && !is_newer(1, 2) && !is_newer(1, 1));
        assert!(is_newer(5, u32::MAX - 5) && !is_newer(u32::MAX - 5, 5));
    }

    #[test]
    fn only_who_is_named_and_signs_may_have_zones() {
        let key = |name: &str| TsigKey {
            name: name.into(),
            algorithm: "hmac-sha256".into(),
            secret: "c2VjcmV0".into(),
        };
        let transfers = Transfers {
            allow: vec![("10.0.0.0".parse().expect("x"), 8)],
            key: Some("one.".into()),
            notify: vec![],
        };
        let rules = Rules::new(&[key("one"), key("two")], &transfers, &[]).expect("it is right");
        let signed = |name: &str| {
            let mut keys = rules.keys.values();
            keys.find(|key| key.name().to_string() == name).expect("it is there")
        };
        let client = "10.1.1.1".parse().expect("x");
        assert!(rules.may_have(client, Some(signed("one"))));
        assert!(!rules.may_have(client, Some(signed("two"))) && !rules.may_have(client, None));
        assert!(!rules.may_have("11.1.1.1".parse().expect("x"), Some(signed("one"))));
        let nobody = Rules::default();
        assert!(!nobody.may_have(client, None));
        let unknown = Transfers { key: Some("three".into()), ..transfers };
        assert!(Rules::new(&[key("one")], &unknown, &[]).is_err());
    }
}
