//! Names with every answer prepared; immutable: a change makes anew what it changes.
//!
//! Records are kept as they go over the wire, their owner written as a pointer to the question
//! (which stands at a known place), so that answering is a lookup and a copy. Each zone file has a
//! table of its own; the names of all clusters share one that is changed name by name.
//!
//! Source: RFC 1034 §4.3.2 for the search, RFC 4592 for wildcards, RFC 8020 for names between.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use foldhash::fast::RandomState;

use crate::asked::{Asked, hash_of};
use crate::checks::Health;
use crate::name::{self, MAX_NAME};
use crate::query::kind;

mod clusters;
mod current;
pub(crate) mod file;
pub(crate) mod policy;
mod roots;
mod rrset;
mod sites;
mod table;
mod written;

use policy::{Policy, Wanted};
use table::{Entry, Sharded, Table};

pub(crate) use clusters::{Change, Clusters};
pub(crate) use current::{Changed, Current, Layers, Located};
pub(crate) use rrset::{FIXED, RrSet, Set, TO_QUESTION};
pub(crate) use sites::Sites;
pub(crate) use table::{SHARDS, shard_of_name as shard_of};

/// Policies by name, in lower-case wire form.
pub(crate) type Policies = BTreeMap<Vec<u8>, Wanted>;

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

impl Node {
    /// Its records of type `kind`, made where there are none.
    fn set(&mut self, kind: u16) -> &mut RrSet {
        let at = self.sets.iter().position(|set| set.kind() == kind).unwrap_or_else(|| {
            self.sets.reserve_exact(1);
            self.sets.push(RrSet::new(kind));
            self.sets.len() - 1
        });
        &mut self.sets[at]
    }
}

/// What the zone says to a question.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// These records.
    Records(Set<'a>),
    /// One address, made from the name itself.
    Address(IpAddr),
    /// The name is an alias: the set is its one CNAME record.
    Alias(Set<'a>),
    /// Others answer for it: their NS records, whose owner begins this far into the name.
    Delegated(Set<'a>, usize),
    /// The name exists, records of that type do not; with the zone's SOA record.
    NoData(&'a RrSet),
    /// The name does not exist; with the zone's SOA record.
    NoName(&'a RrSet),
    /// The name is none of ours.
    Foreign,
}

/// Names while they are put together.
type Names = HashMap<Box<[u8]>, Node, RandomState>;

/// The names of one zone file, or of all clusters, and what is needed to answer for them.
#[derive(Debug)]
pub(crate) struct Zone {
    names: Tables,
    /// The SOA record of each zone, its owner written out.
    authorities: Vec<RrSet>,
}

#[derive(Debug)]
enum Tables {
    /// Read as a whole, exchanged as a whole.
    Whole(Table),
    /// Changed name by name.
    Sharded(Sharded),
}

impl Tables {
    #[inline]
    fn table(&self, hash: u64) -> &Table {
        match self {
            Self::Whole(table) => table,
            Self::Sharded(shards) => shards.shard(hash),
        }
    }
}

impl Tables {
    fn changed_since(&self, before: &Self) -> Changed {
        match (self, before) {
            (Self::Sharded(now), Self::Sharded(before)) => {
                Changed::Shards(now.changed_since(before))
            }
            _ => Changed::All,
        }
    }
}

impl Zone {
    /// How many names there are.
    pub(crate) fn len(&self) -> usize {
        match &self.names {
            Tables::Whole(table) => table.len(),
            Tables::Sharded(shards) => shards.len(),
        }
    }

    /// The names that are answered for here, each with the types that it has records of.
    pub(crate) fn questions(&self) -> impl Iterator<Item = (&[u8], Vec<u16>)> {
        let (whole, sharded) = match &self.names {
            Tables::Whole(table) => (Some(table), None),
            Tables::Sharded(shards) => (None, Some(shards)),
        };
        let shards = sharded.into_iter().flat_map(Sharded::tables);
        whole.into_iter().chain(shards).flat_map(questions_of)
    }

    /// Those of the small tables of these numbers.
    fn questions_in(&self, shards: &[usize]) -> impl Iterator<Item = (&[u8], Vec<u16>)> {
        let sharded = match &self.names {
            Tables::Whole(_) => None,
            Tables::Sharded(all) => Some(all.some(shards)),
        };
        sharded.into_iter().flatten().flat_map(questions_of)
    }

    #[inline]
    fn get(&self, name: &[u8], hash: u64) -> Option<Entry<'_>> {
        self.names.table(hash).get(hash, name)
    }

    /// Looks a name up for records of type `kind`. Allocates nothing.
    pub(crate) fn find(&self, asked: &Asked, kind: u16) -> Found<'_> {
        match self.get(asked.name(), asked.hash()) {
            Some(entry) => match entry.place() {
                Place::Inside | Place::Pods => self.of(entry, kind),
                // The parent answers for DS (RFC 4035 §3.1.4.1).
                Place::Cut if kind == kind::DS => self.of(entry, kind),
                Place::Cut | Place::Below => self.delegated(asked),
            },
            None => self.missing(asked, kind),
        }
    }

    /// What stands at the very name, where it is in no zone.
    fn alone(&self, asked: &Asked, kind: u16) -> Option<Found<'_>> {
        let entry = self.get(asked.name(), asked.hash())?;
        Some(self.of(entry, kind))
    }

    fn of<'a>(&'a self, entry: Entry<'a>, wanted: u16) -> Found<'a> {
        if let Some(set) = entry.set(wanted) {
            return Found::Records(set);
        }
        // For ANY one set is enough (RFC 8482 §4.1).
        if wanted == kind::ANY
            && let Some(set) = entry.any()
        {
            return Found::Records(set);
        }
        match entry.set(kind::CNAME) {
            Some(set) => Found::Alias(set),
            None => match self.authority(entry) {
                Some(soa) => Found::NoData(soa),
                None => Found::Foreign,
            },
        }
    }

    fn authority(&self, entry: Entry<'_>) -> Option<&RrSet> {
        self.authorities.get(entry.zone())
    }

    /// A name that has no entry: by a wildcard, below a delegation, a pod's, or none.
    fn missing(&self, asked: &Asked, wanted: u16) -> Found<'_> {
        // The nearest name above that exists; the root is the last to be tried.
        let above = (1..=asked.labels()).find_map(|labels| {
            let (name, start, hash) = asked.above(labels);
            Some((self.get(name, hash)?, start))
        });
        let Some((entry, at)) = above else { return Found::Foreign };
        match entry.place() {
            Place::Cut | Place::Below => return self.delegated(asked),
            Place::Pods => return self.pod(entry, &asked.name()[..at], wanted),
            Place::Inside => {}
        }
        let name = asked.name();
        let mut wild = [0u8; MAX_NAME];
        if entry.is_wild()
            && let Some(place) = wild.get_mut(..2 + name.len() - at)
        {
            place[..2].copy_from_slice(b"\x01*");
            place[2..].copy_from_slice(&name[at..]);
            if let Some(entry) = self.get(place, hash_of(place)) {
                return self.of(entry, wanted);
            }
        }
        match self.authority(entry).filter(|_| entry.is_rooted()) {
            Some(soa) => Found::NoName(soa),
            None => Found::Foreign,
        }
    }

    fn delegated(&self, asked: &Asked) -> Found<'_> {
        let found = (0..=asked.labels()).find_map(|labels| {
            let (name, start, hash) = asked.above(labels);
            let entry = self.get(name, hash).filter(|entry| entry.place() == Place::Cut)?;
            Some(Found::Delegated(entry.set(kind::NS)?, start))
        });
        found.unwrap_or(Found::Foreign)
    }

    /// `10-42-0-7.namespace` below `pod.DOMAIN`: the name says the address.
    fn pod<'a>(&'a self, entry: Entry<'a>, below: &[u8], wanted: u16) -> Found<'a> {
        let Some(soa) = self.authority(entry) else { return Found::Foreign };
        let (none, no_data) = (Found::NoName(soa), Found::NoData(soa));
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

/// The names of a table that are answered for, each with the types that it has.
fn questions_of(table: &Table) -> impl Iterator<Item = (&[u8], Vec<u16>)> {
    let ours = table.entries().filter(|entry| matches!(entry.place(), Place::Inside | Place::Pods));
    ours.map(|entry| (entry.name(), entry.sets().map(|set| set.kind()).collect()))
}

/// The record type of an address.
pub(crate) fn kind_of(ip: IpAddr) -> u16 {
    if ip.is_ipv4() { kind::A } else { kind::AAAA }
}

/// Puts a policy in force for the addresses, aliases and services of a name.
fn order(node: &mut Node, wanted: &Wanted) {
    for set in node.sets.iter_mut().filter(|set| set.kind() != kind::SOA) {
        let weights = (0..set.len()).map(|at| {
            let text = text_of(set.kind(), &set.record(at)[FIXED..]);
            text.and_then(|text| wanted.weights.get(&text)).copied().unwrap_or(1)
        });
        let mut policy = Policy::new(wanted, weights.collect());
        let asked = wanted.check.is_some() || wanted.healthy.is_some();
        if asked && matches!(set.kind(), kind::A | kind::AAAA) {
            let health = (0..set.len()).map(|at| {
                let ip = ip_of(set.kind(), &set.record(at)[FIXED..])?;
                Some(Health::of(ip, wanted.check.as_ref(), wanted.healthy))
            });
            policy = policy.with_health(health.collect());
        }
        set.set_policy(policy);
    }
}

/// An address as text; what else can be weighed is not in one form.
fn text_of(kind: u16, data: &[u8]) -> Option<String> {
    ip_of(kind, data).map(|ip| ip.to_string())
}

/// The address that a record of that type holds.
pub(crate) fn ip_of(kind: u16, data: &[u8]) -> Option<IpAddr> {
    match kind {
        kind::A => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
        kind::AAAA => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
        _ => None,
    }
}
