//! Records of one name and type as bytes, ready to be copied into an answer.

use std::net::IpAddr;

use super::TTL;
use super::policy::Policy;
use crate::query::{CLASS_IN, kind};

/// A pointer to the question's name, which follows the header (RFC 1035 §4.1.4).
pub(crate) const TO_QUESTION: [u8; 2] = [0xC0, 12];
/// Owner as a pointer, type, class, time to live and length: what stands before a record's data.
pub(crate) const FIXED: usize = 12;
/// A set of more bytes than these does not stand beside its name.
const MOST_PLAIN: usize = 512;

/// Records of one name and type. The common one, a few addresses, is one allocation: a million of
/// them should fit a small machine, and each step to another place in memory costs a cache miss.
#[derive(Debug)]
pub(crate) struct RrSet {
    kind: u16,
    count: u16,
    /// Bytes of each record, where all have the same number; else 0.
    stride: u16,
    bytes: Vec<u8>,
    extra: Option<Box<Extra>>,
}

/// What few sets have.
#[derive(Debug, Default)]
struct Extra {
    /// Where each record ends in `bytes`, where they differ in length.
    ends: Vec<u32>,
    additional: Vec<u8>,
    additional_count: u16,
    policy: Option<Policy>,
    /// For each record, which site it is of.
    sites: Vec<u8>,
}

impl RrSet {
    pub(crate) fn new(kind: u16) -> Self {
        Self { kind, count: 0, stride: 0, bytes: vec![], extra: None }
    }

    /// A set of one record whose owner is written out.
    pub(super) fn owned(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Self {
        let mut set = Self::new(kind);
        set.push_for(owner, ttl, data);
        set
    }

    pub(crate) fn kind(&self) -> u16 {
        self.kind
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// The record at `index`, as it goes over the wire.
    pub(crate) fn record(&self, index: usize) -> &[u8] {
        self.view().record(index)
    }

    /// As answers are made from it.
    pub(crate) fn view(&self) -> Set<'_> {
        Set {
            kind: self.kind,
            count: self.count,
            stride: self.stride,
            bytes: &self.bytes,
            extra: self.extra.as_deref(),
        }
    }

    /// Adds a record of the name that is asked for; one that is there already is not added.
    pub(super) fn push(&mut self, ttl: u32, data: &[u8]) {
        self.push_of(ttl, data, 0);
    }

    /// [`RrSet::push`], with the site that the record is of.
    pub(super) fn push_of(&mut self, ttl: u32, data: &[u8], site: u8) {
        let known = (0..self.len()).any(|index| self.record(index).get(FIXED..) == Some(data));
        if known || self.count == u16::MAX {
            return;
        }
        // Records of a set have one time to live (RFC 2181 §5.2): the first one's.
        let first = self.bytes.get(6..10).and_then(|bytes| bytes.try_into().ok());
        self.push_for(&TO_QUESTION, first.map_or(ttl, u32::from_be_bytes), data);
        if site != 0 || self.extra.as_ref().is_some_and(|extra| !extra.sites.is_empty()) {
            let count = self.len();
            let extra = self.extra.get_or_insert_default();
            extra.sites.resize(count - 1, 0);
            extra.sites.push(site);
        }
    }

    /// Adds an address record of another name to the additional ones.
    pub(super) fn push_additional(&mut self, owner: &[u8], ttl: u32, ip: IpAddr) {
        let extra = self.extra.get_or_insert_default();
        write(&mut extra.additional, owner, super::kind_of(ip), ttl, &octets(ip));
        extra.additional_count = extra.additional_count.saturating_add(1);
    }

    /// Sets the order and number of records in an answer.
    pub(super) fn set_policy(&mut self, policy: Policy) {
        self.extra.get_or_insert_default().policy = Some(policy);
    }

    fn push_for(&mut self, owner: &[u8], ttl: u32, data: &[u8]) {
        let before = self.bytes.len();
        self.bytes.reserve_exact(owner.len() + 10 + data.len());
        write(&mut self.bytes, owner, self.kind, ttl, data);
        let length = self.bytes.len() - before;
        let same = length == usize::from(self.stride);
        match self.count {
            // Owners written out, or long data, may be over what `stride` can say.
            0 => match u16::try_from(length) {
                Ok(stride) => self.stride = stride,
                Err(_) => self.extra.get_or_insert_default().ends.push(length as u32),
            },
            _ if self.stride > 0 && same => {}
            count => {
                let stride = u32::from(self.stride);
                let end = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
                let extra = self.extra.get_or_insert_default();
                if stride > 0 {
                    extra.ends = (1..=u32::from(count)).map(|n| n * stride).collect();
                    self.stride = 0;
                }
                extra.ends.push(end);
            }
        }
        self.count += 1;
    }
}

/// Records of one name and type, wherever their bytes stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Set<'a> {
    kind: u16,
    count: u16,
    stride: u16,
    bytes: &'a [u8],
    extra: Option<&'a Extra>,
}

impl<'a> Set<'a> {
    /// `count` records behind each other, each of `stride` bytes, without anything more.
    pub(super) fn plain(kind: u16, count: u8, stride: u8, bytes: &'a [u8]) -> Self {
        Self { kind, count: count.into(), stride: stride.into(), bytes, extra: None }
    }

    /// Kind, number, bytes each and bytes of a set that is nothing more than that, and small.
    pub(super) fn as_plain(self) -> Option<(u16, u8, u8, &'a [u8])> {
        let (count, stride) = (u8::try_from(self.count).ok()?, u8::try_from(self.stride).ok()?);
        (self.extra.is_none() && count > 0 && stride > 0 && self.bytes.len() <= MOST_PLAIN)
            .then_some((self.kind, count, stride, self.bytes))
    }

    pub(crate) fn kind(self) -> u16 {
        self.kind
    }

    /// How many records there are.
    pub(crate) fn len(self) -> usize {
        usize::from(self.count)
    }

    /// The record at `index`, as it goes over the wire.
    pub(crate) fn record(self, index: usize) -> &'a [u8] {
        let stride = usize::from(self.stride);
        if stride > 0 {
            return &self.bytes[index * stride..(index + 1) * stride];
        }
        let ends = self.ends();
        let start = index.checked_sub(1).map_or(0, |before| ends[before] as usize);
        &self.bytes[start..ends[index] as usize]
    }

    /// All records behind each other, and where the one at `index` begins.
    pub(crate) fn all_from(self, index: usize) -> (&'a [u8], usize) {
        let stride = usize::from(self.stride);
        let start = match index.checked_sub(1) {
            None => 0,
            Some(_) if stride > 0 => index * stride,
            Some(before) => self.ends()[before] as usize,
        };
        (self.bytes, start)
    }

    /// The additional records and their number.
    pub(crate) fn additional(self) -> (&'a [u8], u16) {
        self.extra.map_or((&[], 0), |extra| (&extra.additional, extra.additional_count))
    }

    /// In which order the records are given, and how many; `None` for all, in turn.
    pub(crate) fn policy(self) -> Option<&'a Policy> {
        self.extra?.policy.as_ref()
    }

    /// The site of the record at `index`; 0 is none.
    pub(crate) fn site(self, index: usize) -> u8 {
        let sites = self.extra.map(|extra| extra.sites.as_slice()).unwrap_or_default();
        sites.get(index).copied().unwrap_or_default()
    }

    fn ends(self) -> &'a [u32] {
        self.extra.map(|extra| extra.ends.as_slice()).unwrap_or_default()
    }
}

/// An address as record data.
pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// SRV data (RFC 2782).
pub(super) fn srv(weight: u16, port: u16, target: &[u8]) -> Vec<u8> {
    let mut data = vec![0, 0];
    data.extend_from_slice(&weight.to_be_bytes());
    data.extend_from_slice(&port.to_be_bytes());
    data.extend_from_slice(target);
    data
}

/// TXT data of one short string.
pub(super) fn txt(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(255)];
    let mut data = vec![text.len() as u8];
    data.extend_from_slice(text);
    data
}

/// SOA data (RFC 1035 §3.3.13). The last number is how long "there is none" may be kept (RFC 2308).
pub(super) fn soa(server: &[u8], mailbox: &[u8], serial: u32) -> Vec<u8> {
    let mut data = server.to_vec();
    data.extend_from_slice(mailbox);
    for number in [serial, 7200, 1800, 86400, TTL] {
        data.extend_from_slice(&number.to_be_bytes());
    }
    data
}

fn write(to: &mut Vec<u8>, owner: &[u8], kind: u16, ttl: u32, data: &[u8]) {
    debug_assert!(kind != kind::OPT && data.len() <= usize::from(u16::MAX));
    to.extend_from_slice(owner);
    to.extend_from_slice(&kind.to_be_bytes());
    to.extend_from_slice(&CLASS_IN.to_be_bytes());
    to.extend_from_slice(&ttl.to_be_bytes());
    to.extend_from_slice(&(data.len() as u16).to_be_bytes());
    to.extend_from_slice(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_one_length_and_of_several_are_found_by_their_number() {
        let mut set = RrSet::new(kind::TXT);
        for text in ["a", "b", "longer", "c", "a"] {
            set.push(60, &txt(text));
        }
        assert_eq!(set.len(), 4, "the second a is no other record");
        let texts: Vec<_> = (0..4).map(|at| set.record(at)[FIXED + 1..].to_vec()).collect();
        assert_eq!(texts, [b"a".to_vec(), b"b".to_vec(), b"longer".to_vec(), b"c".to_vec()]);
        let (all, from) = set.view().all_from(3);
        assert_eq!(&all[from..], set.record(3));
    }

    #[test]
    fn the_first_record_says_the_time_to_live_and_each_its_site() {
        let mut set = RrSet::new(kind::A);
        set.push(60, &[192, 0, 2, 1]);
        set.push_of(5, &[192, 0, 2, 2], 3);
        assert_eq!(&set.record(1)[6..10], &60u32.to_be_bytes());
        assert_eq!((set.view().site(0), set.view().site(1)), (0, 3));
    }
}
