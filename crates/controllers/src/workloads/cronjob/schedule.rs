//! When a CronJob is due: five fields, a macro such as `@daily`, or `@every 1h30m`, in a time zone.
//!
//! Reading and stepping is croner's. Where a clock goes forward, croner runs what falls into the gap
//! right after it; Kubernetes leaves it out.

use std::str::FromStr;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::workloads::Note;

/// A schedule that was read.
#[derive(Debug)]
pub(super) struct Schedule {
    rule: Rule,
    zone: TimeZone,
}

#[derive(Debug)]
enum Rule {
    Fields(Box<Cron>),
    Every(SignedDuration),
}

/// What of a schedule lies between two moments.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Missed {
    /// How many, as far as was counted.
    pub(super) count: usize,
    /// The latest of them.
    pub(super) last: Option<Timestamp>,
}

impl Schedule {
    /// Reads a schedule; the clock is UTC when no time zone is named.
    pub(super) fn read(text: &str, zone: Option<&str>) -> Result<Self, Note> {
        let zone = match zone {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|error| Note {
                reason: "UnknownTimeZone",
                message: format!("invalid timeZone: {name:?}: {error}"),
            })?,
        };
        let unreadable = |why: String| Note {
            reason: "UnparseableSchedule",
            message: format!("unparseable schedule {text:?}: {why}"),
        };
        if let Some(every) = text.trim().strip_prefix("@every ") {
            let every = SignedDuration::from_str(every.trim())
                .map_err(|error| unreadable(error.to_string()))?;
            // Kubernetes rounds down to seconds, and none is shorter than one.
            let seconds = every.as_secs().max(1);
            return Ok(Self { rule: Rule::Every(SignedDuration::from_secs(seconds)), zone });
        }
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let fields = parser.parse(text).map_err(|error| unreadable(error.to_string()))?;
        Ok(Self { rule: Rule::Fields(Box::new(fields)), zone })
    }

    /// The first moment after `after`.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.rule {
            Rule::Every(every) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*every).ok()
            }
            Rule::Fields(cron) => {
                let after = after.to_zoned(self.zone.clone());
                cron.find_next_occurrence(&after, false).ok().map(|next| next.timestamp())
            }
        }
    }

    /// The moments after `since` up to `now`; counts no further than `most`.
    pub(super) fn between(&self, since: Timestamp, now: Timestamp, most: usize) -> Missed {
        let mut missed = Missed::default();
        let mut at = since;
        while missed.count < most {
            match self.next(at).filter(|next| *next <= now) {
                Some(next) => {
                    at = next;
                    missed = Missed { count: missed.count + 1, last: Some(next) };
                }
                None => return missed,
            }
        }
        missed.last = self.last(at, now);
        missed
    }

    /// The latest moment up to `now`; one of the series that goes through `known`.
    fn last(&self, known: Timestamp, now: Timestamp) -> Option<Timestamp> {
        match &self.rule {
            Rule::Every(every) => {
                let rounds = now.duration_since(known).as_secs() / every.as_secs();
                let gone = SignedDuration::from_secs(rounds.checked_mul(every.as_secs())?);
                known.checked_add(gone).ok()
            }
            Rule::Fields(cron) => {
                let now = now.to_zoned(self.zone.clone());
                cron.find_previous_occurrence(&now, true).ok().map(|last| last.timestamp())
            }
        }
    }

    /// A moment as the schedule's own clock shows it, RFC 3339.
    pub(super) fn local(&self, moment: Timestamp) -> String {
        let offset = self.zone.to_offset(moment);
        if offset.is_zero() {
            return moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        }
        moment.to_zoned(self.zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn the_next_moment_is_that_of_the_schedules_own_clock() {
        let check = |text: &str, zone: Option<&str>, after: &str, expected: &str| {
            let schedule = Schedule::read(text, zone).expect("it can be read");
            assert_eq!(schedule.next(at(after)), Some(at(expected)), "{text} {zone:?} {after}");
        };
        check("*/5 * * * *", None, "2030-01-01T00:02:00Z", "2030-01-01T00:05:00Z");
        check("*/5 * * * *", None, "2030-01-01T00:05:00Z", "2030-01-01T00:10:00Z");
        check("0 0 1 * *", None, "2030-01-01T00:00:00Z", "2030-02-01T00:00:00Z");
        check("30 3 * * mon", None, "2030-01-01T00:00:00Z", "2030-01-07T03:30:00Z");
        check("@daily", None, "2030-01-01T00:02:00Z", "2030-01-02T00:00:00Z");
        check("@hourly", None, "2030-01-01T00:02:00Z", "2030-01-01T01:00:00Z");
        check("@every 1h30m", None, "2030-01-01T00:00:00Z", "2030-01-01T01:30:00Z");
        check("0 9 * * *", Some("Asia/Shanghai"), "2030-01-01T00:00:00Z", "2030-01-01T01:00:00Z");
        // The day of the month and the day of the week: either will do.
        check("0 0 13 * 5", None, "2030-01-01T00:00:00Z", "2030-01-04T00:00:00Z");
        // The hour that comes twice is taken once by a fixed time.
        let berlin = Some("Europe/Berlin");
        check("0 12 * * *", berlin, "2030-10-26T11:00:00Z", "2030-10-27T11:00:00Z");
        check("0 12 * * *", berlin, "2030-03-30T12:00:00Z", "2030-03-31T10:00:00Z");
        // 02:30 is left out on the day when the clock jumps over it.
        check("30 1 * * *", berlin, "2030-03-30T12:00:00Z", "2030-03-31T00:30:00Z");
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for (text, zone, reason) in [
            ("often", None, "UnparseableSchedule"),
            ("* * * *", None, "UnparseableSchedule"),
            ("* * * * * *", None, "UnparseableSchedule"),
            ("61 * * * *", None, "UnparseableSchedule"),
            ("@every soon", None, "UnparseableSchedule"),
            ("* * * * *", Some("Moon/Crater"), "UnknownTimeZone"),
        ] {
            let note = Schedule::read(text, zone).expect_err(text);
            assert_eq!(note.reason, reason, "{text}");
        }
    }

    #[test]
    fn however_many_were_missed_the_last_one_is_found() {
        let check = |text: &str, since: &str, count: usize, last: &str| {
            let schedule = Schedule::read(text, None).expect("it can be read");
            let found = schedule.between(at(since), at("2030-01-01T12:00:30Z"), 101);
            assert_eq!(found, Missed { count, last: Some(at(last)) }, "{text}");
        };
        check("* * * * *", "2030-01-01T11:59:30Z", 1, "2030-01-01T12:00:00Z");
        check("* * * * *", "2020-01-01T00:00:00Z", 101, "2030-01-01T12:00:00Z");
        check("@every 7s", "2030-01-01T00:00:00Z", 101, "2030-01-01T12:00:25Z");
        let none = Schedule::read("0 0 * * *", None).expect("it can be read");
        let found = none.between(at("2030-01-01T00:00:00Z"), at("2030-01-01T12:00:00Z"), 101);
        assert_eq!(found, Missed::default());
    }
}
