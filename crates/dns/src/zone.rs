//! All names with every answer prepared; immutable, exchanged as a whole.
//!
//! Records are kept as they go over the wire, their owner written as a pointer to the question
//! (which stands at a known place), so that answering is a lookup and a copy. One table holds the
//! names of all clusters and of all zone files; a name knows the zone it is of.
//!
//! Source: RFC 1034 §4.3.2 for the search, RFC 4592 for wildcards, RFC 8020 for names between.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::facts::Facts;
use crate::name::{self, Domain, MAX_NAME};
use crate::query::kind;

mod build;
mod current;
pub(crate) mod file;
pub(crate) mod policy;
mod rrset;
mod sites;

pub(crate) use build::Policies;
pub(crate) use current::{Current, Layers};
pub(crate) use rrset::{FIXED, RrSet, TO_QUESTION};
pub(crate) use sites::Sites;

/// Seconds that a cluster name may be kept by clients: short, pods come and go.
pub(crate) const TTL: u32 = 5;

/// Where a name stands in its zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// The zone answers for it.
    #[default]
    Inside,
    /// Delegated from here on.
    Cut,
    /// Below a delegation: its addresses only help to reach the servers.
    Below,
    /// `pod.DOMAIN`: what is below says its own address.
    Pods,
}

/// All records of one name. Without any it still exists: a name below it has records.
#[derive(Debug, Default)]
struct Node {
    sets: Vec<RrSet>,
    zone: u16,
    place: Place,
    /// `*` below it exists.
    wild: bool,
    /// A zone is known that it is in; else it stands alone, as the reverse names of Services do.
    rooted: bool,
}

/// What the zone says to a question.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// These records.
    Records(&'a RrSet),
    /// One address, made from the name itself.
    Address(IpAddr),
    /// The name is an alias: the set is its one CNAME record.
    Alias(&'a RrSet),
    /// Others answer for it: their NS records, whose owner begins this far into the name.
    Delegated(&'a RrSet, usize),
    /// The name exists, records of that type do not; with the zone's SOA record.
    NoData(&'a RrSet),
    /// The name does not exist; with the zone's SOA record.
    NoName(&'a RrSet),
    /// The name is none of ours.
    Foreign,
}

type Names = HashMap<Box<[u8]>, Node, RandomState>;

/// All that is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sources<'a> {
    /// The clusters' domains, each serving all the facts.
    pub domains: &'a [Domain],
    /// What each cluster says, and its site.
    pub clusters: &'a [(&'a Facts, u8)],
    /// Zones that were read from files and objects.
    pub zones: &'a [Arc<file::Static>],
    /// Policies by name.
    pub policies: Option<&'a Policies>,
}

/// The names, and what is needed to answer for them.
#[derive(Debug)]
pub(crate) struct Zone {
    names: Names,
    /// The SOA record of each zone, its owner written out.
    authorities: Vec<RrSet>,
}

impl Zone {
    /// Prepares every answer.
    pub(crate) fn build(sources: Sources<'_>) -> Self {
        build::build(sources)
    }

    /// How many names there are.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// Looks `name` (wire form, lower case) up for records of type `kind`. Allocates nothing.
    pub(crate) fn find(&self, name: &[u8], kind: u16) -> Found<'_> {
        match self.names.get(name) {
            Some(node) => match node.place {
                Place::Inside | Place::Pods => self.of(node, kind),
                // The parent answers for DS (RFC 4035 §3.1.4.1).
                Place::Cut if kind == kind::DS => self.of(node, kind),
                Place::Cut | Place::Below => self.delegated(name),
            },
            None => self.missing(name, kind),
        }
    }

    fn of<'a>(&'a self, node: &'a Node, wanted: u16) -> Found<'a> {
        let with = |kind| node.sets.iter().find(|set| set.kind() == kind);
        // For ANY one set is enough (RFC 8482 §4.1).
        let any = node.sets.first().filter(|_| wanted == kind::ANY);
        match with(wanted).or(any) {
            Some(set) => Found::Records(set),
            None => match with(kind::CNAME) {
                Some(set) => Found::Alias(set),
                None => Found::NoData(self.authority(node)),
            },
        }
    }

    fn authority(&self, node: &Node) -> &RrSet {
        &self.authorities[usize::from(node.zone)]
    }

    /// A name that has no node: by a wildcard, below a delegation, a pod's, or none.
    fn missing(&self, name: &[u8], wanted: u16) -> Found<'_> {
        let mut at = 0;
        // The nearest name above that exists; the root is the last to be tried.
        let node = loop {
            let Some(length) = name.get(at).filter(|length| **length > 0) else {
                return Found::Foreign;
            };
            at += usize::from(*length) + 1;
            if let Some(node) = name.get(at..).and_then(|above| self.names.get(above)) {
                break node;
            }
        };
        match node.place {
            Place::Cut | Place::Below => return self.delegated(name),
            Place::Pods => return self.pod(node, &name[..at], wanted),
            Place::Inside => {}
        }
        let mut wild = [0u8; MAX_NAME];
        if node.wild
            && let Some(place) = wild.get_mut(..2 + name.len() - at)
        {
            place[..2].copy_from_slice(b"\x01*");
            place[2..].copy_from_slice(&name[at..]);
            if let Some(node) = self.names.get(&*place) {
                return self.of(node, wanted);
            }
        }
        if node.rooted { Found::NoName(self.authority(node)) } else { Found::Foreign }
    }

    fn delegated(&self, name: &[u8]) -> Found<'_> {
        let mut at = 0;
        loop {
            if let Some(node) = self.names.get(&name[at..])
                && node.place == Place::Cut
                && let Some(set) = node.sets.iter().find(|set| set.kind() == kind::NS)
            {
                return Found::Delegated(set, at);
            }
            let Some(length) = name.get(at).filter(|length| **length > 0) else {
                return Found::Foreign;
            };
            at += usize::from(*length) + 1;
        }
    }

    /// `10-42-0-7.namespace` below `pod.DOMAIN`: the name says the address.
    fn pod<'a>(&'a self, node: &'a Node, below: &[u8], wanted: u16) -> Found<'a> {
        let (none, no_data) =
            (Found::NoName(self.authority(node)), Found::NoData(self.authority(node)));
        let mut labels = name::labels(below);
        let (Some(first), second, third) = (labels.next(), labels.next(), labels.next()) else {
            return no_data;
        };
        match (second, third) {
            (None, _) => no_data, // a namespace of pods
            (Some(_), None) => match name::dashed(first) {
                Some(ip) if wanted == kind_of(ip) || wanted == kind::ANY => Found::Address(ip),
                Some(_) => no_data,
                None => none,
            },
            _ => none,
        }
    }
}

/// The record type of an address.
pub(crate) fn kind_of(ip: IpAddr) -> u16 {
    if ip.is_ipv4() { kind::A } else { kind::AAAA }
}
