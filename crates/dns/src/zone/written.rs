//! From a zone that is written down to prepared answers.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{Line, Static};
use super::table::Packing;
use super::{Names, Node, Place, Policies, RrSet, Tables, Zone, order};
use crate::name;
use crate::query::kind;

impl Zone {
    /// Prepares every answer of a zone file.
    pub(crate) fn written(file: &Static, policies: &Policies) -> Self {
        let mut names = Names::default();
        names.reserve(file.records.len() + 1);
        // Its own minimum limits how long "there is none" may be kept (RFC 2308 §3).
        let minimum = file.soa.last_chunk().map_or(file.soa_ttl, |ttl| u32::from_be_bytes(*ttl));
        let ttl = file.soa_ttl.min(minimum);
        let authority = RrSet::owned(&file.apex, kind::SOA, ttl, &file.soa);
        let apex = names.entry(file.apex.as_slice().into()).or_default();
        apex.rooted = true;
        apex.set(kind::SOA).push(file.soa_ttl, &file.soa);
        for record in &file.records {
            grow(&mut names, &file.apex, &record.name)
                .set(record.kind)
                .push(record.ttl, &record.data);
        }
        if file.delegates {
            cut(&mut names, file);
        }
        for (name, wanted) in policies {
            if let Some(node) = names.get_mut(name.as_slice()) {
                order(node, wanted);
            }
        }
        let mut packing = Packing::with_room(names.len());
        for (name, node) in names {
            packing.push(&name, node);
        }
        Self { names: Tables::Whole(packing.finish()), authorities: vec![authority] }
    }
}

/// The node of `name`; the names between it and the apex come into being with it (RFC 8020).
fn grow<'a>(names: &'a mut Names, apex: &[u8], name: &[u8]) -> &'a mut Node {
    if !names.contains_key(name) {
        let mut at = 0;
        while name.len() - at > apex.len() {
            let node = names.entry(name[at..].into()).or_default();
            if std::mem::replace(&mut node.rooted, true) && at > 0 {
                break;
            }
            at += usize::from(name[at]) + 1;
        }
        // Only now are all that stand above a `*` there.
        let mut at = 0;
        while name.len() - at > apex.len() {
            let above = at + usize::from(name[at]) + 1;
            if name[at..above] == *b"\x01*"
                && let Some(node) = names.get_mut(&name[above..])
            {
                node.wild = true;
            }
            at = above;
        }
    }
    names.entry(name.into()).or_default()
}

/// Marks what is delegated, and adds the addresses of its servers to the delegation.
fn cut(names: &mut Names, file: &Static) {
    let is_cut = |record: &&Line| record.kind == kind::NS && record.name != file.apex;
    let cuts: BTreeSet<&[u8]> =
        file.records.iter().filter(is_cut).map(|record| record.name.as_slice()).collect();
    for cut in &cuts {
        if let Some(node) = names.get_mut(*cut) {
            node.place = Place::Cut;
        }
    }
    let mut addresses: BTreeMap<&[u8], Vec<&Line>> = BTreeMap::new();
    for record in &file.records {
        let mut above = name::parent(&record.name);
        while let Some(name) = above.filter(|name| name.len() > file.apex.len()) {
            if cuts.contains(name)
                && let Some(node) = names.get_mut(&*record.name)
            {
                node.place = Place::Below;
            }
            above = name::parent(name);
        }
        if record.ip().is_some() {
            addresses.entry(&record.name).or_default().push(record);
        }
    }
    for record in file.records.iter().filter(is_cut) {
        let target = record.data.to_ascii_lowercase();
        for address in addresses.get(target.as_slice()).into_iter().flatten() {
            if let (Some(ip), Some(node)) = (address.ip(), names.get_mut(&*record.name)) {
                node.set(kind::NS).push_additional(&target, address.ttl, ip);
            }
        }
    }
}
