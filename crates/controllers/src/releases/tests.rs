//! Plans as tables, and whole releases in a world of numbers.

mod overshoot;
mod world;

use berth_api::answers::Count;
use berth_api::app::StrategyType;
use berth_api::release::Phase;
use serde_json::{Value, json};

use super::freeze::{Rule, frozen};
use super::judge::{number, take_in};
use super::plan::{Main, Plan, Room};
use super::transfer::{Bounds, Side, transfer};
use world::{Model, release};

#[test]
fn a_canary_goes_up_step_by_step_and_ends_as_one_workload() {
    let strategy = json!({ "type": "canary", "reserve": false,
        "steps": [{ "weight": 25 }, { "weight": 50, "pauseSeconds": 30 }] });
    let mut model = Model::new(4, strategy);
    model.run(60);
    assert_eq!((model.main.side.asked, model.candidate.asked), (3, 1));
    let status = model.status();
    assert_eq!((status.phase, status.at.as_str()), (Phase::Paused, "canary 25% (1/1)"));
    assert_eq!(status.message, "waits to be promoted");
    model.release.spec.promoted = 1;
    model.run(10);
    assert_eq!((model.main.side.asked, model.candidate.asked), (2, 2));
    assert_eq!(model.status().phase, Phase::Progressing, "the second step ends by itself");
    model.run(120);
    assert_eq!(model.status().phase, Phase::Succeeded);
    assert_eq!((model.main.release.as_deref(), model.main.side.asked), (Some("web-2"), 4));
    assert!(!model.has_candidate);
    assert_eq!(model.most, 5, "replicas and a surge of one");
}

#[test]
fn a_canary_that_is_aborted_loses_its_requests_at_once_and_then_its_pods() {
    let strategy = json!({ "type": "canary", "reserve": false, "steps": [{ "weight": 50 }] });
    let mut model = Model::new(4, strategy);
    model.run(60);
    assert_eq!(model.candidate.asked, 2);
    model.release.spec.abort = true;
    let plan = model.look();
    assert_eq!(plan.traffic.only.as_deref(), Some("1"), "half of the old can carry all");
    model.run(60);
    assert_eq!(model.status().phase, Phase::Aborted);
    assert_eq!((model.main.side.asked, model.has_candidate), (4, false));
    assert_eq!(model.main.release.as_deref(), Some("web-1"));
}

#[test]
fn what_comes_through_the_balancer_follows_the_weight_and_the_header() {
    let strategy = json!({ "type": "canary", "reserve": false, "steps": [{ "weight": 10 }],
        "header": { "name": "x-try", "value": "new" } });
    let mut model = Model::new(4, strategy);
    model.run(60);
    assert_eq!((model.main.side.asked, model.candidate.asked), (3, 1), "instances are whole");
    model.pods[3].release = Some("2".into());
    let traffic = model.look().traffic;
    let weights: Vec<u32> = traffic.weights.values().copied().collect();
    assert_eq!(weights, [90, 90, 90, 30], "one of four gets a tenth");
    assert_eq!(traffic.preview.as_deref(), Some("2"), "who has the header gets the new");
    assert_eq!(traffic.header.map(|header| header.name).as_deref(), Some("x-try"));
    model.release.spec.abort = true;
    let traffic = model.look().traffic;
    assert!(traffic.weights.is_empty() && traffic.header.is_none() && traffic.preview.is_none());
}

#[test]
fn addresses_are_held_before_anything_goes_and_two_go_at_a_time() {
    let mut model = Model::new(4, json!({ "type": "keepAddress" }));
    let plan = model.step();
    assert_eq!(plan.touch.len(), 4, "all are told to keep their addresses");
    assert_eq!(plan.main.and_then(|target| target.release).as_deref(), Some("web-1"));
    let mut in_turn = None;
    for _ in 0..60 {
        let plan = model.step();
        if let Some(target) = plan.main.filter(|target| target.release.as_deref() == Some("web-2"))
        {
            in_turn = in_turn.or(target.in_turn);
        }
    }
    assert_eq!(model.status().phase, Phase::Succeeded);
    assert_eq!(in_turn, Some(2));
    assert_eq!(model.most, 4, "nobody comes in addition");
    let mut model = Model::new(4, json!({ "type": "keepAddress", "maxUnavailable": "25%" }));
    model.run(5);
    model.release.spec.abort = true;
    let back = model.look().main.expect("a target");
    assert_eq!((back.release.as_deref(), back.in_turn), (Some("web-1"), Some(1)));
}

#[test]
fn where_addresses_are_anothers_keeping_them_is_refused_with_the_reason() {
    let mut model = Model::new(4, json!({ "type": "keepAddress" }));
    model.loses_addresses = Some("node one gives out addresses by another network".into());
    let plan = model.look();
    assert_eq!(plan.status.phase, Phase::Aborted);
    assert!(plan.status.message.contains("node one gives out addresses"), "{plan:?}");
    assert!(plan.touch.is_empty(), "nothing was touched");
    let mut model = Model::new(4, json!({ "type": "rolling" }));
    model.loses_addresses = Some("node one".into());
    assert_eq!(model.look().status.phase, Phase::Progressing, "nobody else is held up");
}

#[test]
fn blue_green_stands_beside_switches_at_once_and_back_at_once() {
    let strategy = json!({ "type": "blueGreen", "reserve": false, "keepSeconds": 30 });
    for stateful in [false, true] {
        let mut model = Model::new(3, strategy.clone());
        model.stateful = stateful;
        model.run(60);
        let plan = model.look();
        let led = |plan: &Plan| (plan.traffic.only.clone(), plan.traffic.preview.clone());
        assert_eq!(led(&plan), (Some("1".to_owned()), Some("2".to_owned())));
        assert_eq!((model.main.side.asked, model.candidate.available), (3, 3));
        model.release.spec.promoted = 1;
        let plan = model.look();
        assert_eq!(led(&plan), (Some("2".to_owned()), None));
        model.run(5);
        assert_eq!(model.main.side.asked, 3, "what ran before is kept");
        model.release.spec.abort = true;
        let plan = model.look();
        assert_eq!(plan.traffic.only.as_deref(), Some("1"), "back at once");
        assert_eq!(plan.candidate, Some(3), "they stay until nobody is led there");
        model.run(5);
        assert_eq!(model.candidate.asked, 0);
        model.run(60);
        assert_eq!(model.status().phase, Phase::Aborted);
        assert_eq!((model.main.side.asked, model.has_candidate, model.most), (3, false, 6));
    }
}

#[test]
fn blue_green_ends_within_replicas_and_surge() {
    let strategy = json!({ "type": "blueGreen", "reserve": false, "autoPromote": true,
        "keepSeconds": 5 });
    for stateful in [false, true] {
        let mut model = Model::new(3, strategy.clone());
        model.stateful = stateful;
        model.release.spec.rollback_to = Some(1);
        let led = |plan: &Plan| plan.traffic.only.as_deref() == Some("2");
        let switched = (0..60).any(|_| led(&model.step()));
        assert!(switched, "{:?}", model.status());
        assert_eq!(model.main.side.asked, 3, "what they were led away from stays a moment");
        model.run(200);
        assert_eq!(model.status().phase, Phase::Succeeded);
        assert_eq!((model.main.side.asked, model.has_candidate, model.most), (3, false, 6));
    }
}

#[test]
fn blue_green_with_disks_ends_before_its_first_step_and_says_why() {
    let model = || {
        let mut model = Model::new(3, json!({ "type": "blueGreen", "reserve": false }));
        (model.stateful, model.disks) = (true, true);
        model
    };
    let mut refused = model();
    let plan = refused.look();
    assert_eq!(plan.status.phase, Phase::Aborted);
    assert!(plan.status.message.contains("disks of its own"), "{plan:?}");
    assert!(plan.status.message.contains("choose rolling, canary or inPlace"), "{plan:?}");
    assert_eq!(plan.main.and_then(|main| main.release).as_deref(), Some("web-1"));
    let mut first = model();
    first.main = Main::default();
    assert_eq!(first.look().status.phase, Phase::Progressing, "nothing is there to stand beside");
    let mut back = model();
    back.release.spec.rollback_to = Some(1);
    let plan = back.look();
    assert_eq!((plan.status.phase, plan.candidate), (Phase::Progressing, None));
    assert_eq!(plan.status.notes, ["there are disks, so it goes back by rolling"]);
}

#[test]
fn rolling_hands_the_template_over_and_waits() {
    let mut model = Model::new(3, json!({ "reserve": false }));
    let plan = model.look();
    let target = plan.main.unwrap();
    assert_eq!(
        (target.release.as_deref(), target.replicas, target.paused),
        (Some("web-2"), 3, false)
    );
    model.run(60);
    assert_eq!(model.status().phase, Phase::Succeeded);
}

#[test]
fn a_release_that_is_paused_before_it_begins_touches_nothing() {
    let mut model = Model::new(3, json!({ "reserve": false }));
    model.release.spec.paused = true;
    model.run(5);
    assert_eq!(model.main.release.as_deref(), Some("web-1"));
    assert_eq!(model.status().phase, Phase::Waiting);
    model.release.spec.paused = false;
    model.run(60);
    assert_eq!(model.status().phase, Phase::Succeeded);
}

#[test]
fn a_version_that_never_gets_ready_is_taken_back_after_its_deadline() {
    for kind in ["rolling", "canary", "blueGreen"] {
        let strategy = json!({ "type": kind, "reserve": false, "deadlineSeconds": 60,
            "steps": [{ "weight": 50 }] });
        let mut model = Model::new(4, strategy);
        model.broken = true;
        model.run(59);
        assert_eq!(model.status().phase, Phase::Progressing, "{kind}");
        model.run(60);
        let status = model.status();
        assert_eq!(status.phase, Phase::Aborted, "{kind}: {status:?}");
        assert!(status.message.contains("was not there within 60 s"), "{kind}: {}", status.message);
        assert_eq!((model.main.side.available, model.has_candidate), (4, false), "{kind}");
    }
}

#[test]
fn nothing_begins_without_room_and_the_release_says_for_what_it_waits() {
    let mut model = Model::new(4, json!({ "maxSurge": 2 }));
    model.room = Room::Missing("1 of 2 reserved".into());
    let plan = model.look();
    assert_eq!(plan.reserve, Some(2));
    assert_eq!(plan.status.message, "waits for room for 2 more: 1 of 2 reserved");
    assert_eq!(plan.main.unwrap().release.as_deref(), Some("web-1"));
    model.room = Room::Held;
    let plan = model.look();
    assert_eq!(plan.main.unwrap().release.as_deref(), Some("web-2"));
    assert_eq!(plan.reserve, Some(2), "it is held until all has come");
    model.run(60);
    assert_eq!(model.look().reserve, None);
}

#[test]
fn where_nobody_reserves_the_release_says_so_and_goes_on() {
    let mut model = Model::new(4, json!({ "maxSurge": 2 }));
    model.run(60);
    let status = model.status();
    assert_eq!(status.phase, Phase::Succeeded);
    assert_eq!(status.notes.len(), 1, "{:?}", status.notes);
    assert!(status.notes[0].starts_with("room for 2 more was not reserved"), "{status:?}");
    let mut model = Model::new(4, json!({ "maxSurge": 2, "reserve": false }));
    model.run(60);
    assert!(model.status().notes.is_empty(), "nobody wanted it");
}

#[test]
fn every_step_with_new_instances_says_what_they_answered_without_any_check() {
    let strategy = json!({ "type": "canary", "reserve": false,
        "steps": [{ "weight": 50, "pauseSeconds": 5 }] });
    let mut model = Model::new(4, strategy);
    model.counted = Some(Count { answers: 100.0, failures: 1.0, seconds: 0.5 });
    model.run(100);
    let status = model.status();
    assert_eq!(status.phase, Phase::Succeeded, "one of a hundred decides nothing");
    let steps: Vec<_> = status.steps.iter().map(|one| (one.kind.as_str(), &one.answers)).collect();
    assert_eq!(steps.len(), 3, "{steps:?}");
    for (kind, answers) in steps {
        let Some(answers) = answers else {
            assert_eq!(kind, "finish");
            continue;
        };
        assert!(answers.requests >= 100 && answers.failures * 100 == answers.requests);
        assert_eq!((answers.success, answers.latency), (99.0, 5.0), "per cent, ms");
    }
}

#[test]
fn a_frozen_release_waits_and_a_rollback_does_not() {
    let mut model = Model::new(2, json!({ "reserve": false }));
    model.frozen = Some("the App: no releases".into());
    model.run(5);
    let status = model.status();
    assert_eq!(
        (status.phase, status.message.as_str()),
        (Phase::Waiting, "frozen: the App: no releases")
    );
    model.release.spec.rollback_to = Some(1);
    model.run(60);
    assert_eq!(model.status().phase, Phase::Succeeded);
}

#[test]
fn a_newer_release_waits_until_a_canary_is_taken_back_but_rolls_on_from_a_rolling_one() {
    let canary = json!({ "type": "canary", "reserve": false, "steps": [{ "weight": 50 }] });
    let mut model = Model::new(4, canary);
    model.run(30);
    model.newer = Some(StrategyType::Rolling);
    model.run(60);
    assert_eq!(model.status().phase, Phase::Superseded);
    assert_eq!((model.main.release.as_deref(), model.has_candidate), (Some("web-1"), false));
    let mut model = Model::new(4, json!({ "reserve": false }));
    model.broken = true;
    model.run(5);
    model.newer = Some(StrategyType::Rolling);
    assert_eq!(model.look().status.phase, Phase::Superseded);
    assert_eq!(model.main.release.as_deref(), Some("web-2"));
}

#[test]
fn images_are_swapped_pod_by_pod_and_back() {
    let mut model = Model::new(3, json!({ "type": "inPlace", "reserve": false }));
    model.only_images = true;
    model.run(100);
    assert_eq!(model.status().phase, Phase::Succeeded, "{:?}", model.status());
    assert!(model.pods.iter().all(|pod| pod.release.as_deref() == Some("2")));
    assert_eq!(model.names(), ["p0", "p1", "p2"], "the same pods");
    assert!(!model.main.paused);
    assert_eq!(model.fewest, 2, "one at a time");

    let mut model = Model::new(3, json!({ "type": "inPlace", "reserve": false }));
    model.only_images = true;
    model.run(12);
    assert!(model.pods.iter().any(|pod| pod.release.as_deref() == Some("2")), "{:?}", model.pods);
    model.release.spec.abort = true;
    model.run(100);
    assert_eq!(model.status().phase, Phase::Aborted);
    assert!(model.pods.iter().all(|pod| pod.release.as_deref() == Some("1")), "{:?}", model.pods);
}

#[test]
fn checks_pass_a_step_or_take_the_release_back() {
    let strategy = json!({ "type": "canary", "reserve": false,
        "steps": [{ "weight": 50, "pauseSeconds": 20 }],
        "checks": [{ "name": "errors", "query": "q", "max": 0.1, "everySeconds": 5,
            "failures": 2 }] });
    let mut good = Model::new(4, strategy.clone());
    good.answer = Some(Ok(0.05));
    good.run(200);
    assert_eq!(good.status().phase, Phase::Succeeded, "{:?}", good.status());
    for (answer, told) in [
        (Some(Ok(0.5)), "check errors says 0.5, at most 0.1 is wanted (2 times in a row)"),
        (Some(Err("gone".to_owned())), "check errors says gone"),
    ] {
        let mut bad = Model::new(4, strategy.clone());
        bad.answer = answer;
        bad.run(200);
        let status = bad.status();
        assert_eq!(status.phase, Phase::Aborted);
        assert!(status.message.starts_with(told), "{}", status.message);
        assert_eq!(bad.main.release.as_deref(), Some("web-1"));
    }
}

#[test]
fn one_wrong_answer_among_right_ones_is_no_failure() {
    let spec = release(2, json!({ "checks": [{ "name": "a", "query": "q", "max": 1.0 }] })).spec;
    let mut step = berth_api::release::StepStatus::default();
    let reading = |value: f64| super::judge::Reading {
        check: "a".into(),
        value: Ok(value),
        at: jiff::Timestamp::UNIX_EPOCH,
    };
    for (value, fails) in [
        (0.5, false),
        (2.0, false),
        (2.0, false),
        (0.5, false),
        (2.0, false),
        (2.0, false),
        (2.0, true),
    ] {
        let verdict = take_in(&spec.strategy.checks, &[reading(value)], &mut step);
        assert_eq!(verdict.is_some(), fails, "{value}: {verdict:?}");
    }
}

#[test]
fn an_answer_of_prometheus_is_one_number_or_says_why_not() {
    let check = |data: Value, expected: Result<f64, &str>| {
        let answer = json!({ "status": "success", "data": data });
        assert_eq!(number(&answer), expected.map_err(str::to_owned), "{answer}");
    };
    let one = json!({ "metric": {}, "value": [1.5, "0.25"] });
    check(json!({ "resultType": "vector", "result": [one] }), Ok(0.25));
    check(json!({ "resultType": "scalar", "result": [1.5, "2"] }), Ok(2.0));
    check(json!({ "resultType": "vector", "result": [] }), Err("no series answers the query"));
    check(
        json!({ "resultType": "vector", "result": [one, one] }),
        Err("2 series answer the query; one is wanted"),
    );
    let error = json!({ "status": "error", "error": "parse error" });
    assert_eq!(number(&error), Err("parse error".to_owned()));
}

#[test]
fn windows_shut_what_is_not_excepted() {
    let now = "2026-11-11T08:00:00Z".parse().unwrap();
    let mut one = release(2, json!({}));
    one.spec.author = "mei".into();
    let check = |windows: &str, except: &str, expected: Option<&str>| {
        let rule = Rule { whose: "everything", windows, except };
        assert_eq!(frozen(&[rule], &one, now).as_deref(), expected, "{windows} {except}");
    };
    let day = "2026-11-11T00:00:00Z/2026-11-12T00:00:00Z";
    check(
        &format!("{day} promotion"),
        "",
        Some("everything: promotion, until 2026-11-12T00:00:00Z"),
    );
    check("2026-11-10T00:00:00Z/2026-11-11T00:00:00Z", "", None);
    check(
        &format!("2026-01-01T00:00:00Z/2026-01-02T00:00:00Z; {day}"),
        "",
        Some("everything: no releases, until 2026-11-12T00:00:00Z"),
    );
    check("always", "", Some("everything: no releases"));
    check("always", "shop/web", None);
    check("always", "shop/*", None);
    check("always", "other/*", Some("everything: no releases"));
    check("always", "by:mei", None);
    check(
        "tomorrow",
        "",
        Some("everything: `tomorrow` is no window: FROM/UNTIL or always is wanted"),
    );
}

#[test]
fn instances_move_by_the_room_there_is() {
    let side = |asked, there, available| Side { asked, there, available };
    let bounds = |surge, unavailable| Bounds { replicas: 4, surge, unavailable };
    for (bounds, wanted, main, other, expected) in [
        (bounds(1, 0), (3, 1), side(4, 4, 4), side(0, 0, 0), (4, 1)),
        (bounds(1, 0), (3, 1), side(4, 4, 4), side(1, 1, 0), (4, 1)),
        (bounds(1, 0), (3, 1), side(4, 4, 4), side(1, 1, 1), (3, 1)),
        // What is told to go and still there takes room.
        (bounds(1, 0), (2, 2), side(3, 4, 4), side(1, 1, 1), (3, 1)),
        (bounds(0, 1), (3, 1), side(4, 4, 4), side(0, 0, 0), (3, 0)),
        (bounds(0, 1), (3, 1), side(3, 3, 3), side(0, 0, 0), (3, 1)),
        // A broken candidate goes whatever the old can carry.
        (bounds(1, 0), (4, 0), side(2, 2, 2), side(2, 2, 0), (3, 0)),
    ] {
        assert_eq!(transfer(bounds, wanted, main, other), expected, "{main:?} {other:?}");
    }
}
