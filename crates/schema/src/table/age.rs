//! How long ago something was, in the few characters that people know from kubectl.

use jiff::Timestamp;
use serde_json::Value;

/// The age of a time in an object, `<unknown>` when there is none.
pub fn since(time: &Value, now: Timestamp) -> String {
    moment(time).map_or_else(|| "<unknown>".to_owned(), |time| between(time, now))
}

pub fn moment(time: &Value) -> Option<Timestamp> {
    time.as_str()?.parse().ok()
}

/// The time between two moments: two units while they matter, then one.
pub fn between(from: Timestamp, to: Timestamp) -> String {
    let seconds = to.as_second() - from.as_second();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |first: i64, unit: char, second: i64, small: char| {
        if second == 0 { format!("{first}{unit}") } else { format!("{first}{unit}{second}{small}") }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => two(days, 'd', hours % 24, 'h'),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        for (seconds, expected) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (176_400, "2d1h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ] {
            let from = Timestamp::from_second(1_000_000_000).unwrap();
            let to = Timestamp::from_second(1_000_000_000 + seconds).unwrap();
            assert_eq!(between(from, to), expected, "{seconds}");
        }
    }
}
