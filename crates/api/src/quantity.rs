//! Amounts such as `500m`, `2Gi` or `1e3`, exact to a billionth.
//!
//! A quantity keeps the family of suffixes it was written in and prints in its canonical form: no
//! fraction, the largest suffix that allows that. Two are equal when their amounts are. Refuses
//! what is outside ±10²⁷.
//!
//! # Source
//! Kubernetes' `resource.Quantity`.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Sub};
use std::str::FromStr;

const NANOS: i128 = 1_000_000_000;
/// Ten to the 27th, in billionths: below what an `i128` holds by a factor that sums do not reach.
const MOST: i128 = 1_000_000_000_000_000_000_000_000_000 * NANOS;

/// The family of suffixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `m`, `k`, `M`, …
    DecimalSi,
    /// `Ki`, `Mi`, …
    BinarySi,
    /// `e3`, `e6`, …
    DecimalExponent,
}

/// An amount.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    family: Family,
}

/// A text that is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It is not a number with a known suffix.
    #[error(
        "quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Malformed,
    /// It is too large to hold.
    #[error("unable to represent so large a quantity")]
    TooLarge,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0, family: Family::DecimalSi };

    /// An amount in thousandths, such as CPU time.
    #[must_use]
    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * 1_000_000, family: Family::DecimalSi }
    }

    /// A whole number of bytes, printed with binary suffixes.
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Self {
        Self { nanos: i128::from(bytes) * NANOS, family: Family::BinarySi }
    }

    /// A whole number.
    #[must_use]
    pub fn from_whole(number: i64) -> Self {
        Self { nanos: i128::from(number) * NANOS, family: Family::DecimalSi }
    }

    /// The amount, rounded up to a whole number.
    #[must_use]
    pub fn whole(&self) -> i64 {
        narrow(divide_up(self.nanos, NANOS))
    }

    /// The amount in thousandths, rounded up.
    #[must_use]
    pub fn millis(&self) -> i64 {
        narrow(divide_up(self.nanos, 1_000_000))
    }

    /// The amount in billionths.
    #[must_use]
    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    /// The suffixes it prints with.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Whether it is below nothing.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }
}

/// The nearest `i64`.
fn narrow(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

/// Division that rounds away from zero.
fn divide_up(number: i128, by: i128) -> i128 {
    let whole = number / by;
    if number % by == 0 { whole } else { whole + number.signum() }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError::Malformed);
        }
        let (family, scale) = scale(suffix)?;
        let nanos = nanos(whole, fraction, scale)?;
        Ok(Self { nanos: if negative { -nanos } else { nanos }, family })
    }
}

/// What a suffix multiplies by.
enum ByPower {
    Ten(i32),
    Two(u32),
}

fn scale(suffix: &str) -> Result<(Family, ByPower), QuantityError> {
    let decimal = |power| Ok((Family::DecimalSi, ByPower::Ten(power)));
    let binary = |power| Ok((Family::BinarySi, ByPower::Two(power)));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let power = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Malformed)?;
            let power: i32 = power.parse().map_err(|_| QuantityError::Malformed)?;
            Ok((Family::DecimalExponent, ByPower::Ten(power)))
        }
    }
}

/// The amount in billionths, rounded up; digits beyond what matters only decide the rounding.
fn nanos(whole: &str, fraction: &str, scale: ByPower) -> Result<i128, QuantityError> {
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let places = i32::try_from(fraction.len()).map_err(|_| QuantityError::Malformed)?;
    if digits.is_empty() {
        return Ok(0);
    }
    let (power, factor) = match scale {
        ByPower::Ten(power) => (power, 1),
        ByPower::Two(power) => (0, 1_i128 << power),
    };
    // digits × 10^shift × factor, in billionths.
    let shift = power.checked_add(9 - places).ok_or(QuantityError::TooLarge)?;
    let (digits, dropped, shift) = shorten(digits, shift);
    let number: i128 = digits.parse().map_err(|_| QuantityError::TooLarge)?;
    let number = number.checked_mul(factor).ok_or(QuantityError::TooLarge)?;
    let nanos = if shift >= 0 {
        let ten = 10_i128.checked_pow(shift.unsigned_abs()).ok_or(QuantityError::TooLarge)?;
        number.checked_mul(ten).ok_or(QuantityError::TooLarge)?
    } else {
        match 10_i128.checked_pow(shift.unsigned_abs()) {
            Some(ten) => divide_up(number, ten),
            None => 1,
        }
    };
    let nanos = if dropped { nanos + 1 } else { nanos };
    if nanos > MOST { Err(QuantityError::TooLarge) } else { Ok(nanos) }
}

/// Cuts digits below a billionth that would not fit a number; says whether any was not zero.
fn shorten(digits: &str, shift: i32) -> (&str, bool, i32) {
    /// As many digits as leave room for the factor of `Ei`.
    const KEPT: usize = 19;
    let below = usize::try_from(-i64::from(shift)).unwrap_or(0);
    let cut = digits.len().saturating_sub(KEPT).min(below);
    let (kept, gone) = digits.split_at(digits.len() - cut);
    let cut = i32::try_from(cut).unwrap_or(i32::MAX);
    (kept, gone.bytes().any(|digit| digit != b'0'), shift.saturating_add(cut))
}

impl fmt::Display for Quantity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return out.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANOS;
        // A part of a byte has no binary suffix: nothing is rounded away for the sake of one.
        if self.family == Family::BinarySi && !small && self.nanos % NANOS == 0 {
            let (number, suffix) = binary(self.nanos / NANOS);
            return write!(out, "{number}{suffix}");
        }
        let mut number = self.nanos;
        let mut power = -9;
        while number % 1000 == 0 && power < 18 {
            number /= 1000;
            power += 3;
        }
        match self.family {
            Family::DecimalExponent if power == 0 => write!(out, "{number}"),
            Family::DecimalExponent => write!(out, "{number}e{power}"),
            _ => write!(out, "{number}{}", decimal_suffix(power)),
        }
    }
}

fn binary(mut number: i128) -> (i128, &'static str) {
    let mut suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].into_iter();
    let mut suffix = suffixes.next().unwrap_or_default();
    for next in suffixes {
        if number % 1024 != 0 {
            break;
        }
        number /= 1024;
        suffix = next;
    }
    (number, suffix)
}

fn decimal_suffix(power: i32) -> &'static str {
    match power {
        -9 => "n",
        -6 => "u",
        -3 => "m",
        3 => "k",
        6 => "M",
        9 => "G",
        12 => "T",
        15 => "P",
        18 => "E",
        _ => "",
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;

    /// Keeps the left one's suffixes, or the right one's when the left is nothing.
    fn add(self, other: Self) -> Self {
        let family = if self.nanos == 0 { other.family } else { self.family };
        Self { nanos: self.nanos.saturating_add(other.nanos), family }
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_sub(other.nanos), family: self.family }
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_form_has_no_fraction_and_the_largest_suffix() {
        for (text, expected) in [
            ("0", "0"),
            ("0Gi", "0"),
            ("1", "1"),
            ("+1", "1"),
            ("-1", "-1"),
            ("1000m", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("1500m", "1500m"),
            ("12000", "12k"),
            ("1.5G", "1500M"),
            ("1024Ki", "1Mi"),
            ("1536Mi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("1.55Gi", "1664299827200m"),
            ("1000Mi", "1000Mi"),
            ("100Ki", "100Ki"),
            ("0.5Ki", "512"),
            ("0.1Ki", "102400m"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e4", "120e3"),
            ("1E", "1E"),
            ("1e0", "1"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("1.0000000001", "1000000001n"),
            ("-0.1n", "-1n"),
            ("1000E", "1000E"),
            ("00123", "123"),
            ("1e-3", "1e-3"),
            ("128974848", "128974848"),
            ("0.000000000000000000000000000000000001", "1n"),
        ] {
            let quantity: Quantity = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(quantity.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "m", ".", "1.2.3", "1 ", "1mm", "1K", "ten", "1e", "1e3.5", "--1", "1Kib"]
        {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Malformed), "{text}");
        }
        for text in ["1e99", "99999999999999999999999999999999999999999999", "1e2147483647"] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::TooLarge), "{text}");
        }
    }

    #[test]
    fn amounts_compare_and_add_across_families() {
        let read = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(read("1Ki"), read("1024"));
        assert!(read("1G") < read("1Gi"));
        assert_eq!((read("100m") + read("1")).to_string(), "1100m");
        assert_eq!((Quantity::ZERO + read("1Gi")).to_string(), "1Gi");
        assert_eq!(read("1500m").whole(), 2);
        assert_eq!(read("1u").millis(), 1);
        assert_eq!(Quantity::from_bytes(1 << 30).to_string(), "1Gi");
        assert_eq!([read("1"), read("2")].into_iter().sum::<Quantity>(), read("3"));
    }

    #[test]
    fn printing_and_reading_again_changes_nothing() {
        for text in ["1", "1500m", "3Gi", "7e6", "1n", "999999999n", "1000E", "-4Ti"] {
            let quantity: Quantity = text.parse().unwrap();
            assert_eq!(quantity.to_string().parse::<Quantity>().unwrap(), quantity);
        }
    }
}
