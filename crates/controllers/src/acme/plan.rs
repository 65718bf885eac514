//! Whether a certificate is to be ordered now. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// From one failure to the next try; doubled each time. Let's Encrypt allows five failures an hour.
const FIRST_PAUSE: Duration = Duration::from_secs(300);
/// Not more than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// A Secret that is there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Held {
    pub(super) is_ours: bool,
    /// Whom it is from, as we wrote it down.
    pub(super) directory: String,
    /// `None` when there is no certificate in it that can be read.
    pub(super) certificate: Option<Certificate>,
}

/// What counts of a certificate.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Certificate {
    pub(super) hosts: BTreeSet<String>,
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

/// What did not work, and when it may be tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Failed {
    pub(super) hosts: BTreeSet<String>,
    pub(super) times: u32,
    pub(super) until: Timestamp,
    pub(super) why: String,
}

impl Failed {
    /// One more failure, for the reason `why`; the authority wants to be left alone until
    /// `not_before`.
    pub(super) fn after(
        before: Option<&Self>,
        hosts: &BTreeSet<String>,
        why: &str,
        not_before: Option<Timestamp>,
        now: Timestamp,
    ) -> Self {
        let before = before.filter(|before| before.hosts == *hosts);
        let times = before.map_or(0, |before| before.times).saturating_add(1);
        let pause = FIRST_PAUSE.saturating_mul(1 << (times - 1).min(16)).min(LONGEST_PAUSE);
        let own = after(now, pause);
        let until = not_before.map_or(own, |not_before| own.max(not_before));
        Self { hosts: hosts.clone(), times, until, why: why.to_owned() }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Nothing,
    /// It is not ours to do.
    Refuse(&'static str),
    Wait(Duration),
    Order,
}

/// `now` and so long.
fn after(now: Timestamp, wait: Duration) -> Timestamp {
    now.saturating_add(SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX))
        .unwrap_or(Timestamp::MAX)
}

/// From `now` until `moment`, and never nothing.
pub(super) fn until(moment: Timestamp, now: Timestamp) -> Duration {
    let wait = moment.duration_since(now);
    Duration::try_from(wait).unwrap_or_default().max(Duration::from_secs(1))
}

/// What is to be done for these hosts.
pub(super) fn plan(
    hosts: &BTreeSet<String>,
    held: Option<&Held>,
    failed: Option<&Failed>,
    directory: &str,
    now: Timestamp,
) -> Step {
    if hosts.is_empty() {
        return Step::Nothing;
    }
    if held.is_some_and(|held| !held.is_ours) {
        return Step::Refuse("the TLS Secret is not from ACME (no label berth.dev/acme): it stays");
    }
    let good = held.filter(|held| held.directory == directory);
    let good = good.and_then(|held| held.certificate.as_ref());
    let good = good.filter(|certificate| certificate.hosts.is_superset(hosts));
    let renew = good.map(|certificate| {
        let lifetime = certificate.until.duration_since(certificate.from);
        certificate.until.saturating_sub(lifetime / 3).unwrap_or(now)
    });
    if let Some(renew) = renew.filter(|renew| *renew > now) {
        return Step::Wait(until(renew, now));
    }
    // Other hosts are another question: what failed for the old ones need not fail for these.
    match failed.filter(|failed| failed.hosts == *hosts && failed.until > now) {
        Some(failed) => Step::Wait(until(failed.until, now)),
        None => Step::Order,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "https://a.example/dir";
    const DAY: i64 = 86_400;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn hosts(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn held(names: &[&str], from: i64, until: i64) -> Held {
        let certificate = Certificate { hosts: hosts(names), from: at(from), until: at(until) };
        Held { is_ours: true, directory: HERE.into(), certificate: Some(certificate) }
    }

    #[test]
    fn a_certificate_is_ordered_when_it_lacks_hosts_or_time() {
        let check = |held: Option<&Held>, now: i64, expected: Step| {
            assert_eq!(plan(&hosts(&["a"]), held, None, HERE, at(now)), expected, "{held:?} {now}");
        };
        check(None, 0, Step::Order);
        let day = |days: i64| Duration::from_secs(u64::try_from(days * DAY).unwrap());
        let good = held(&["a", "b"], 0, 90 * DAY);
        check(Some(&good), 0, Step::Wait(day(60)));
        check(Some(&good), 59 * DAY, Step::Wait(day(1)));
        check(Some(&good), 60 * DAY, Step::Order);
        check(Some(&good), 100 * DAY, Step::Order);
        check(Some(&held(&["b"], 0, 90 * DAY)), 0, Step::Order);
        check(Some(&Held { directory: "https://b".into(), ..good.clone() }), 0, Step::Order);
        check(Some(&Held { certificate: None, ..good.clone() }), 0, Step::Order);
        let theirs = Held { is_ours: false, ..good };
        assert!(matches!(plan(&hosts(&["a"]), Some(&theirs), None, HERE, at(0)), Step::Refuse(_)));
        assert_eq!(plan(&hosts(&[]), None, None, HERE, at(0)), Step::Nothing);
    }

    #[test]
    fn what_failed_is_tried_ever_later_and_never_before_the_authority_says() {
        let first = Failed::after(None, &hosts(&["a"]), "no", None, at(0));
        assert_eq!(first.until, at(300));
        let wait = |failed: &Failed, names: &[&str], now| {
            plan(&hosts(names), None, Some(failed), HERE, at(now))
        };
        assert_eq!(wait(&first, &["a"], 100), Step::Wait(Duration::from_secs(200)));
        assert_eq!(wait(&first, &["a"], 300), Step::Order);
        assert_eq!(wait(&first, &["b"], 0), Step::Order, "other hosts");
        let again = Failed::after(Some(&first), &hosts(&["a"]), "no", None, at(300));
        assert_eq!((again.times, again.until), (2, at(900)));
        let said = Failed::after(Some(&again), &hosts(&["a"]), "no", Some(at(9000)), at(900));
        assert_eq!(said.until, at(9000));
        let mut last = said;
        for _ in 0..40 {
            last = Failed::after(Some(&last), &hosts(&["a"]), "no", None, at(0));
        }
        assert_eq!(last.until, at(DAY));
    }
}
