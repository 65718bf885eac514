//! Durations as the Gateway API writes them: `10s`, `1h30m`, `500ms` (GEP-2257).

use std::time::Duration;

/// Why a text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a duration is up to four numbers with h, m, s or ms, such as 1h30m")]
pub struct DurationError;

/// Reads `text`: up to four numbers of at most five digits, each with its unit.
///
/// # Errors
/// When it is anything else; the empty text is.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let (mut rest, mut sum, mut parts) = (text, 0_u64, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let unit = rest.bytes().skip(digits).take_while(u8::is_ascii_alphabetic).count();
        parts += 1;
        if !(1..=5).contains(&digits) || parts > 4 {
            return Err(DurationError);
        }
        let number: u64 = rest[..digits].parse().map_err(|_| DurationError)?;
        sum += number
            * match &rest[digits..digits + unit] {
                "h" => 3_600_000,
                "m" => 60_000,
                "s" => 1_000,
                "ms" => 1,
                _ => return Err(DurationError),
            };
        rest = &rest[digits + unit..];
    }
    if parts == 0 { Err(DurationError) } else { Ok(Duration::from_millis(sum)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_proposal_allows_is_a_duration() {
        let ms = |text| parse_duration(text).map(|duration| duration.as_millis());
        assert_eq!(ms("0s"), Ok(0));
        assert_eq!(ms("500ms"), Ok(500));
        assert_eq!(ms("1h30m"), Ok(5_400_000));
        assert_eq!(ms("1h1m1s1ms"), Ok(3_661_001));
        for wrong in ["", "1", "s", "1.5s", "-1s", "100000s", "1d", "1s1s1s1s1s", "1 s", "1é"] {
            assert_eq!(ms(wrong), Err(DurationError), "{wrong:?}");
        }
    }
}
