//! A shadow fed by hand: what it decides, counts, keeps and forgets.

#![allow(clippy::unwrap_used)] // a test's helpers fail like the test

use std::time::Duration;

use berth_scheduler::Profile;
use berth_scheduler::profile::Strategy;
use berth_sim::recording::{RecordedNode, RecordedPod};
use berth_sim::shadow::{Saved, Shadow, Sighting, Standing};
use berth_sim::{Candidate, PolicyKind};
use jiff::Timestamp;

/// The shadow begins at second 1000.
fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn node(name: &str, cores: u32) -> RecordedNode {
    RecordedNode {
        name: name.to_owned(),
        cpu_milli: cores * 1000,
        memory_mib: 65_536,
        pods: 110,
        labels: [("disk".to_owned(), name.to_owned())].into(),
        ..RecordedNode::default()
    }
}

fn pod(name: &str, cores: u32, node: Option<&str>) -> Sighting {
    let pod = RecordedPod {
        name: format!("default/{name}"),
        cpu_milli: cores * 1000,
        memory_mib: 128,
        node: node.map(str::to_owned),
        ..RecordedPod::default()
    };
    Sighting { pod, created_s: 1001, ..Sighting::default() }
}

fn packed() -> Candidate {
    let profile = Profile { strategy: Strategy::MostAllocated, ..Profile::default() };
    Candidate::Profiles { name: "packed".to_owned(), profiles: vec![profile] }
}

fn both() -> Vec<Candidate> {
    vec![packed(), Candidate::Packer(PolicyKind::BestFit)]
}

fn start(candidates: Vec<Candidate>, nodes: &[RecordedNode]) -> Shadow {
    let mut shadow = Shadow::new("cluster", candidates, 1, at(1000));
    nodes.iter().for_each(|node| shadow.see_node(node.clone()));
    shadow.seen_all();
    shadow.settle(at(1000));
    shadow
}

fn see(shadow: &mut Shadow, uid: &str, sighting: Sighting, second: i64) {
    shadow.see_pod(uid, sighting, at(second));
    while shadow.is_unsettled() {
        shadow.settle(at(second));
    }
}

fn standings(shadow: &Shadow) -> Vec<Standing> {
    shadow.report(at(1100)).policies
}

#[test]
fn each_policy_goes_its_own_way_and_is_compared_with_the_live_one() {
    let nodes = [node("a", 8), node("b", 8)];
    let mut shadow = start(both(), &nodes);
    for (number, live) in ["a", "b", "a", "b"].into_iter().enumerate() {
        let name = format!("p{number}");
        see(&mut shadow, &name, pod(&name, 1, None), 1001);
        see(&mut shadow, &name, pod(&name, 1, Some(live)), 1003);
    }
    let report = shadow.report(at(1100));
    assert_eq!((report.live.decided, report.live.empty_nodes), (4, 0));
    assert_eq!(report.live.took.mean_us(), Some(2e6));
    assert_eq!(report.watched_s, 100);
    for each in &report.policies {
        // All on one node, of which the live scheduler chose half.
        assert_eq!((each.decided, each.same, each.other), (4, 2, 2), "{}", each.policy);
        assert_eq!((each.empty_nodes, each.waiting), (1, 0), "{}", each.policy);
        assert_eq!(each.cpu_percent, 25.0);
        assert_eq!(each.took.count, 4);
    }
    assert!(report.table().contains("2 of 4"), "{}", report.table());
    assert!(report.line().contains("packed: 4 decided, 2 of 4 on the same node"));
}

#[test]
fn older_pods_and_those_of_a_node_stay_where_they_live() {
    let mut shadow = start(both(), &[node("a", 4), node("b", 4)]);
    let older = Sighting { created_s: 900, ..pod("older", 1, Some("b")) };
    see(&mut shadow, "older", older, 1001);
    let daemon = |node| Sighting { pinned: true, ..pod("daemon", 1, node) };
    see(&mut shadow, "daemon", daemon(None), 1001);
    see(&mut shadow, "daemon", daemon(Some("a")), 1002);
    // Made while the shadow looks, seen too late: it is decided all the same.
    see(&mut shadow, "late", pod("late", 2, Some("a")), 1003);
    for each in standings(&shadow) {
        assert_eq!((each.decided, each.same + each.other), (1, 1), "{}", each.policy);
        assert_eq!(each.cpu_percent, 50.0, "{}", each.policy);
    }
    let live = shadow.report(at(1100)).live;
    assert_eq!((live.decided, live.took.count), (1, 0));
}

#[test]
fn who_finds_no_place_waits_and_gets_what_becomes_free() {
    let mut shadow = start(both(), &[node("a", 4), node("b", 4)]);
    see(&mut shadow, "wide", pod("wide", 3, None), 1001);
    see(&mut shadow, "next", pod("next", 3, None), 1002);
    see(&mut shadow, "more", pod("more", 2, None), 1003);
    let refused = Sighting { refused: true, ..pod("more", 2, None) };
    see(&mut shadow, "more", refused, 1004);
    let report = shadow.report(at(1100));
    assert_eq!((report.live.refused, report.live.waiting), (1, 1));
    for each in &report.policies {
        assert_eq!((each.refused, each.waiting), (1, 1), "{}", each.policy);
        let first = each.first_failure.clone().unwrap();
        assert_eq!((first.pod.as_str(), first.at), ("default/more", at(1003)));
    }
    shadow.lose_pod("wide");
    assert!(shadow.is_unsettled());
    shadow.settle(at(1005));
    for each in standings(&shadow) {
        assert_eq!((each.decided, each.waiting, each.refused), (3, 0, 1), "{}", each.policy);
    }
    // A node goes and takes its pods with it; a larger one comes.
    shadow.lose_node("a");
    shadow.settle(at(1006));
    assert!(standings(&shadow).iter().all(|each| (each.displaced, each.waiting) == (1, 1)));
    shadow.see_node(node("c", 16));
    shadow.settle(at(1007));
    assert!(standings(&shadow).iter().all(|each| (each.displaced, each.waiting) == (1, 0)));
}

#[test]
fn a_cordoned_node_keeps_its_pods_and_gets_none() {
    let mut shadow = start(both(), &[node("a", 8)]);
    see(&mut shadow, "one", pod("one", 1, None), 1001);
    shadow.see_node(RecordedNode { unschedulable: true, ..node("a", 8) });
    see(&mut shadow, "two", pod("two", 1, None), 1002);
    for each in standings(&shadow) {
        assert_eq!((each.displaced, each.waiting, each.decided), (0, 1, 1), "{}", each.policy);
        assert_eq!(each.cpu_percent, 12.5, "{}", each.policy);
    }
    shadow.see_node(node("a", 8));
    shadow.settle(at(1003));
    assert!(standings(&shadow).iter().all(|each| (each.waiting, each.cpu_percent) == (0, 25.0)));
}

#[test]
fn a_label_that_nobody_asked_for_before_is_looked_at_when_somebody_does() {
    let nodes: Vec<RecordedNode> = ["a", "b", "c"].map(|name| node(name, 8)).into();
    let mut shadow = start(both(), &nodes);
    see(&mut shadow, "first", pod("first", 1, None), 1001);
    let mut picky = pod("picky", 1, None);
    picky.pod.node_selector = [("disk".to_owned(), "c".to_owned())].into();
    picky.pod.spec = None;
    see(&mut shadow, "picky", picky.clone(), 1002);
    picky.pod.node = Some("c".to_owned());
    see(&mut shadow, "picky", picky, 1003);
    assert!(standings(&shadow).iter().all(|each| (each.same, each.decided) == (1, 2)));
}

#[test]
fn a_policy_that_cannot_judge_says_so_until_it_can() {
    let mut gpu = node("a", 8);
    gpu.gpus = 2;
    let mut shadow = start(both(), &[gpu]);
    let mut share = pod("share", 1, None);
    (share.pod.gpus, share.pod.gpu_milli) = (1, 500);
    shadow.see_pod("share", share, at(1001));
    (0..3).for_each(|_| shadow.settle(at(1001)));
    let [packed, bestfit] = standings(&shadow).try_into().unwrap();
    assert!(packed.fault.unwrap().contains("profiles know whole ones"));
    assert_eq!((bestfit.fault, bestfit.gpu_percent), (None, Some(25.0)));
    let shown = shadow.report(at(1100)).table();
    assert!(shown.contains("packed cannot judge this cluster"), "{shown}");
    shadow.lose_pod("share");
    see(&mut shadow, "whole", pod("whole", 1, None), 1002);
    let [packed, _] = standings(&shadow).try_into().unwrap();
    assert_eq!((packed.fault, packed.decided), (None, 1));
}

#[test]
fn a_more_important_pod_takes_the_place_of_others() {
    let mut shadow = start(vec![packed()], &[node("a", 4)]);
    see(&mut shadow, "low", pod("low", 4, None), 1001);
    let mut high = pod("high", 4, None);
    high.pod.priority = 1000;
    see(&mut shadow, "high", high, 1002);
    let [packed] = standings(&shadow).try_into().unwrap();
    assert_eq!((packed.displaced, packed.waiting, packed.decided), (1, 1, 2));
    assert_eq!((packed.cpu_percent, packed.refused), (100.0, 0));
}

#[test]
fn a_restart_goes_on_where_it_was_and_decides_what_came_meanwhile() {
    let nodes = [node("a", 8), node("b", 8)];
    let mut shadow = start(both(), &nodes);
    see(&mut shadow, "old", Sighting { created_s: 900, ..pod("old", 2, Some("a")) }, 1001);
    see(&mut shadow, "one", pod("one", 1, None), 1001);
    see(&mut shadow, "one", pod("one", 1, Some("b")), 1002);
    see(&mut shadow, "two", pod("two", 1, None), 1003);
    see(&mut shadow, "gone", pod("gone", 1, Some("b")), 1004);
    see(&mut shadow, "large", Sighting { refused: true, ..pod("large", 20, None) }, 1004);
    let before = shadow.report(at(1100));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shadow.json");
    assert!(Saved::read(&file).unwrap().is_none());
    shadow.saved(at(1100)).write(&file).unwrap();
    let saved = Saved::read(&file).unwrap().unwrap();
    assert_eq!((saved.cluster.as_str(), &saved.report), ("cluster", &before));
    assert_eq!(saved.candidate("packed"), Some(&packed()));

    // Ten minutes later, with a third policy; `gone` went, `two` was bound, `new` came.
    let mut all = both();
    all.push(Candidate::Packer(PolicyKind::Kube));
    let mut shadow = Shadow::new("cluster", all, 1, at(1700));
    shadow.restore(saved);
    nodes.iter().for_each(|node| shadow.see_node(node.clone()));
    shadow.see_pod("old", Sighting { created_s: 900, ..pod("old", 2, Some("a")) }, at(1700));
    shadow.see_pod("one", pod("one", 1, Some("b")), at(1700));
    shadow.see_pod("two", pod("two", 1, Some("a")), at(1700));
    shadow.see_pod("new", Sighting { created_s: 1600, ..pod("new", 1, Some("b")) }, at(1700));
    shadow.see_pod("large", Sighting { refused: true, ..pod("large", 20, None) }, at(1700));
    shadow.seen_all();
    while shadow.is_unsettled() {
        shadow.settle(at(1700));
    }
    let report = shadow.report(at(1700) + Duration::from_secs(5));
    assert_eq!((report.since, report.watched_s), (at(1000), 105));
    // Nothing is counted twice: `two` and `new` were bound meanwhile.
    assert_eq!((report.live.decided, report.live.refused), (before.live.decided + 2, 1));
    for (each, before) in report.policies.iter().zip(&before.policies) {
        assert_eq!(each.policy, before.policy);
        assert_eq!(each.decided, before.decided + 1, "{}", each.policy);
        assert_eq!(each.same + each.other, before.same + before.other + 2, "{}", each.policy);
        assert_eq!((each.refused, each.waiting), (1, 1), "{}", each.policy);
        // Two cores of `old`, one each of `one`, `two`, `new`; `gone` is gone.
        assert_eq!(each.cpu_percent, 5.0 * 100.0 / 16.0, "{}", each.policy);
    }
    let kube = &report.policies[2];
    assert_eq!(
        kube.decided, 2,
        "it decides `two` and `new`, which nobody had counted, and no more"
    );
    assert_eq!(kube.cpu_percent, 5.0 * 100.0 / 16.0);
}

#[test]
fn a_bad_state_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shadow.json");
    let said = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let error = Saved::read(&file).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    };
    assert!(said("").contains("EOF while parsing a value at line 1 column 0"));
    assert!(said("{\"version\":2}").contains("the state's version is 2, 1 is known"));
    assert!(said("{\"version\":1,\"more\":1}").contains("unknown field `more`"));
    let shadow = start(both(), &[node("a", 8)]);
    shadow.saved(at(1001)).write(&file).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(said(&text[..text.len() - 1]).contains("EOF while parsing"));
}
