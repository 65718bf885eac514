//! The answers to AXFR and IXFR, put together to a zone. Pure: records in, a zone out.
//!
//! ```text
//! AXFR:  SOA new, records…, SOA new
//! IXFR:  SOA new, (SOA old, gone…, SOA newer, came…)+, SOA new      or as AXFR, or SOA new alone
//! ```

use std::collections::BTreeMap;

use domain::base::iana::{Class, Rcode};
use domain::base::rdata::ComposeRecordData;
use domain::base::{Message, ParsedName, ToName};
use domain::rdata::AllRecordData;

use super::{is_newer, serial, serial_of};
use crate::name;
use crate::query::kind;
use crate::zone::file::{Line, Static};

/// More records than this are refused: they would not fit the memory of a small machine.
const MOST_RECORDS: usize = 20_000_000;

/// Why what a primary sends is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadTransfer {
    #[error("the answer cannot be read")]
    Unreadable,
    #[error("the primary says {0}")]
    Code(Rcode),
    #[error("the records are not in the order of a transfer")]
    Order,
    #[error("it removes a record that is not there")]
    NotThere,
    #[error("it has too many records")]
    TooMany,
    #[error("its serial is older than the one that is known")]
    Older,
}

/// What came of a whole answer.
#[derive(Debug)]
pub(super) enum Came {
    /// What is known is what there is.
    Same,
    Zone(Static),
}

/// What has come of it so far.
#[derive(Debug)]
pub(super) struct Incoming<'a> {
    apex: &'a [u8],
    known: Option<&'a Static>,
    new: Option<Line>,
    records: usize,
    state: State,
    set: BTreeMap<(Vec<u8>, u16, Vec<u8>), u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    First,
    /// The first of the rest says which form it is.
    Second,
    Whole,
    Removing,
    /// Up to this serial.
    Adding(u32),
    Done,
}

impl<'a> Incoming<'a> {
    /// Of the zone of that apex, of which `known` is known already.
    pub(super) fn new(apex: &'a [u8], known: Option<&'a Static>) -> Self {
        Self { apex, known, new: None, records: 0, state: State::First, set: BTreeMap::new() }
    }

    /// Takes one message in; what came of all of them once the last is there.
    pub(super) fn take(&mut self, message: &Message<Vec<u8>>) -> Result<Option<Came>, BadTransfer> {
        let code = message.header().rcode();
        if code != Rcode::NOERROR {
            return Err(BadTransfer::Code(code));
        }
        let answers = message.answer().map_err(|_| BadTransfer::Unreadable)?;
        for record in answers.into_records::<AllRecordData<_, ParsedName<_>>>() {
            let record = record.map_err(|_| BadTransfer::Unreadable)?;
            if record.class() != Class::IN {
                continue;
            }
            let mut data = Vec::new();
            record.data().compose_rdata(&mut data).map_err(|_| BadTransfer::Unreadable)?;
            let owner: domain::base::Name<Vec<u8>> = record.owner().to_name();
            self.record(Line {
                name: owner.as_slice().to_ascii_lowercase(),
                kind: record.rtype().to_int(),
                ttl: record.ttl().as_secs(),
                data,
                line: 0,
            })?;
        }
        // One SOA record alone: there is nothing newer (RFC 1995 §2).
        if let (State::Second, Some(new), Some(known)) = (self.state, &self.new, self.known)
            && !is_newer(serial_of(&new.data), serial(known))
        {
            return Ok(Some(Came::Same));
        }
        Ok((self.state == State::Done).then(|| self.finish()))
    }

    fn record(&mut self, line: Line) -> Result<(), BadTransfer> {
        self.records += 1;
        if self.records > MOST_RECORDS {
            return Err(BadTransfer::TooMany);
        }
        let soa = line.kind == kind::SOA && line.name == self.apex;
        let serial = if soa { serial_of(&line.data) } else { 0 };
        let newest = self.new.as_ref().map_or(0, |new| serial_of(&new.data));
        match self.state {
            State::First if soa => {
                if let Some(known) = self.known
                    && is_newer(super::serial(known), serial)
                {
                    return Err(BadTransfer::Older);
                }
                self.new = Some(line);
                self.state = State::Second;
            }
            State::Second if soa && serial == newest => self.state = State::Done, // an empty zone
            State::Second if soa => {
                // Changes to what is known, and to nothing else.
                let known = self.known.filter(|known| super::serial(known) == serial);
                let known = known.ok_or(BadTransfer::Order)?;
                let of =
                    |line: &Line| ((line.name.clone(), line.kind, line.data.clone()), line.ttl);
                self.set = known.records.iter().map(of).collect();
                self.state = State::Removing;
            }
            State::Second => {
                self.state = State::Whole;
                self.add(line);
            }
            State::Whole if soa => self.state = State::Done,
            State::Whole => self.add(line),
            State::Removing if soa => self.state = State::Adding(serial),
            State::Removing => {
                let gone = self.set.remove(&(line.name, line.kind, line.data));
                gone.ok_or(BadTransfer::NotThere)?;
            }
            State::Adding(at) if soa && serial == newest && at == newest => {
                self.state = State::Done;
            }
            State::Adding(at) if soa && serial == at => self.state = State::Removing,
            State::Adding(_) if soa => return Err(BadTransfer::Order),
            State::Adding(_) => self.add(line),
            State::First | State::Done => return Err(BadTransfer::Order),
        }
        Ok(())
    }

    fn add(&mut self, line: Line) {
        // What is not in the zone is no business of its primary.
        if name::is_under(&line.name, self.apex) {
            self.set.insert((line.name, line.kind, line.data), line.ttl);
        }
    }

    fn finish(&mut self) -> Came {
        let Some(soa) = self.new.take() else { return Came::Same };
        let records: Vec<Line> = std::mem::take(&mut self.set)
            .into_iter()
            .map(|((name, kind, data), ttl)| Line { name, kind, ttl, data, line: 0 })
            .collect();
        let delegates = records.iter().any(|line| line.kind == kind::NS && line.name != soa.name);
        Came::Zone(Static { apex: soa.name, soa: soa.data, soa_ttl: soa.ttl, records, delegates })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soa(serial: u32) -> Line {
        let mut data = vec![0, 0];
        for number in [serial, 60, 30, 600, 5] {
            data.extend_from_slice(&number.to_be_bytes());
        }
        line("example.org", kind::SOA, &data)
    }

    fn line(name: &str, kind: u16, data: &[u8]) -> Line {
        let name = crate::name::encode(name).expect("a name");
        Line { name, kind, ttl: 5, data: data.to_vec(), line: 0 }
    }

    fn a(name: &str, last: u8) -> Line {
        line(name, kind::A, &[192, 0, 2, last])
    }

    fn zone(lines: Vec<Line>, known: Option<&Static>) -> Result<Option<Static>, BadTransfer> {
        let apex = crate::name::encode("example.org").expect("a name");
        let mut incoming = Incoming::new(&apex, known);
        for line in lines {
            incoming.record(line)?;
        }
        Ok((incoming.state == State::Done).then(|| match incoming.finish() {
            Came::Zone(zone) => zone,
            Came::Same => unreachable!("a new SOA came"),
        }))
    }

    #[test]
    fn whole_zones_and_changes_come_to_the_same() {
        let first = vec![soa(1), a("a.example.org", 1), a("b.example.org", 2), soa(1)];
        let first = zone(first, None).expect("in order").expect("it is whole");
        assert_eq!(first.records.len(), 2);
        let changes = vec![
            soa(3),
            soa(1),
            a("a.example.org", 1),
            soa(2),
            a("a.example.org", 7),
            soa(2),
            a("b.example.org", 2),
            soa(3),
            a("c.example.org", 3),
            soa(3),
        ];
        let changed = zone(changes, Some(&first)).expect("in order").expect("it is whole");
        let whole = vec![soa(3), a("a.example.org", 7), a("c.example.org", 3), soa(3)];
        assert_eq!(Some(changed), zone(whole, Some(&first)).expect("in order"));
    }

    #[test]
    fn what_is_no_transfer_is_not_taken() {
        let known = zone(vec![soa(5), a("a.example.org", 1), soa(5)], None).expect("x").expect("x");
        let of = |lines| zone(lines, Some(&known));
        assert!(matches!(of(vec![a("a.example.org", 1)]), Err(BadTransfer::Order)));
        assert!(matches!(of(vec![soa(4)]), Err(BadTransfer::Older)));
        assert!(matches!(of(vec![soa(9), soa(7)]), Err(BadTransfer::Order)));
        let gone = vec![soa(9), soa(5), a("x.example.org", 1)];
        assert!(matches!(of(gone), Err(BadTransfer::NotThere)));
        let others = vec![soa(9), a("www.example.com", 1), soa(9)];
        assert_eq!(of(others).expect("in order").expect("whole").records, []);
        let after = vec![soa(9), a("a.example.org", 1), soa(9), a("b.example.org", 1)];
        assert!(matches!(of(after), Err(BadTransfer::Order)));
    }
}
