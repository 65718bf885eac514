//! What waits, who is first, and what wakes whom.

use serde_json::json;

use super::*;

fn pod(name: &str, priority: i32, more: serde_json::Value) -> core::Pod {
    let mut spec = json!({ "priority": priority, "containers": [{ "name": "c",
        "resources": { "requests": { "cpu": "1" } } }] });
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    serde_json::from_value(json!({
        "metadata": { "namespace": "default", "name": name, "uid": name },
        "spec": spec,
    }))
    .unwrap()
}

fn empty() -> Board {
    let named = |name: &str| Profile { scheduler_name: name.into(), ..Profile::standard(0) };
    Board::new(vec![named("default-scheduler"), named("berth")])
}

fn see(board: &mut Board, pod: &core::Pod) -> bool {
    board.see_pod(&Key::of(&pod.metadata), Some(pod), None, Instant::now())
}

fn board_with_room_for(cores: i64) -> Board {
    let mut board = empty();
    let node = json!({ "metadata": { "name": "a" },
        "status": { "allocatable": { "cpu": cores.to_string(), "pods": "9" } } });
    let node = snapshot::node(&serde_json::from_value(node).unwrap());
    assert!(board.see_node("a", Some(node.clone()), Instant::now()));
    assert!(!board.see_node("a", Some(node), Instant::now()), "a heartbeat wakes no one");
    board
}

fn outcomes(board: &mut Board, now: Instant) -> Vec<(String, bool)> {
    let decisions = board.decide(now, 10);
    decisions
        .into_iter()
        .map(|each| (each.key.name, matches!(each.outcome, Outcome::Bind(_))))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn two_pods_never_get_the_same_room_and_the_more_important_goes_first() {
    let mut board = board_with_room_for(1);
    assert!(see(&mut board, &pod("low", 0, json!({}))));
    assert!(see(&mut board, &pod("high", 5, json!({}))));
    let now = Instant::now();
    assert_eq!(outcomes(&mut board, now), [("high".into(), true), ("low".into(), false)]);
    assert!(!see(&mut board, &pod("high", 5, json!({}))), "assumed until the watch shows it");
    assert_eq!(outcomes(&mut board, now), []);
    see(&mut board, &pod("high", 5, json!({ "nodeName": "a" })));
    assert_eq!(outcomes(&mut board, now + LAST_WAIT), [], "nothing changed that helps");
    board.see_pod(&Key::new("default", "high"), None, None, now);
    assert_eq!(outcomes(&mut board, now), [], "its wait is not over");
    assert_eq!(outcomes(&mut board, now + FIRST_WAIT), [("low".into(), true)]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_binding_gives_the_room_back() {
    let mut board = board_with_room_for(1);
    let one = pod("one", 0, json!({}));
    see(&mut board, &one);
    let now = Instant::now();
    assert_eq!(outcomes(&mut board, now), [("one".into(), true)]);
    board.give_back(&Key::new("default", "one"), Some(&one), None, now);
    assert_eq!(outcomes(&mut board, now + FIRST_WAIT), [("one".into(), true)]);
}

#[tokio::test(start_paused = true)]
async fn gated_foreign_and_ending_pods_are_left_alone() {
    let mut board = board_with_room_for(9);
    see(&mut board, &pod("gated", 0, json!({ "schedulingGates": [{ "name": "g" }] })));
    see(&mut board, &pod("foreign", 0, json!({ "schedulerName": "other" })));
    see(&mut board, &pod("ours", 0, json!({ "schedulerName": "berth" })));
    assert_eq!(outcomes(&mut board, Instant::now()), [("ours".into(), true)]);
    assert!(see(&mut board, &pod("gated", 0, json!({}))), "the gate opened");
    assert_eq!(outcomes(&mut board, Instant::now()), [("gated".into(), true)]);
}

fn room(name: &str, cpu: &str) -> Node {
    let node = json!({ "metadata": { "name": name },
        "status": { "allocatable": { "cpu": cpu, "pods": "9" } } });
    snapshot::node(&serde_json::from_value(node).unwrap())
}

#[tokio::test(start_paused = true)]
async fn only_a_change_that_can_help_wakes_a_pod() {
    let mut board = board_with_room_for(1);
    let selective = pod("p", 0, json!({ "nodeSelector": { "disk": "ssd" } }));
    see(&mut board, &selective);
    let now = Instant::now();
    assert_eq!(outcomes(&mut board, now), [("p".into(), false)]);
    let waiting = Pending { active: 0, backoff: 0, unschedulable: 1 };
    assert_eq!(board.pending(), waiting);
    assert!(!board.wake(Hint::PodGone, now), "room was not what it lacked");
    assert!(!board.wake(Hint::Volumes, now));
    assert!(board.see_node("b", Some(room("b", "1")), now));
    assert_eq!(board.pending(), Pending { active: 0, backoff: 1, unschedulable: 0 });
    assert_eq!(board.next_due(now), Some(now + FIRST_WAIT));
}

#[tokio::test(start_paused = true)]
async fn a_pod_comes_back_to_the_node_of_its_predecessor() {
    let wanting = |how: &str, more: serde_json::Value| {
        let mut pod = pod("db-0", 0, more);
        let annotations = [("scheduling.berth.dev/rebuild".to_owned(), how.to_owned())];
        pod.metadata.annotations = Some(annotations.into());
        pod
    };
    for (how, full) in [("preferred", "b"), ("required", "nowhere")] {
        let mut board = empty();
        let now = Instant::now();
        board.see_node("a", Some(room("a", "1")), now);
        board.see_node("b", Some(room("b", "64")), now);
        see(&mut board, &wanting(how, json!({ "nodeName": "a" })));
        board.see_pod(&Key::new("default", "db-0"), None, None, now);
        see(&mut board, &wanting(how, json!({})));
        let place = |board: &mut Board| match &board.decide(now, 9)[0].outcome {
            Outcome::Bind(placement) => placement.node.clone(),
            Outcome::Refuse { .. } => "nowhere".to_owned(),
        };
        assert_eq!(place(&mut board), "a", "{how}: though b is emptier");
        board.see_pod(&Key::new("default", "db-0"), None, None, now);
        see(&mut board, &pod("squatter", 0, json!({ "nodeName": "a" })));
        see(&mut board, &wanting(how, json!({})));
        assert_eq!(place(&mut board), full, "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn room_that_was_made_is_kept_for_whom_it_was_made() {
    let mut board = board_with_room_for(2);
    see(&mut board, &pod("low", 0, json!({ "nodeName": "a" })));
    see(&mut board, &pod("lower", -1, json!({ "nodeName": "a" })));
    let large =
        json!({ "containers": [{ "name": "c", "resources": { "requests": { "cpu": "2" } } }] });
    see(&mut board, &pod("high", 5, large));
    let now = Instant::now();
    let decisions = board.decide(now, 9);
    let Outcome::Refuse { preemption: Some(preemption), .. } = &decisions[0].outcome else {
        unreachable!("it must displace the others");
    };
    assert_eq!(preemption.victims.len(), 2);
    board.see_pod(&Key::new("default", "lower"), None, None, now);
    see(&mut board, &pod("middle", 1, json!({})));
    assert_eq!(outcomes(&mut board, now), [("middle".into(), false)], "the room is not its");
    assert!(board.see_pod(&Key::new("default", "low"), None, None, now));
    assert_eq!(outcomes(&mut board, now), [("high".into(), true)], "at once: all room is there");
}

fn of_line(name: &str, set: &str, how: &str, more: serde_json::Value) -> core::Pod {
    let mut pod = pod(name, 0, more);
    let hash = set.rsplit('-').next().unwrap();
    let meta = json!({
        "namespace": "default", "name": name, "uid": name,
        "labels": { "pod-template-hash": hash },
        "annotations": { "scheduling.berth.dev/rebuild": how },
        "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set,
            "uid": set, "controller": true }] });
    pod.metadata = serde_json::from_value(meta).unwrap();
    pod
}

#[tokio::test(start_paused = true)]
async fn a_deployments_new_pods_take_the_places_of_the_old() {
    for (how, last) in [("preferred", "c"), ("required", "nowhere")] {
        let mut board = empty();
        let now = Instant::now();
        for (name, cpu) in [("a", "1"), ("b", "1"), ("c", "64")] {
            board.see_node(name, Some(room(name, cpu)), now);
        }
        let (old, new) = ("web-55f8", "web-9c7d");
        for (name, node) in [("web-55f8-x", "a"), ("web-55f8-y", "b")] {
            see(&mut board, &of_line(name, old, how, json!({ "nodeName": node })));
        }
        let place = |board: &mut Board, name: &str, set: &str| {
            see(board, &of_line(name, set, how, json!({})));
            let decision = board.decide(now, 9).into_iter().find(|each| each.key.name == name);
            match decision.unwrap().outcome {
                Outcome::Bind(placement) => placement.node,
                Outcome::Refuse { .. } => "nowhere".to_owned(),
            }
        };
        // One more than there were: nobody has left.
        assert_eq!(place(&mut board, "web-9c7d-s", new), "c");
        board.see_pod(&Key::new("default", "web-55f8-y"), None, None, now);
        assert_eq!(place(&mut board, "web-9c7d-t", new), "b", "{how}: of another ReplicaSet");
        board.see_pod(&Key::new("default", "web-55f8-x"), None, None, now);
        assert_eq!(place(&mut board, "db-1f-u", "db-1f"), "c", "{how}: of another Deployment");
        see(&mut board, &pod("squatter", 0, json!({ "nodeName": "a" })));
        assert_eq!(place(&mut board, "web-9c7d-v", new), last, "{how}");
    }
}

fn member(name: &str, least: &str, timeout: &str) -> core::Pod {
    let mut own = pod(name, 0, json!({}));
    let annotations = [("gang", "train"), ("gang-min", least), ("gang-timeout", timeout)];
    let annotations =
        annotations.map(|(key, value)| (format!("scheduling.berth.dev/{key}"), value.to_owned()));
    own.metadata.annotations = Some(annotations.into());
    own
}

fn words(decision: &Decision) -> String {
    match &decision.outcome {
        Outcome::Bind(placement) => placement.node.clone(),
        Outcome::Refuse { why, .. } => why.to_string(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_gang_that_waits_says_so_and_makes_way_when_its_time_is_over() {
    let mut board = board_with_room_for(2);
    let begun = Instant::now();
    for name in ["a", "b", "c"] {
        see(&mut board, &member(name, "3", "1m30s"));
    }
    let first = board.decide(begun, 10);
    assert_eq!(first.len(), 3, "decided for as a whole");
    assert!(
        words(&first[0]).contains("2 of the 3 pods that the gang needs"),
        "{}",
        words(&first[0])
    );
    assert_eq!(outcomes(&mut board, begun + LAST_WAIT), [], "nothing changed that helps");
    // It held nothing meanwhile.
    see(&mut board, &pod("other", 0, json!({})));
    assert_eq!(outcomes(&mut board, begun + LAST_WAIT), [("other".into(), true)]);
    see(&mut board, &pod("other", 0, json!({ "nodeName": "a" })));
    // Any change may let the whole in, so it is tried again.
    assert_eq!(board.decide(begun + LAST_WAIT, 10).len(), 3);
    let over = begun + Duration::from_secs(90);
    assert_eq!(board.next_due(begun + LAST_WAIT), Some(over), "whatever happens until then");
    let last = board.decide(over, 10);
    assert_eq!(last.len(), 3);
    let said = words(&last[0]);
    assert!(said.contains("the gang train found no room within 90 s and makes way"), "{said}");
    // Room alone does not wake it any more; a node does, and so does one of its own.
    board.see_pod(&Key::new("default", "other"), None, None, over);
    assert_eq!(board.pending().unschedulable, 3);
    board.see_node("b", Some(room("b", "4")), over);
    let mut placed = outcomes(&mut board, over + LAST_WAIT);
    placed.sort();
    assert_eq!(placed, ["a", "b", "c"].map(|name| (name.to_owned(), true)));
}

#[tokio::test(start_paused = true)]
async fn a_gang_that_was_passed_over_is_completed_by_one_of_its_own() {
    let mut board = board_with_room_for(3);
    let begun = Instant::now();
    see(&mut board, &member("a", "3", "10"));
    see(&mut board, &member("b", "3", "10"));
    let over = begun + Duration::from_secs(10);
    assert!(words(&board.decide(begun, 10)[0]).contains("needs 3 pods at once, and 2 exist"));
    assert!(words(&board.decide(over, 10)[0]).contains("within 10 s"));
    see(&mut board, &member("c", "3", "10"));
    assert_eq!(outcomes(&mut board, over).iter().filter(|(_, bound)| *bound).count(), 3);
}

#[tokio::test(start_paused = true)]
async fn no_wait_is_measured_by_a_clock_that_can_jump() {
    let mut board = board_with_room_for(2);
    let begun = Instant::now();
    // Written while the clock was ahead, behind, and behind by more than any patience.
    for (name, created) in [("a", "2099-01-01T00:00:00Z"), ("b", "1970-01-01T00:00:00Z")] {
        let mut member = member(name, "3", "60");
        member.metadata.creation_timestamp = serde_json::from_value(json!(created)).unwrap();
        see(&mut board, &member);
    }
    let mut late = pod("late", 0, json!({}));
    late.metadata.creation_timestamp =
        serde_json::from_value(json!("2099-01-01T00:00:00Z")).unwrap();
    see(&mut board, &late);
    let decisions = board.decide(begun, 10);
    assert_eq!(decisions.len(), 3);
    for decision in decisions {
        match decision.key.name.as_str() {
            "late" => assert_eq!(words(&decision), "a", "it is not waited for its time to come"),
            _ => {
                assert!(words(&decision).contains("2 exist"), "not over yet: {}", words(&decision))
            }
        }
        assert_eq!(decision.waited, Duration::ZERO);
    }
    // Whoever looks with an older time than was seen before neither fails nor tries sooner.
    board.wake(Hint::Anything, begun);
    let earlier = begun.checked_sub(Duration::from_secs(5)).unwrap_or(begun);
    assert_eq!(outcomes(&mut board, earlier), []);
    assert_eq!(outcomes(&mut board, begun + FIRST_WAIT).len(), 2);
    assert!(words(&board.decide(begun + Duration::from_secs(60), 10)[0]).contains("within 60 s"));
}
