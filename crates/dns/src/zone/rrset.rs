//! Records of one name and type as bytes, ready to be copied into an answer.

use std::net::IpAddr;

use super::TTL;
use crate::query::{CLASS_IN, kind};

/// A pointer to the question's name, which follows the header (RFC 1035 §4.1.4).
pub(crate) const TO_QUESTION: [u8; 2] = [0xC0, 12];

/// Records of one name and type, and the additional ones that save a question.
#[derive(Debug)]
pub(crate) struct RrSet {
    kind: u16,
    bytes: Vec<u8>,
    /// Where each record ends in `bytes`.
    ends: Vec<u32>,
    additional: Vec<u8>,
    additional_count: u16,
}

impl RrSet {
    pub(crate) fn new(kind: u16) -> Self {
        Self { kind, bytes: vec![], ends: vec![], additional: vec![], additional_count: 0 }
    }

    /// A set of one record whose owner is written out.
    pub(super) fn owned(owner: &[u8], kind: u16, data: &[u8]) -> Self {
        let mut set = Self::new(kind);
        set.push_for(owner, data);
        set
    }

    pub(crate) fn kind(&self) -> u16 {
        self.kind
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The record at `index`, as it goes over the wire.
    pub(crate) fn record(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.bytes[start..self.ends[index] as usize]
    }

    /// The additional records and their number.
    pub(crate) fn additional(&self) -> (&[u8], u16) {
        (&self.additional, self.additional_count)
    }

    /// Adds a record of the name that is asked for; one that is there already is not added.
    pub(super) fn push(&mut self, data: &[u8]) {
        let known = (0..self.len()).any(|index| {
            let record = self.record(index);
            record.get(12..) == Some(data)
        });
        if !known {
            self.push_for(&TO_QUESTION, data);
        }
    }

    /// Adds an address record of another name to the additional ones.
    pub(super) fn push_additional(&mut self, owner: &[u8], ip: IpAddr) {
        write(&mut self.additional, owner, super::kind_of(ip), &octets(ip));
        self.additional_count = self.additional_count.saturating_add(1);
    }

    fn push_for(&mut self, owner: &[u8], data: &[u8]) {
        write(&mut self.bytes, owner, self.kind, data);
        self.ends.push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
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

fn write(to: &mut Vec<u8>, owner: &[u8], kind: u16, data: &[u8]) {
    debug_assert!(kind != kind::OPT && data.len() <= usize::from(u16::MAX));
    to.extend_from_slice(owner);
    to.extend_from_slice(&kind.to_be_bytes());
    to.extend_from_slice(&CLASS_IN.to_be_bytes());
    to.extend_from_slice(&TTL.to_be_bytes());
    to.extend_from_slice(&(data.len() as u16).to_be_bytes());
    to.extend_from_slice(data);
}
