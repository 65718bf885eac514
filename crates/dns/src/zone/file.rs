//! Zones from master files (RFC 1035 §5): read, checked as a whole, then taken or refused.
//!
//! `$INCLUDE` is refused: a zone may come from an object, and must not read files then.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use domain::base::iana::Class;
use domain::base::rdata::{ComposeRecordData, ParseAnyRecordData};
use domain::base::{Name, ParsedName, Rtype, ToName};
use domain::dep::octseq::Parser;
use domain::rdata::{AllRecordData, ZoneRecordData};
use domain::zonefile::inplace::{Entry, Zonefile};

use crate::name;
use crate::query::kind;

mod durations;

/// More problems than this help nobody.
const MOST_PROBLEMS: usize = 100;

/// One record of a zone file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Lower-case wire form.
    pub name: Vec<u8>,
    pub kind: u16,
    pub ttl: u32,
    pub data: Vec<u8>,
    pub line: u32,
}

impl Line {
    /// The address that an address record holds.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self.kind {
            kind::A => <[u8; 4]>::try_from(self.data.as_slice()).ok().map(IpAddr::from),
            kind::AAAA => <[u8; 16]>::try_from(self.data.as_slice()).ok().map(IpAddr::from),
            _ => None,
        }
    }

    /// The name that the record leads to, in lower case.
    fn target(&self) -> Option<Vec<u8>> {
        let start = match self.kind {
            kind::NS | kind::CNAME | kind::PTR => 0,
            kind::MX => 2,
            kind::SRV => 6,
            _ => return None,
        };
        Some(self.data.get(start..)?.to_ascii_lowercase())
    }
}

/// A zone that was read and found to be in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Static {
    pub apex: Vec<u8>,
    pub soa: Vec<u8>,
    pub soa_ttl: u32,
    /// All records but the SOA.
    pub records: Vec<Line>,
    /// Some names in it are delegated.
    pub delegates: bool,
}

impl Static {
    /// As a zone file, each record in the form that any type has (RFC 3597 §5); what is read from it
    /// is the same zone.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        generic(&mut text, &self.apex, kind::SOA, self.soa_ttl, &self.soa);
        for line in &self.records {
            generic(&mut text, &line.name, line.kind, line.ttl, &line.data);
        }
        text
    }
}

fn generic(to: &mut String, owner: &[u8], kind: u16, ttl: u32, data: &[u8]) {
    let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
    let owner = name::text(owner);
    to.push_str(&format!("{owner} {ttl} IN TYPE{kind} \\# {} {hex}\n", data.len()));
}

/// The data of a record that is written as bytes: of a type that is known they must be such a
/// record's, of another one whatever they are (RFC 3597 §5).
fn generic_of(rtype: Rtype, bytes: &[u8]) -> Option<Vec<u8>> {
    if rtype == Rtype::OPT || (kind::FIRST_META..=kind::ANY).contains(&rtype.to_int()) {
        return None;
    }
    let mut parser = Parser::from_ref(bytes);
    let read: AllRecordData<_, ParsedName<&[u8]>> =
        AllRecordData::parse_any_rdata(rtype, &mut parser).ok()?;
    let mut again = Vec::new();
    read.compose_rdata(&mut again).ok()?;
    // Names may not be compressed there.
    (again == bytes).then_some(again)
}

/// What is wrong with a zone file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: u32,
    /// From 1; 0 where the whole line is meant.
    pub column: u32,
    /// What.
    pub what: String,
    /// It is served all the same.
    pub harmless: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, what, harmless } = self;
        let weight = if *harmless { "warning" } else { "error" };
        match column {
            0 => write!(f, "{line}: {weight}: {what}"),
            _ => write!(f, "{line}:{column}: {weight}: {what}"),
        }
    }
}

/// Reads a zone; relative names are of `origin` until `$ORIGIN` says another.
///
/// With the zone come its harmless problems.
///
/// # Errors
/// All that is wrong with it, harmless problems among them.
pub(crate) fn read(
    text: &[u8],
    origin: Option<&str>,
) -> Result<(Static, Vec<Problem>), Vec<Problem>> {
    // The parser panics at some texts, such as a character string that ends with the file; whoever
    // may write a zone must not end the task that reads it.
    let parsed = std::panic::catch_unwind(|| parse(text, origin)).unwrap_or_else(|_| {
        let what = "the parser gave up, perhaps at a text that does not end".to_owned();
        Err(Problem { line: 1, column: 0, what, harmless: false })
    });
    let lines = parsed.map_err(|problem| vec![problem])?;
    let problems = check(&lines);
    if problems.iter().any(|problem| !problem.harmless) {
        return Err(problems);
    }
    let at = lines.iter().position(|line| line.kind == kind::SOA).expect("the check found one");
    let mut records = lines;
    let soa = records.remove(at);
    let delegates = records.iter().any(|line| line.kind == kind::NS && line.name != soa.name);
    let zone = Static { apex: soa.name, soa: soa.data, soa_ttl: soa.ttl, records, delegates };
    Ok((zone, problems))
}

/// Refuses what the parser panics at: a parenthesis that is not closed, and `$INCLUDE`.
fn unclosed(text: &[u8]) -> Result<(), Problem> {
    let (mut line, mut opened) = (1, Vec::new());
    let (mut quoted, mut comment, mut begins) = (false, false, true);
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let wrong =
            |line, what: &str| Problem { line, column: 0, what: what.into(), harmless: false };
        let word = text.get(at..at + b"$INCLUDE".len()).unwrap_or_default();
        if begins && opened.is_empty() && word.eq_ignore_ascii_case(b"$INCLUDE") {
            return Err(wrong(line, "$INCLUDE is not followed"));
        }
        begins = false;
        match byte {
            b'\n' => {
                line += 1;
                (comment, begins) = (false, !quoted);
            }
            _ if comment => {}
            b'\\' => {
                at += 1;
                line += u32::from(text.get(at) == Some(&b'\n'));
            }
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b';' => comment = true,
            b'(' => opened.push(line),
            b')' => drop(opened.pop()),
            _ => {}
        }
        at += 1;
    }
    match opened.pop() {
        Some(line) => {
            let what = "a parenthesis that is not closed".to_owned();
            Err(Problem { line, column: 0, what, harmless: false })
        }
        None => Ok(()),
    }
}

fn parse(text: &[u8], origin: Option<&str>) -> Result<Vec<Line>, Problem> {
    let mut plain = durations::in_seconds(text);
    if !plain.ends_with(b"\n") {
        plain.push(b'\n');
    }
    let text = plain.as_slice();
    unclosed(text)?;
    let mut file = Zonefile::from(text);
    file.set_default_class(Class::IN);
    if let Some(origin) = origin {
        let at = |what: String| Problem { line: 1, column: 1, what, harmless: false };
        let absolute = format!("{}.", origin.trim_end_matches('.'));
        let name = absolute.parse().map_err(|_| at(format!("origin {origin:?} is no name")))?;
        file.set_origin(name);
    }
    let mut place = Place { text, at: 0, line: 1 };
    let mut lines = Vec::new();
    loop {
        let before = file.current_offset();
        let entry = match file.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(lines),
            Err(error) => return Err(of_parser(&error.to_string(), text)),
        };
        let line = place.entry_from(before);
        let at = |what: String| Problem { line, column: 0, what, harmless: false };
        let record = match entry {
            Entry::Record(record) => record,
            Entry::Include { .. } => return Err(at("$INCLUDE is not followed".into())),
        };
        if record.class() != Class::IN {
            return Err(at(format!("class {} is not served, IN alone", record.class())));
        }
        let owner: Name<Vec<u8>> = record.owner().to_name();
        // The parser lets `a..` pass, whose wire form goes on behind its end.
        let hollow = || at("a name has an empty label (two dots in a row)".into());
        Name::from_slice(owner.as_slice()).map_err(|_| hollow())?;
        let mut data = Vec::new();
        let rtype = record.rtype();
        match record.data() {
            ZoneRecordData::Unknown(bytes) => {
                let bytes: &[u8] = bytes.data().as_ref();
                data = generic_of(rtype, bytes)
                    .ok_or_else(|| at(format!("that is no record of type {rtype}")))?;
            }
            known => {
                known.compose_rdata(&mut data).map_err(|_| at("is too long".into()))?;
                data = generic_of(rtype, &data).ok_or_else(hollow)?;
            }
        }
        lines.push(Line {
            name: owner.as_slice().to_ascii_lowercase(),
            kind: rtype.to_int(),
            ttl: record.ttl().as_secs(),
            data,
            line,
        });
    }
}

/// `LINE:COLUMN: what`, as the parser writes it.
fn of_parser(error: &str, text: &[u8]) -> Problem {
    let mut parts = error.splitn(3, ':');
    let mut number = || parts.next().and_then(|part| part.trim().parse::<u32>().ok());
    let (mut line, mut column) = (number().unwrap_or(1), number().unwrap_or(0));
    let what = parts.next().unwrap_or(error).trim().to_owned();
    // At the end of a line it has gone on to the next one already: the last word is meant.
    if column <= 1
        && let Some(before) = (line as usize).checked_sub(2)
        && let Some(words) = text.split(|byte| *byte == b'\n').nth(before)
        && let Some(last) = words.trim_ascii_end().iter().rposition(u8::is_ascii_whitespace)
    {
        (line, column) = (line - 1, u32::try_from(last + 2).unwrap_or(0));
    }
    Problem { line, column, what, harmless: false }
}

/// Where in the text entries begin; only forwards.
struct Place<'a> {
    text: &'a [u8],
    at: usize,
    line: u32,
}

impl Place<'_> {
    /// The line of the first entry at or behind `offset`.
    fn entry_from(&mut self, offset: usize) -> u32 {
        let mut comment = false;
        while let Some(byte) = self.text.get(self.at) {
            let blank = comment || byte.is_ascii_whitespace();
            if self.at >= offset && !blank && *byte != b';' && *byte != b'$' {
                break;
            }
            // A directive is skipped like a comment: entries are records here.
            comment = match byte {
                b'\n' => false,
                b';' | b'$' if self.at >= offset => true,
                _ => comment,
            };
            self.line += u32::from(*byte == b'\n');
            self.at += 1;
        }
        self.line
    }
}

/// What is wrong with a zone's records as a whole.
fn check(lines: &[Line]) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut say = |line: u32, harmless: bool, what: String| {
        if found.len() < MOST_PROBLEMS {
            found.push(Problem { line, column: 0, what, harmless });
        }
    };
    let mut authorities = lines.iter().filter(|line| line.kind == kind::SOA);
    let Some(soa) = authorities.next() else {
        say(1, false, "there is no SOA record".into());
        return found;
    };
    for other in authorities {
        say(other.line, false, format!("a second SOA record, the first is on line {}", soa.line));
    }
    let mut names: BTreeMap<&[u8], Vec<&Line>> = BTreeMap::new();
    for line in lines {
        if name::is_under(&line.name, &soa.name) {
            names.entry(&line.name).or_default().push(line);
        } else {
            let (name, zone) = (name::text(&line.name), name::text(&soa.name));
            say(line.line, false, format!("{name} is not in the zone {zone}"));
        }
    }
    if !names.get(soa.name.as_slice()).is_some_and(|own| own.iter().any(|l| l.kind == kind::NS)) {
        let zone = name::text(&soa.name);
        say(soa.line, true, format!("{zone} has no NS record"));
    }
    let mut seen = BTreeSet::new();
    for (name, own) in &names {
        let shown = name::text(name);
        if let Some(alias) = own.iter().find(|line| line.kind == kind::CNAME)
            && let Some(other) = own.iter().find(|line| line.line != alias.line)
        {
            let (line, kind) = (other.line, Rtype::from_int(other.kind));
            let first = alias.line;
            say(line, false, format!("{shown} is an alias (line {first}), and has {kind} too"));
        }
        for line in own {
            if !seen.insert((&line.name, line.kind, &line.data)) {
                say(line.line, true, format!("this record of {shown} is there already"));
            }
            let first = own.iter().find(|first| first.kind == line.kind);
            if let Some(first) = first.filter(|first| first.ttl != line.ttl) {
                let (ttl, kind) = (first.ttl, Rtype::from_int(line.kind));
                say(line.line, true, format!("all {kind} of {shown} live {ttl} s, as the first"));
            }
        }
    }
    for line in lines {
        if let Some(target) = line.target() {
            lead(line, &target, &soa.name, &names, &mut say);
        }
    }
    found.sort_by_key(|problem| problem.line);
    found
}

/// What is wrong with where a record leads.
fn lead(
    line: &Line,
    target: &[u8],
    zone: &[u8],
    names: &BTreeMap<&[u8], Vec<&Line>>,
    say: &mut impl FnMut(u32, bool, String),
) {
    if !name::is_under(target, zone) || target.len() < 2 {
        return;
    }
    let (kind, shown) = (Rtype::from_int(line.kind), name::text(target));
    let wild = |name: &[u8]| {
        let mut above = name::parent(name);
        while let Some(name) = above {
            if names.contains_key([b"\x01*", name].concat().as_slice()) {
                return true;
            }
            above = name::parent(name);
        }
        false
    };
    let cut = |name: &[u8]| {
        let mut above = Some(name);
        while let Some(name) = above.filter(|name| name.len() > zone.len()) {
            if names.get(name).is_some_and(|own| own.iter().any(|l| l.kind == kind::NS)) {
                return true;
            }
            above = name::parent(name);
        }
        false
    };
    match names.get(target) {
        Some(own) if line.kind != kind::CNAME && line.kind != kind::PTR => {
            if own.iter().any(|own| own.kind == kind::CNAME) {
                say(line.line, true, format!("{kind} leads to {shown}, which is an alias"));
            } else if line.kind == kind::NS && !own.iter().any(|own| own.ip().is_some()) {
                say(line.line, true, format!("the server {shown} has no address here"));
            }
        }
        Some(_) if line.kind == kind::CNAME => {
            let mut at = target.to_vec();
            let mut steps = 0;
            while let Some(own) = names.get(at.as_slice())
                && let Some(next) = own.iter().find(|own| own.kind == kind::CNAME)
                && let Some(target) = next.target()
            {
                steps += 1;
                if target == line.name || steps > crate::answer::MOST_ALIASES {
                    say(line.line, false, "aliases that lead in a circle, or too far".into());
                    return;
                }
                at = target;
            }
        }
        Some(_) => {}
        None if line.kind == kind::NS && cut(target) => {
            say(line.line, true, format!("the server {shown} needs its address here (glue)"));
        }
        None if !wild(target) && !cut(target) && line.kind != kind::PTR => {
            say(line.line, true, format!("{kind} leads to {shown}, which does not exist"));
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "$ORIGIN example.org.\n$TTL 300\n@ SOA ns admin 1 7200 1800 86400 60\n@ NS ns\nns A 192.0.2.1\n";

    fn problems(rest: &str) -> Vec<String> {
        let text = format!("{HEAD}{rest}");
        match read(text.as_bytes(), None) {
            Ok((_, problems)) | Err(problems) => problems.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn what_people_write_is_read() {
        let text = "; a zone\n$TTL 1h\n@ IN SOA ns (\n  admin 1 2 3 4 5 ) ; over lines\n\tIN NS ns\n\
                    ns A 192.0.2.1\n  AAAA 2001:db8::1\n* 60 IN TXT \"a b\" c\nwww CNAME ns\n\
                    mail MX 10 ns\n_x._tcp SRV 1 2 3 ns\n@ CAA 0 issue \"ca.example\"\n";
        let (zone, problems) = read(text.as_bytes(), Some("example.org")).expect("a zone");
        assert_eq!(problems, []);
        assert_eq!(zone.apex, name::encode("example.org").expect("a name"));
        assert_eq!((zone.soa_ttl, zone.records.len()), (3600, 8));
        let wild = zone.records.iter().find(|line| line.kind == kind::TXT).expect("it is there");
        assert_eq!(
            (wild.ttl, wild.line, wild.data.as_slice()),
            (60, 8, b"\x03a b\x01c".as_slice())
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let check = |rest: &str, expected: &[&str]| assert_eq!(problems(rest), expected, "{rest}");
        check("www A 192.0.2.2\n", &[]);
        check(
            "www CNAME ns\nwww A 192.0.2.2\n",
            &["7: error: www.example.org. is an alias (line 6), and has A too"],
        );
        check(
            "a.example.com. A 192.0.2.2\n",
            &["6: error: a.example.com. is not in the zone example.org."],
        );
        check(
            "a CNAME b\nb CNAME a\n",
            &[
                "6: error: aliases that lead in a circle, or too far",
                "7: error: aliases that lead in a circle, or too far",
            ],
        );
        check(
            "sub NS ns.sub\n",
            &["6: warning: the server ns.sub.example.org. needs its address here (glue)"],
        );
        check(
            "a MX 5 nobody\n",
            &["6: warning: MX leads to nobody.example.org., which does not exist"],
        );
        check(
            "a 5 A 192.0.2.7\na 6 A 192.0.2.8\n",
            &["7: warning: all A of a.example.org. live 5 s, as the first"],
        );
        let bad = problems("www A 192.0.2\n");
        assert_eq!(bad, ["6:7: error: expected IPv4 address"]);
        for hollow in ["a NS n..\n", "a CNAME n..m\n", "n.. A 192.0.2.7\n", "n..m A 192.0.2.7\n"] {
            let [problem] = &problems(hollow)[..] else { panic!("{hollow}") };
            assert!(problem.starts_with("6") && problem.contains("error"), "{problem}");
        }
        let none = read(b"@ 5 A 192.0.2.1\n", Some("example.org")).expect_err("no SOA");
        assert_eq!(none[0].to_string(), "1: error: there is no SOA record");
    }
}
