//! What a query gets: from the zone, or from somebody else. Pure.

use crate::answer::{Parts, Prepared};
use crate::wire::{Name, Query, code};
use crate::zone::Zone;

/// What is to be done about a query.
#[derive(Debug)]
pub enum Resolved<'a> {
    /// This is the answer.
    Known(Parts<'a>),
    /// This is the answer, made for this query alone.
    Made(Prepared),
    /// The name stands for this one, whose answers belong to it.
    Alias(&'a Name),
    /// Somebody else knows.
    Forward,
}

/// Looks the query up. `first` is which of several answers goes first.
pub fn resolve<'a>(zone: &'a Zone, query: &Query<'_>, first: usize) -> Resolved<'a> {
    if query.class != code::IN {
        return Resolved::Known(Parts { code: code::REFUSED, ..Parts::default() });
    }
    let Some(node) = zone.get(query.name) else {
        if !zone.covers(query.name) {
            return Resolved::Forward;
        }
        let pod = zone.pod_address(query.name);
        return match (pod, query.kind) {
            (Some(records), code::A) => Resolved::Made(records),
            (Some(_), _) => no(zone, code::NO_ERROR),
            (None, _) => no(zone, code::NAME_ERROR),
        };
    };
    if let Some(answers) = node.records(query.kind) {
        return Resolved::Known(Parts {
            code: code::NO_ERROR,
            authoritative: true,
            answers: Some(answers),
            authority: None,
            additional: node.additional(query.kind),
            first,
        });
    }
    match node.alias() {
        Some((record, _)) if query.kind == code::CNAME => Resolved::Known(Parts {
            authoritative: true,
            answers: Some(record),
            ..Parts::default()
        }),
        Some((_, target)) => Resolved::Alias(target),
        None => no(zone, code::NO_ERROR),
    }
}

fn no(zone: &Zone, code: u8) -> Resolved<'_> {
    Resolved::Known(Parts {
        code,
        authoritative: true,
        authority: Some(zone.soa()),
        ..Parts::default()
    })
}

#[cfg(test)]
mod tests;
