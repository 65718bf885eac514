//! What a follower knows after any pages is what is so.

use super::*;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddrV4};

use crate::l7::pick::{Member, Policy, Sets, now_us, random};

fn address(number: u32, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from_bits(0x0a00_0000 + number), port)
}

fn set(key: &str, addresses: &[SocketAddrV4]) -> Arc<BackendSet> {
    let member = |address: &SocketAddrV4| Member { address: *address, weight: 1, local: false };
    let members = vec![(String::new(), addresses.iter().map(member).collect())];
    Sets::default().set(&Sets::default(), key.to_owned(), members, Policy::default())
}

/// Somebody who follows.
#[derive(Default)]
struct Follower {
    revision: String,
    known: HashMap<IpAddr, Finding>,
    pages: usize,
}

impl Follower {
    fn ask(&mut self, findings: &Findings) {
        self.pages = 0;
        while let Some(page) = findings.page(&self.revision) {
            self.pages += 1;
            assert!(self.pages < 100, "it does not come to an end");
            self.revision = page.revision;
            if page.whole {
                self.known.clear();
            }
            for one in page.addresses {
                match one.finding {
                    Some(finding) => self.known.insert(one.address, finding),
                    None => self.known.remove(&one.address),
                };
            }
            if !page.more {
                break;
            }
        }
    }

    fn of(&self, address: SocketAddrV4) -> Option<Finding> {
        self.known.get(&IpAddr::from(*address.ip())).copied()
    }
}

fn look(findings: &Findings, sets: &[Arc<BackendSet>]) {
    sets.iter().for_each(|set| findings.look_at(set, now_us()));
}

#[test]
fn an_address_is_as_the_best_of_its_ports_and_routes_is_found() {
    use Finding::{Ejected, Ill, Unchecked, Well};
    let (findings, mut follower) = (Findings::default(), Follower::default());
    let (http, admin) = (address(1, 8080), address(1, 9090));
    let sets = [set("http", &[http]), set("route", &[http]), set("admin", &[admin])];
    let endpoint = |index: usize| sets[index].endpoints().next().expect("it has one");
    findings.follow(&[], &sets, now_us());
    follower.ask(&findings);
    assert_eq!(follower.of(http), Some(Unchecked));

    let says = |follower: &mut Follower| {
        look(&findings, &sets);
        follower.ask(&findings);
        follower.of(http)
    };
    endpoint(0).ails("status 500".into());
    endpoint(0).checked(false);
    assert_eq!(says(&mut follower), Some(Ill), "who does not check says nothing");
    endpoint(2).checked(true);
    assert_eq!(says(&mut follower), Some(Well), "another port is well");
    endpoint(2).checked(false);
    assert_eq!(says(&mut follower), Some(Ill));
    endpoint(0).checked(true);
    endpoint(2).unchecked();
    assert_eq!(says(&mut follower), Some(Well));
    endpoint(0).unchecked();
    assert_eq!(says(&mut follower), Some(Unchecked));

    // Of two so many may be ejected that one is left.
    let others = [set("pair", &[address(2, 80), address(3, 80)]), set("alone", &[address(2, 81)])];
    findings.follow(&sets, &others[..1], now_us());
    let pair = &others[..1];
    for _ in 0..5 {
        pair[0].pick(&[address(3, 80)], None, random()).expect("one is left").refused();
    }
    look(&findings, pair);
    follower.ask(&findings);
    assert_eq!((follower.of(http), follower.of(address(2, 80))), (None, Some(Ejected)));
    findings.follow(pair, &others, now_us());
    follower.ask(&findings);
    assert_eq!(follower.of(address(2, 80)), Some(Unchecked), "another route still sends there");
}

#[test]
fn the_reason_is_told_with_its_port_and_without_what_cannot_be_shown() {
    let findings = Findings::default();
    let sets = [set("web", &[address(1, 8080)])];
    findings.follow(&[], &sets, now_us());
    let endpoint = sets[0].endpoints().next().expect("it has one");
    endpoint.ails(format!("bad\u{1b}[31m {}", "x".repeat(200)));
    endpoint.checked(false);
    look(&findings, &sets);
    let page = findings.page("").expect("the first page");
    let why = page.addresses[0].why.clone().expect("it is down");
    assert!(why.starts_with("port 8080: bad[31m xx") && why.len() == LONGEST_WHY, "{why}");
}

#[test]
fn a_change_costs_a_page_of_one_and_a_follower_of_another_process_hears_all() {
    let (findings, mut follower) = (Findings::default(), Follower::default());
    let addresses: Vec<_> = (1..=5000).map(|number| address(number, 80)).collect();
    let sets = [set("large", &addresses), set("small", &[address(9000, 80)])];
    findings.follow(&[], &sets, now_us());
    follower.ask(&findings);
    assert_eq!((follower.known.len(), follower.pages), (5001, 3));
    follower.ask(&findings);
    assert_eq!(follower.pages, 0, "nothing changed");

    let small = sets[1].endpoints().next().expect("it has one");
    small.checked(false);
    look(&findings, &sets);
    let page = findings.page(&follower.revision).expect("something changed");
    assert_eq!((page.whole, page.addresses.len()), (false, 1));
    // The same sets in another order, and one of them twice, are no change.
    findings.follow(&sets, &[sets[1].clone(), sets[0].clone(), sets[1].clone()], now_us());
    findings.follow(&[sets[1].clone(), sets[0].clone(), sets[1].clone()], &sets, now_us());
    follower.ask(&findings);
    assert_eq!((follower.known.len(), follower.pages), (5001, 1));

    let other = Findings::default();
    other.follow(&[], &sets[1..], now_us());
    for revision in [follower.revision.as_str(), "", "x", "1.2", "1.2.3.4", "0.0.0"] {
        let page = other.page(revision).expect("all of it");
        assert!(page.whole && page.addresses.len() == 1, "{revision}");
    }
}

#[test]
fn what_comes_and_goes_for_ever_is_forgotten_and_followers_are_right_all_the_same() {
    let findings = Findings::default();
    let lasting = set("lasting", &(1..=5000).map(|n| address(n, 80)).collect::<Vec<_>>());
    let mut sets = vec![lasting.clone()];
    findings.follow(&[], &sets, now_us());
    let (mut near, mut away, mut paging) =
        (Follower::default(), Follower::default(), Follower::default());
    near.ask(&findings);
    away.ask(&findings);
    let first = findings.page("").expect("a page");
    assert!(first.more);
    paging.revision = first.revision;
    paging.known.extend(first.addresses.iter().filter_map(|one| Some((one.address, one.finding?))));
    for round in 0..60u32 {
        let fleeting: Vec<_> = (0..200).map(|n| address(10_000 + round * 200 + n, 80)).collect();
        let now = vec![lasting.clone(), set(&format!("fleeting-{round}"), &fleeting)];
        findings.follow(&sets, &now, now_us());
        sets = now;
        near.ask(&findings);
        assert_eq!(near.known.len(), 5200);
    }
    let known = findings.known.lock().expect("no panic");
    assert!(known.gone <= MOST_GONE && known.told.len() <= 5200 + MOST_GONE, "{}", known.gone);
    assert!(known.forgotten > 5000 && known.told.len() == known.changes.len());
    drop(known);
    let wanted: HashSet<IpAddr> = near.known.keys().copied().collect();
    let mut new = Follower::default();
    for follower in [&mut away, &mut paging, &mut new] {
        follower.ask(&findings);
        assert_eq!(follower.known.keys().copied().collect::<HashSet<_>>(), wanted);
        assert!(follower.pages <= 6, "{}", follower.pages);
    }
}

#[tokio::test]
async fn who_waits_hears_of_a_change() {
    let findings = Findings::default();
    let sets = [set("web", &[address(1, 80)])];
    findings.follow(&[], &sets, now_us());
    let known = findings.page("").expect("the first page").revision;
    assert_eq!(findings.nothing(&known).revision, known);
    let endpoint = sets[0].endpoints().next().expect("it has one");
    let (page, ()) = tokio::join!(findings.next(&known), async {
        tokio::task::yield_now().await;
        endpoint.checked(false);
        look(&findings, &sets);
    });
    assert_eq!(page.addresses[0].finding, Some(Finding::Ill));
}
