//! Facts about picking from a set, with time and chance as they are.

use super::*;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::super::random;
use crate::l7::limits::{Limits, Threshold};
use crate::l7::weights::Pace;

fn address(last: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 42, 0, last), 80)
}

fn member(last: u8) -> Member {
    Member { address: address(last), weight: 1, local: false }
}

fn site(name: &str, lasts: &[u8]) -> (String, Vec<Member>) {
    (name.to_owned(), lasts.iter().map(|last| member(*last)).collect())
}

fn set(sites: Vec<(String, Vec<Member>)>, policy: Policy) -> Arc<BackendSet> {
    Sets::default().set(&Sets::default(), "n/web/80".into(), sites, policy)
}

/// How many of a thousand requests, one after the other, each endpoint gets.
fn spread(set: &Arc<BackendSet>, count: usize) -> Vec<usize> {
    let mut counts = vec![0; count];
    for _ in 0..1000 {
        let open = set.pick(&[], None, random()).unwrap();
        counts[usize::from(open.endpoint().address().ip().octets()[3]) - 1] += 1;
    }
    counts
}

fn at(set: &Arc<BackendSet>, last: u8) -> &Arc<Endpoint> {
    set.endpoints().find(|endpoint| endpoint.address() == address(last)).unwrap()
}

/// Fails `times` requests at the endpoint.
fn fail(set: &Arc<BackendSet>, last: u8, times: usize) {
    let all: Vec<_> =
        set.endpoints().map(|e| e.address()).filter(|a| *a != address(last)).collect();
    for _ in 0..times {
        set.pick(&all, None, random()).unwrap().answered(false, None);
    }
}

#[test]
fn requests_spread_evenly_when_all_are_idle() {
    for pick in [Pick::LeastRequest, Pick::RoundRobin, Pick::Weighted] {
        let set = set(vec![site("", &[1, 2, 3])], Policy { pick, ..Policy::default() });
        let counts = spread(&set, 3);
        assert!(counts.iter().all(|count| (250..420).contains(count)), "{counts:?}");
    }
}

#[test]
fn a_busy_endpoint_is_left_alone() {
    let set = set(vec![site("", &[1, 2])], Policy::default());
    let _open = set.pick(&[address(2)], None, random()).unwrap();
    assert_eq!(spread(&set, 2), [0, 1000]);
}

#[test]
fn tried_and_resting_endpoints_come_last() {
    let set = set(vec![site("", &[1, 2, 3])], Policy::default());
    set.pick(&[address(1), address(3)], None, random()).unwrap().refused();
    for _ in 0..100 {
        let picked =
            |tried: &[SocketAddrV4]| set.pick(tried, None, random()).unwrap().endpoint().address();
        assert_eq!(picked(&[address(1)]), address(3));
        assert_eq!(picked(&[address(1), address(3)]), address(2));
        picked(&[address(1), address(2), address(3)]);
    }
    let empty = super::BackendSet::new(Vec::new(), Arc::default(), None, 1);
    assert_eq!(Arc::new(empty).pick(&[], None, 7).unwrap_err(), Refused::NoEndpoint);
}

#[test]
fn failing_endpoints_are_ejected_down_to_the_floor_and_come_back() {
    let outlier =
        outlier::Settings { errors: 3, ejection: Duration::from_millis(50), ..Default::default() };
    let set = set(vec![site("", &[1, 2, 3, 4])], Policy { outlier, ..Policy::default() });
    for last in 1..=4 {
        fail(&set, last, 3);
    }
    let ejected = set.endpoints().filter(|e| e.counts.is_ejected(now_us())).count();
    assert_eq!(ejected, 2, "half is the floor");
    assert_eq!(&spread(&set, 4)[..2], [0, 0]);
    let started = std::time::Instant::now();
    while set.endpoints().any(|e| e.counts.is_ejected(now_us())) {
        assert!(started.elapsed() < Duration::from_secs(5));
        std::thread::yield_now();
    }
    assert!(spread(&set, 4).iter().all(|count| *count > 100));
}

#[test]
fn ill_endpoints_get_nothing_until_too_many_are_ill() {
    let set = set(vec![site("", &[1, 2, 3, 4])], Policy::default());
    at(&set, 1).checked(false);
    at(&set, 2).checked(false);
    set.sweep(now_us());
    assert_eq!(&spread(&set, 4)[..2], [0, 0]);
    at(&set, 3).checked(false);
    set.sweep(now_us());
    assert!(spread(&set, 4).iter().all(|count| *count > 100), "panic: all get some");
    at(&set, 1).checked(true);
    at(&set, 2).checked(true);
    at(&set, 3).checked(true);
    set.sweep(now_us());
    assert!(spread(&set, 4).iter().all(|count| *count > 100));
}

#[test]
fn a_success_rate_far_below_the_others_ejects() {
    let interval = Duration::from_millis(1);
    let outlier = outlier::Settings { deviations: Some(1.5), interval, ..Default::default() };
    let policy = Policy { outlier, pick: Pick::RoundRobin, ..Policy::default() };
    let set = set(vec![site("", &[1, 2, 3, 4])], policy);
    for _ in 0..400 {
        let open = set.pick(&[], None, random()).unwrap();
        let bad = open.endpoint().address() == address(3) && random().is_multiple_of(2);
        open.answered(!bad, None);
    }
    set.sweep(now_us() + 1_000_000);
    let ejected: Vec<_> = set.endpoints().filter(|e| e.counts.is_ejected(now_us())).collect();
    assert_eq!(ejected.iter().map(|e| e.address()).collect::<Vec<_>>(), [address(3)]);
}

#[test]
fn weights_and_slow_start_shift_the_share() {
    let mut members = site("", &[1, 2]);
    members.1[0].weight = 3;
    let policy = Policy { pick: Pick::Weighted, ..Policy::default() };
    assert_eq!(spread(&set(vec![members], policy), 2), [750, 250]);

    let policy = Policy {
        pick: Pick::RoundRobin,
        slow_start: Some(Duration::from_secs(3600)),
        ..Policy::default()
    };
    let (mut before, mut after) = (Sets::default(), Sets::default());
    let old = before.set(&Sets::default(), "k".into(), vec![site("", &[1, 2])], policy.clone());
    assert!(spread(&old, 2).iter().all(|count| *count == 500), "all at once is no slow start");
    let new = after.set(&before, "k".into(), vec![site("", &[1, 2, 3])], policy);
    let counts = spread(&new, 3);
    assert!((15..60).contains(&counts[2]), "a tenth of a third: {counts:?}");
    assert!(Arc::ptr_eq(at(&old, 1), at(&new, 1)), "what is known lives on");
}

#[test]
fn limits_hold_for_endpoints_and_routes() {
    let limits = Limits { open: 2, ..Limits::default() };
    let per_endpoint = set(vec![site("", &[1, 2, 3])], Policy { limits, ..Policy::default() });
    let open: Vec<_> = (0..6).map(|_| per_endpoint.pick(&[], None, random()).unwrap()).collect();
    assert!(per_endpoint.endpoints().all(|endpoint| endpoint.open() == 2));
    assert_eq!(per_endpoint.pick(&[], None, 1).unwrap_err(), Refused::TooManyOpen);
    drop(open);
    assert!(per_endpoint.pick(&[], None, 1).is_ok());
    assert!(per_endpoint.endpoints().all(|endpoint| endpoint.open() == 0));

    let limits = Limits { route_open: 2, ..Limits::default() };
    let route = set(vec![site("", &[1, 2, 3])], Policy { limits, ..Policy::default() });
    let open = [route.pick(&[], None, 1).unwrap(), route.pick(&[], None, 2).unwrap()];
    assert_eq!(route.pick(&[], None, 3).unwrap_err(), Refused::TooManyOpen);
    drop(open);
    assert!(route.pick(&[], None, 4).is_ok());

    for limits in
        [Limits { rate: 5, ..Limits::default() }, Limits { route_rate: 10, ..Limits::default() }]
    {
        let rated = set(vec![site("", &[1, 2])], Policy { limits, ..Policy::default() });
        let taken = (0..100).filter(|n| rated.pick(&[], None, *n).is_ok()).count();
        assert!((1..=3).contains(&taken), "{taken}");
        assert_eq!(rated.pick(&[], None, 1).unwrap_err(), Refused::TooManyASecond);
    }
}

#[test]
fn a_loaded_container_gets_fewer_requests() {
    let load = Threshold { header: "x-load".into(), value: 0.5, full: 1.0, floor: 1 };
    let limits = Limits { load: Some(load), ..Limits::default() };
    let policy = Policy { limits, pick: Pick::RoundRobin, ..Policy::default() };
    let set = set(vec![site("", &[1, 2])], policy);
    let open = set.pick(&[address(2)], None, random()).unwrap();
    assert_eq!(open.load_header(), Some("x-load"));
    open.answered(true, Some(b"5"));
    drop(open);
    let counts = spread(&set, 2);
    assert!(counts[0] <= 3, "its floor of one a second: {counts:?}");
}

#[test]
fn near_endpoints_get_everything_while_they_can() {
    let mut members = site("", &[1, 2, 3]);
    members.1[1].local = true;
    let set = set(vec![members], Policy { prefer_near: true, ..Policy::default() });
    assert_eq!(spread(&set, 3), [0, 1000, 0]);
    at(&set, 2).checked(false);
    assert_eq!(spread(&set, 3)[1], 0);
}

#[test]
fn the_same_key_stays_at_its_endpoint() {
    let on = HashOn::Cookie("session".into());
    let policy = Policy { pick: Pick::Hash { on, bound_percent: 125 }, ..Policy::default() };
    let set = set(vec![site("", &[1, 2, 3, 4])], policy);
    let key = |cookies: &'static str| {
        set.key(None, |name| (name == "cookie").then_some(cookies.as_bytes()))
    };
    let first = key("theme=dark; session=abc");
    assert_eq!(first, key("session=abc"));
    assert_ne!(first, key("session=abd"));
    assert_eq!(key("xsession=abc"), None);
    let home = set.pick(&[], first, random()).unwrap().endpoint().address();
    assert!((0..100).all(|n| set.pick(&[], first, n).unwrap().endpoint().address() == home));
    assert_ne!(set.pick(&[home], first, 1).unwrap().endpoint().address(), home);
}

#[test]
fn a_cluster_whose_endpoints_fail_gets_nothing() {
    let sites = [("north".to_owned(), 80), ("south".to_owned(), 20)].into_iter().collect();
    let policy = Policy { sites, ..Policy::default() };
    let made_of = || vec![site("north", &[1, 2]), site("south", &[3, 4])];
    let both = set(made_of(), policy);
    let north = |set: &Arc<BackendSet>| spread(set, 4)[..2].iter().sum::<usize>();
    assert!((740..860).contains(&north(&both)));
    for last in [1, 2] {
        at(&both, last).checked(false);
    }
    both.sweep(now_us());
    assert_eq!((both.weight(0), north(&both)), ((80, 0), 0));
    at(&both, 1).checked(true);
    at(&both, 2).checked(true);
    both.sweep(now_us());
    assert!((740..860).contains(&north(&both)));
    // Refused connections take the weight away too, and without waiting for a sweep.
    for last in [1, 2] {
        let others: Vec<_> = (1..=4).filter(|other| *other != last).map(address).collect();
        both.pick(&others, None, random()).unwrap().refused();
    }
    assert_eq!((both.weight(0), north(&both)), ((80, 0), 0));
}

#[test]
fn weights_of_clusters_move_at_their_pace() {
    let policy = |north, south, pace| Policy {
        sites: [("north".to_owned(), north), ("south".to_owned(), south)].into_iter().collect(),
        pace,
        ..Policy::default()
    };
    let made_of = || vec![site("north", &[1]), site("south", &[2])];
    let slow = Pace { step_percent: 10, every: Duration::from_secs(3600) };
    let (mut first, mut second, mut third) = (Sets::default(), Sets::default(), Sets::default());
    first.set(&Sets::default(), "k".into(), made_of(), policy(100, 0, slow));
    let moving = second.set(&first, "k".into(), made_of(), policy(0, 100, slow));
    assert_eq!((moving.weight(0).0, moving.weight(1).0), (90, 10));
    let at_once = third.set(&second, "k".into(), made_of(), policy(50, 50, Pace::default()));
    assert_eq!((at_once.weight(0).0, at_once.weight(1).0), (50, 50));
}
