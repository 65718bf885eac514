//! "A third of it" or "two of it" as a number.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How a percentage that is no whole number is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// Towards more.
    Up,
    /// Towards less.
    Down,
}

/// `value` of `total`, never negative; what cannot be read counts as 0.
pub(crate) fn of(value: &IntOrString, total: i32, round: Round) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|n| n.parse::<i64>().ok()).unwrap_or(0);
            let product = percent.max(0).saturating_mul(i64::from(total.max(0)));
            let whole = match round {
                Round::Up => product.saturating_add(99) / 100,
                Round::Down => product / 100,
            };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

/// `(max_surge, max_unavailable)` for `replicas`: surge rounds up, unavailable down, and when both
/// come to nothing one may be unavailable, or the update would never move.
pub(crate) fn fenceposts(
    surge: Option<&IntOrString>,
    unavailable: Option<&IntOrString>,
    replicas: i32,
) -> (i32, i32) {
    let quarter = IntOrString::String("25%".into());
    let surge = of(surge.unwrap_or(&quarter), replicas, Round::Up);
    let unavailable = of(unavailable.unwrap_or(&quarter), replicas, Round::Down);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_kubernetes_rounds_them() {
        let text = |s: &str| IntOrString::String(s.into());
        let check = |surge, unavailable, replicas, expected| {
            assert_eq!(fenceposts(Some(&surge), Some(&unavailable), replicas), expected);
        };
        check(text("25%"), text("25%"), 3, (1, 0));
        check(text("25%"), text("25%"), 10, (3, 2));
        check(text("0%"), text("10%"), 5, (0, 1));
        check(IntOrString::Int(0), IntOrString::Int(0), 5, (0, 1));
        check(IntOrString::Int(2), text("50%"), 5, (2, 2));
        check(text("100%"), IntOrString::Int(7), 4, (4, 7));
        assert_eq!(fenceposts(None, None, 4), (1, 1));
    }
}
