//! Reads Kubernetes' quantities where the machine needs numbers.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Thousandths, rounded up: `250m` → 250, `1` → 1000. What is no quantity counts as nothing,
/// because the API server has refused it already.
pub fn milli(quantity: &Quantity) -> u64 {
    nano(&quantity.0).map_or(0, |nano| to_u64(nano.div_ceil(1_000_000)))
}

/// Whole units, rounded up: `64Mi` → 67108864, `1500m` → 2.
pub fn bytes(quantity: &Quantity) -> u64 {
    nano(&quantity.0).map_or(0, |nano| to_u64(nano.div_ceil(1_000_000_000)))
}

fn to_u64(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// Thousandths of thousandths of thousandths, so that no suffix loses digits.
fn nano(text: &str) -> Option<u128> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let base = whole.checked_mul(1_000_000_000)?.checked_add(digits.parse().ok()?)?;
    let (times, by) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1u128 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let ten = 10u128.checked_pow(power.unsigned_abs())?;
            if power >= 0 { (ten, 1) } else { (1, ten) }
        }
    };
    Some(base.checked_mul(times)?.div_ceil(by))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_count_as_in_kubernetes() {
        for (text, expected_milli, expected_bytes) in [
            ("0", 0, 0),
            ("250m", 250, 1),
            ("1", 1000, 1),
            ("1.5", 1500, 2),
            ("0.1", 100, 1),
            ("64Mi", 67_108_864_000, 67_108_864),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("1e3", 1_000_000, 1000),
            (
                "12E",
                12_000_000_000_000_000_000_000u128.min(u128::from(u64::MAX)) as u64,
                12_000_000_000_000_000_000,
            ),
            ("100n", 1, 1),
            ("nonsense", 0, 0),
        ] {
            let quantity = Quantity(text.to_owned());
            assert_eq!(milli(&quantity), expected_milli, "milli of {text}");
            assert_eq!(bytes(&quantity), expected_bytes, "bytes of {text}");
        }
    }
}
