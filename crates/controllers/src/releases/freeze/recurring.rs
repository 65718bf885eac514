//! Windows that come back: `Fri@18:00/Mon@09:00` every week, `@22:00/@06:00` every day.
//!
//! Times are of the offset that is written behind them (`Fri@18:00+08:00`), else UTC. A zone's
//! name is refused: what a window means must not change with somebody's summer time.

use jiff::Timestamp;
use jiff::tz::TimeZone;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY: i64 = 24 * 60;
const WEEK: i64 = 7 * DAY;

/// One end of a window: minutes from where its period begins, in UTC.
#[derive(Clone, Copy, Debug, PartialEq)]
struct End {
    weekly: bool,
    minute: i64,
}

/// Whether `now` is in the window between two texts; `None` when these are no such window.
pub fn is_in(from: &str, until: &str, now: Timestamp) -> Option<bool> {
    let (from, until) = (end(from)?, end(until)?);
    if from.weekly != until.weekly {
        return None;
    }
    let period = if from.weekly { WEEK } else { DAY };
    let time = now.to_zoned(TimeZone::UTC);
    let day = i64::from(time.weekday().to_monday_zero_offset());
    let minute = day * DAY + i64::from(time.hour()) * 60 + i64::from(time.minute());
    // How far into the window now is, and how long the window is, both going round.
    let into = (minute - from.minute).rem_euclid(period);
    let long = (until.minute - from.minute).rem_euclid(period);
    Some(into < long)
}

fn end(text: &str) -> Option<End> {
    let (day, time) = text.split_once('@')?;
    let day = match day.to_ascii_lowercase().as_str() {
        "" => None,
        word => Some(i64::try_from(DAYS.iter().position(|known| *known == word)?).ok()?),
    };
    let (clock, offset) = match time.find(['+', '-', 'Z']) {
        Some(at) => time.split_at(at),
        None => (time, "Z"),
    };
    let offset = match offset.split_at_checked(1)? {
        ("Z", "") => 0,
        ("+", rest) => minutes(rest)?,
        ("-", rest) => -minutes(rest)?,
        _ => return None,
    };
    let period = if day.is_some() { WEEK } else { DAY };
    let minute = day.unwrap_or(0) * DAY + minutes(clock)? - offset;
    Some(End { weekly: day.is_some(), minute: minute.rem_euclid(period) })
}

/// Of `HH:MM`.
fn minutes(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str, below: i64| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<i64>().ok().filter(|number| digits && *number < below)
    };
    Some(number(hours, 24)? * 60 + number(minutes, 60)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_come_back_every_week_or_day() {
        // 2026-11-20 is a Friday.
        for (from, until, now, expected) in [
            ("Fri@18:00", "Mon@09:00", "2026-11-20T17:59:00Z", Some(false)),
            ("Fri@18:00", "Mon@09:00", "2026-11-20T18:00:00Z", Some(true)),
            ("Fri@18:00", "Mon@09:00", "2026-11-22T12:00:00Z", Some(true)),
            ("fri@18:00", "mon@09:00", "2026-11-23T09:00:00Z", Some(false)),
            ("Fri@18:00+08:00", "Mon@09:00+08:00", "2026-11-20T10:00:00Z", Some(true)),
            ("Mon@02:00+08:00", "Mon@03:00+08:00", "2026-11-22T18:30:00Z", Some(true)),
            ("@22:00", "@06:00", "2026-11-20T23:30:00Z", Some(true)),
            ("@22:00", "@06:00", "2026-11-20T05:59:00Z", Some(true)),
            ("@22:00", "@06:00", "2026-11-20T06:00:00Z", Some(false)),
            ("@22:00-05:00", "@23:00-05:00", "2026-11-20T03:30:00Z", Some(true)),
            ("Fri@18:00", "@09:00", "2026-11-20T18:00:00Z", None),
            ("Friday@18:00", "Mon@09:00", "2026-11-20T18:00:00Z", None),
            ("Fri@8:00", "Mon@09:00", "2026-11-20T18:00:00Z", None),
            ("Fri@24:00", "Mon@09:00", "2026-11-20T18:00:00Z", None),
            ("Fri@18:00Asia", "Mon@09:00", "2026-11-20T18:00:00Z", None),
        ] {
            assert_eq!(is_in(from, until, now.parse().unwrap()), expected, "{from}/{until} {now}");
        }
    }
}
