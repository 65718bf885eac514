//! The cluster's names with every answer prepared; immutable, exchanged as a whole.
//!
//! Records are kept as they go over the wire, their owner written as a pointer to the question
//! (which stands at a known place), so that answering is a lookup and a copy.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use crate::facts::Facts;
use crate::name::{self, Domain, MAX_NAME};
use crate::query::kind;

mod build;
mod rrset;

pub(crate) use rrset::{RrSet, TO_QUESTION};

/// Seconds that a cluster name may be kept by clients: short, pods come and go.
pub(crate) const TTL: u32 = 5;

/// All records of one name. Without any it still exists: a name below it has records.
#[derive(Debug, Default)]
pub(crate) struct Node {
    sets: Vec<RrSet>,
    /// The target in wire form, where the name is an alias.
    alias: Option<Box<[u8]>>,
}

/// What the zone says to a question.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// These records.
    Records(&'a RrSet),
    /// One address, made from the name itself.
    Address(IpAddr),
    /// The name is an alias for another one, in wire form.
    Alias(&'a [u8]),
    /// The name exists, records of that type do not.
    NoData,
    /// The name does not exist.
    NoName,
    /// The name is none of ours.
    Foreign,
}

/// The zone.
#[derive(Debug)]
pub(crate) struct Zone {
    domain: Vec<u8>,
    pods: Vec<u8>,
    names: HashMap<Box<[u8]>, Node>,
    soa: RrSet,
}

impl Zone {
    /// Prepares every answer.
    pub(crate) fn build(domain: &Domain, facts: &Facts) -> Self {
        build::build(domain, facts)
    }

    /// Looks `name` (wire form, any case) up for records of type `kind`. Allocates nothing.
    pub(crate) fn find(&self, name: &[u8], kind: u16) -> Found<'_> {
        let mut lower = [0u8; MAX_NAME];
        let Some(lower) = lower.get_mut(..name.len()) else { return Found::NoName };
        for (to, from) in lower.iter_mut().zip(name) {
            // Length bytes are at most 63, below any letter.
            *to = from.to_ascii_lowercase();
        }
        if let Some(node) = self.names.get(&*lower) {
            return node.find(kind);
        }
        if !name::is_under(lower, &self.domain) {
            return Found::Foreign;
        }
        self.find_pod(lower, kind)
    }

    /// The SOA record of a negative answer, with its own name as owner.
    pub(crate) fn soa(&self) -> &RrSet {
        &self.soa
    }

    /// `10-42-0-7.namespace.pod.cluster.local`: the name says the address.
    fn find_pod(&self, name: &[u8], wanted: u16) -> Found<'_> {
        if !name::is_under(name, &self.pods) {
            return Found::NoName;
        }
        let above = name.len() - self.pods.len();
        let mut labels = name::labels(&name[..above]);
        let (Some(first), second, third) = (labels.next(), labels.next(), labels.next()) else {
            return Found::NoData; // pod.cluster.local itself
        };
        match (second, third) {
            (None, _) => Found::NoData, // a namespace of pods
            (Some(_), None) => match name::dashed(first) {
                Some(ip) if wanted == kind_of(ip) || wanted == kind::ANY => Found::Address(ip),
                Some(_) => Found::NoData,
                None => Found::NoName,
            },
            _ => Found::NoName,
        }
    }
}

impl Node {
    fn find(&self, wanted: u16) -> Found<'_> {
        let exact = self.sets.iter().find(|set| set.kind() == wanted);
        // For ANY one set is enough (RFC 8482 §4.1).
        let any = self.sets.first().filter(|_| wanted == kind::ANY);
        match (exact.or(any), &self.alias) {
            (Some(set), _) => Found::Records(set),
            (None, Some(target)) => Found::Alias(target),
            (None, None) => Found::NoData,
        }
    }
}

/// The record type of an address.
pub(crate) fn kind_of(ip: IpAddr) -> u16 {
    if ip.is_ipv4() { kind::A } else { kind::AAAA }
}

/// The zone that is in force, shared by all who answer.
#[derive(Debug)]
pub(crate) struct Current {
    zone: RwLock<Arc<Zone>>,
    version: AtomicU64,
}

impl Current {
    pub(crate) fn new(zone: Zone) -> Self {
        Self { zone: RwLock::new(Arc::new(zone)), version: AtomicU64::new(1) }
    }

    /// Puts a new zone in force.
    pub(crate) fn set(&self, zone: Zone) {
        *self.zone.write().expect("no holder of the lock panics") = Arc::new(zone);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The zone in force.
    pub(crate) fn get(&self) -> Arc<Zone> {
        Arc::clone(&self.zone.read().expect("no holder of the lock panics"))
    }

    /// The zone in force, if `seen` is an older one; one atomic read where nothing changed.
    pub(crate) fn newer_than(&self, seen: &mut u64) -> Option<Arc<Zone>> {
        let version = self.version.load(Ordering::Acquire);
        if *seen == version {
            return None;
        }
        *seen = version;
        Some(self.get())
    }
}
