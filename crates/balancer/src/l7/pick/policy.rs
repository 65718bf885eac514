//! What annotations say of how endpoints are picked, checked and limited.
//!
//! Read from the Service and overridden by the route's (Ingress, HTTPRoute …), key by key. A value
//! that cannot be read is passed over and named: the others hold. The table is docs/BALANCER_L4.md.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use crate::l7::health::{Check, CheckKind};
use crate::l7::limits::{Limits, Threshold};
use crate::l7::outlier::Settings;
use crate::l7::weights::Pace;

/// What all our annotations begin with.
const PREFIX: &str = "berth.dev/";
/// How far above its fair share an endpoint may go under a hash, in percent of that share.
const BOUND_PERCENT: u32 = 125;

/// How an endpoint is chosen among those that may be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pick {
    /// Of two the one with fewer open requests times latency.
    #[default]
    LeastRequest,
    RoundRobin,
    /// A smooth round by weights.
    Weighted,
    /// The same key to the same endpoint, up to a bound; 0 for none.
    Hash {
        on: HashOn,
        bound_percent: u32,
    },
}

/// What a key is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HashOn {
    Client,
    /// By name in lower case.
    Header(String),
    Cookie(String),
}

/// Everything that annotations say of a set.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Policy {
    pub(crate) pick: Pick,
    /// By address, pod, node or zone; others have 1.
    pub(crate) weights: BTreeMap<String, u32>,
    pub(crate) prefer_near: bool,
    pub(crate) slow_start: Option<Duration>,
    pub(crate) outlier: Settings,
    pub(crate) check: Option<Check>,
    pub(crate) limits: Limits,
    /// Weights of clusters by name; none for all alike.
    pub(crate) sites: BTreeMap<String, u32>,
    pub(crate) pace: Pace,
}

type Annotations = BTreeMap<String, String>;

impl Policy {
    /// Reads the Service's annotations and the route's over them; and what could not be read.
    pub(crate) fn read(service: &Annotations, route: &Annotations) -> (Self, Vec<String>) {
        let mut policy = Self::default();
        let mut refused = Vec::new();
        let mut kind = String::new();
        let mut on = HashOn::Client;
        let mut bound = BOUND_PERCENT;
        let mut check = CheckWords::default();
        let mut load = Threshold { header: String::new(), value: 1.0, full: 0.0, floor: 1 };
        let keys: BTreeMap<&str, &str> = service
            .iter()
            .chain(route)
            .filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value.trim())))
            .collect();
        for (key, value) in keys {
            let (outlier, limits) = (&mut policy.outlier, &mut policy.limits);
            let read = match key {
                "pick" => pick_word(value).map(|word| kind = word),
                "hash-on" => hash_on(value).map(|to| on = to),
                "hash-bound-percent" => number(value).map(|to| bound = to),
                "weights" => list(value).map(|to| policy.weights = to),
                "locality" => switch(value, "prefer", "off").map(|to| policy.prefer_near = to),
                "slow-start" => duration(value).map(|to| policy.slow_start = Some(to)),
                "outlier-errors" => number(value).map(|to| outlier.errors = to),
                "outlier-connects" => number(value).map(|to| outlier.connects = to),
                "outlier-deviations" => number(value).map(|to| outlier.deviations = Some(to)),
                "outlier-interval" => duration(value).map(|to| outlier.interval = to),
                "outlier-ejection" => duration(value).map(|to| outlier.ejection = to),
                "outlier-most-percent" => percent(value).map(|to| outlier.most_percent = to),
                "panic-percent" => percent(value).map(|to| outlier.panic_percent = to),
                "health" => check_kind(value).map(|to| check.kind = Some(to)),
                "health-interval" => duration(value).map(|to| check.interval = to),
                "health-timeout" => duration(value).map(|to| check.timeout = to),
                "health-status" => statuses(value).map(|to| check.statuses = to),
                "health-body" => {
                    check.body = Some(value.to_owned());
                    Some(())
                }
                "health-port" => number(value).map(|to| check.port = Some(to)),
                "health-rise" => number(value).map(|to| check.rise = to),
                "health-fall" => number(value).map(|to| check.fall = to),
                "limit-open" => number(value).map(|to| limits.open = to),
                "limit-rate" => number(value).map(|to| limits.rate = to),
                "limit-route-open" => number(value).map(|to| limits.route_open = to),
                "limit-route-rate" => number(value).map(|to| limits.route_rate = to),
                "load-header" => {
                    load.header = value.to_ascii_lowercase();
                    Some(())
                }
                "load-threshold" => number(value).map(|to| load.value = to),
                "load-full" => number(value).map(|to| load.full = to),
                "load-floor" => number(value).map(|to| load.floor = to),
                "clusters" => list(value).map(|to| policy.sites = to),
                "clusters-pace" => pace(value).map(|to| policy.pace = to),
                // Other parts have annotations too.
                _ => continue,
            };
            if read.is_none() {
                refused.push(format!("annotation {PREFIX}{key} is not understood: {value:?}"));
            }
        }
        policy.pick = match kind.as_str() {
            "round-robin" => Pick::RoundRobin,
            "weighted" => Pick::Weighted,
            "hash" => Pick::Hash { on, bound_percent: bound },
            _ => Pick::LeastRequest,
        };
        policy.check = check.finish();
        if !load.header.is_empty() {
            if load.full <= load.value {
                load.full = load.value * 2.0;
            }
            policy.limits.load = Some(load);
        }
        (policy, refused)
    }

    /// Whether `annotations` say anything that makes a set of its own.
    pub(crate) fn is_in(annotations: &Annotations) -> bool {
        annotations.keys().any(|key| key.starts_with(PREFIX))
    }

    /// The weight of an endpoint that is known by these names.
    pub(crate) fn weight<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> u32 {
        names.find_map(|name| self.weights.get(name)).copied().unwrap_or(1)
    }
}

struct CheckWords {
    kind: Option<CheckKind>,
    interval: Duration,
    timeout: Duration,
    statuses: (u16, u16),
    body: Option<String>,
    port: Option<u16>,
    rise: u32,
    fall: u32,
}

impl Default for CheckWords {
    fn default() -> Self {
        Self {
            kind: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            statuses: (200, 399),
            body: None,
            port: None,
            rise: 2,
            fall: 3,
        }
    }
}

impl CheckWords {
    fn finish(self) -> Option<Check> {
        Some(Check {
            kind: self.kind?,
            interval: self.interval.max(Duration::from_millis(100)),
            timeout: self.timeout.max(Duration::from_millis(10)),
            statuses: self.statuses,
            body: self.body,
            port: self.port,
            rise: self.rise.max(1),
            fall: self.fall.max(1),
        })
    }
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn percent(text: &str) -> Option<u32> {
    number(text.trim_end_matches('%')).filter(|percent| *percent <= 100)
}

fn switch(text: &str, on: &str, off: &str) -> Option<bool> {
    (text == on || text == off).then_some(text == on)
}

/// `500ms`, `10s`, `2m`, `1h`.
fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (count, unit) = text.split_at(split);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number::<u64>(count)?.checked_mul(unit_ms).map(Duration::from_millis)
}

fn pick_word(text: &str) -> Option<String> {
    let known = ["least-request", "round-robin", "weighted", "hash"];
    known.contains(&text).then(|| text.to_owned())
}

/// `client-address`, `header:NAME`, `cookie:NAME`.
fn hash_on(text: &str) -> Option<HashOn> {
    match text.split_once(':') {
        None => (text == "client-address").then_some(HashOn::Client),
        Some(("header", name)) if !name.is_empty() => {
            Some(HashOn::Header(name.to_ascii_lowercase()))
        }
        Some(("cookie", name)) if !name.is_empty() => Some(HashOn::Cookie(name.to_owned())),
        Some(_) => None,
    }
}

/// `a=3,b=1`.
fn list(text: &str) -> Option<BTreeMap<String, u32>> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, weight) = pair.split_once('=')?;
            let weight = number(weight.trim()).filter(|weight| *weight <= 1_000_000)?;
            Some((name.trim().to_owned(), weight))
        })
        .collect()
}

/// `tcp`, `http:/path`, `grpc`, `grpc:service`.
fn check_kind(text: &str) -> Option<CheckKind> {
    match text.split_once(':').unwrap_or((text, "")) {
        ("tcp", "") => Some(CheckKind::Tcp),
        ("http", path) if path.is_empty() || path.starts_with('/') => {
            Some(CheckKind::Http(if path.is_empty() { "/" } else { path }.to_owned()))
        }
        ("grpc", service) => Some(CheckKind::Grpc(service.to_owned())),
        _ => None,
    }
}

/// `200` or `200-399`.
fn statuses(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to) = (number(from)?, number(to)?);
    (100 <= from && from <= to && to <= 599).then_some((from, to))
}

/// `10%/30s`: so much of the way each 30 s; or `at-once`.
fn pace(text: &str) -> Option<Pace> {
    if text == "at-once" {
        return Some(Pace::default());
    }
    let (step, every) = text.split_once('/')?;
    Some(Pace { step_percent: percent(step).filter(|step| *step > 0)?, every: duration(every)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(words: &[(&str, &str)]) -> Annotations {
        words.iter().map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned())).collect()
    }

    #[test]
    fn routes_override_their_service_key_by_key() {
        let service = annotations(&[
            ("pick", "hash"),
            ("hash-on", "cookie:session"),
            ("limit-rate", "100"),
            ("slow-start", "30s"),
            ("clusters", "north=80, south=20"),
            ("clusters-pace", "10%/30s"),
            ("listen", "tcp/3306"),
        ]);
        let route = annotations(&[("hash-on", "header:X-User"), ("limit-open", "7")]);
        let (policy, refused) = Policy::read(&service, &route);
        assert_eq!(refused, [] as [String; 0]);
        let on = HashOn::Header("x-user".into());
        assert_eq!(policy.pick, Pick::Hash { on, bound_percent: 125 });
        assert_eq!((policy.limits.rate, policy.limits.open), (100, 7));
        assert_eq!(policy.slow_start, Some(Duration::from_secs(30)));
        assert_eq!(policy.sites["north"], 80);
        assert_eq!(policy.pace.step_percent, 10);
        assert!(policy.check.is_none() && policy.limits.load.is_none());
        assert_eq!(Policy::read(&Annotations::new(), &Annotations::new()).0, Policy::default());
    }

    #[test]
    fn checks_and_loads_are_read_whole() {
        let (policy, refused) = Policy::read(
            &annotations(&[
                ("health", "http:/healthz"),
                ("health-status", "200-204"),
                ("health-body", "ok"),
                ("health-interval", "1ms"),
                ("load-header", "X-Load"),
                ("load-threshold", "0.8"),
                ("load-floor", "5"),
            ]),
            &Annotations::new(),
        );
        assert_eq!(refused, [] as [String; 0]);
        let check = policy.check.unwrap();
        assert_eq!(check.kind, CheckKind::Http("/healthz".into()));
        assert_eq!((check.statuses, check.body.as_deref()), ((200, 204), Some("ok")));
        assert_eq!(check.interval, Duration::from_millis(100));
        let load = policy.limits.load.unwrap();
        assert_eq!(
            (load.header.as_str(), load.value, load.full, load.floor),
            ("x-load", 0.8, 1.6, 5)
        );
    }

    #[test]
    fn what_cannot_be_read_is_named_and_the_rest_holds() {
        for (key, value) in [
            ("pick", "best"),
            ("hash-on", "header:"),
            ("weights", "a"),
            ("weights", "a=-1"),
            ("slow-start", "10"),
            ("slow-start", "10 parsecs"),
            ("outlier-most-percent", "101"),
            ("health", "smtp"),
            ("health", "http:healthz"),
            ("health-status", "600"),
            ("clusters-pace", "0%/1s"),
            ("limit-rate", "many"),
            ("locality", "maybe"),
        ] {
            let all = annotations(&[(key, value), ("limit-open", "3")]);
            let (policy, refused) = Policy::read(&all, &Annotations::new());
            assert_eq!(refused.len(), 1, "{key}: {value}");
            assert!(refused[0].contains(key) && refused[0].contains(value), "{}", refused[0]);
            let limits = Limits { open: 3, ..Limits::default() };
            assert_eq!(policy, Policy { limits, ..Policy::default() });
        }
    }

    #[test]
    fn a_weight_goes_by_the_closest_name() {
        let (policy, _) =
            Policy::read(&annotations(&[("weights", "10.0.0.1=5,rack-2=3")]), &Annotations::new());
        let weight = |names: &[&str]| policy.weight(names.iter().copied());
        assert_eq!(weight(&["10.0.0.1", "rack-2"]), 5);
        assert_eq!(weight(&["10.0.0.2", "rack-2"]), 3);
        assert_eq!(weight(&["10.0.0.2"]), 1);
    }
}
