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
