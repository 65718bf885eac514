//! No release asks for more instances than it may, whatever its strategy, its workload, and what an
//! autoscaler does meanwhile.

use berth_api::release::Phase;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::world::Model;
use crate::releases::transfer::Side;

/// Argo Rollouts 3849: an autoscaler counts the canary's pods beside a stable set that stays whole,
/// so that pods well below the threshold, times more pods than were asked for, are more than were
/// asked for; of that the canary gets its share again, up to the autoscaler's limit.
///
/// Here a canary's pods are a part of what is asked for, and come in addition by the surge alone.
#[test]
fn argo_rollouts_3849_a_canary_does_not_feed_the_autoscaler() {
    let strategy = json!({ "type": "canary", "reserve": false, "maxSurge": 1, "steps": [
        { "weight": 1, "pauseSeconds": 60 }, { "weight": 10, "pauseSeconds": 60 },
        { "weight": 65, "pauseSeconds": 60 }] });
    let mut model = Model::new(8, strategy);
    for _ in 0..400 {
        let plan = model.step();
        model.scale(&plan, 88);
        let asked = model.main.side.asked + model.candidate.asked;
        assert!(model.replicas <= 8 && asked <= 9, "{} wanted, {asked} asked", model.replicas);
    }
    assert_eq!(model.status().phase, Phase::Succeeded);
    assert_eq!(model.main.side.there, 8);
}

/// Argo Rollouts 2857: by a memory rule, the pods that stand beside the stable ones during a release
/// count as much as those, so the autoscaler asks for more at every look until its limit.
///
/// Here it is shown only those that get requests while the others stand by.
#[test]
fn argo_rollouts_2857_pods_that_stand_by_are_not_scaled_by() {
    for (promotes, stateful) in [(true, false), (true, true), (false, false), (false, true)] {
        let strategy = json!({ "type": "blueGreen", "reserve": false, "autoPromote": promotes,
            "keepSeconds": 60 });
        let mut model = Model::new(4, strategy);
        model.stateful = stateful;
        for second in 0..400 {
            model.release.spec.abort = !promotes && second > 100;
            let plan = model.step();
            model.scale(&plan, 80);
            assert_eq!(model.replicas, 4, "at {second} s: {plan:?}");
        }
        let end = if promotes { Phase::Succeeded } else { Phase::Aborted };
        assert_eq!(model.status().phase, end);
        assert_eq!((model.main.side.there, model.most), (4, 8));
    }
}

/// OpenKruise 2369: with a surge configured, an update that is possible in place makes new pods up
/// to the surge, deletes as many old ones, and swaps only the rest.
///
/// Here a swap has no use for a surge: the pods are the same before and after it.
#[test]
fn openkruise_2369_in_place_makes_no_pods() {
    for stateful in [false, true] {
        let mut model = Model::new(5, json!({ "type": "inPlace", "maxSurge": 3 }));
        (model.only_images, model.stateful) = (true, stateful);
        for _ in 0..200 {
            let plan = model.step();
            assert_eq!((plan.reserve, plan.candidate), (None, None));
            assert_eq!(model.main.side.asked, 5);
        }
        assert_eq!(model.status().phase, Phase::Succeeded, "{stateful} {:?}", model.status());
        assert_eq!((model.names(), model.most), (vec!["p0", "p1", "p2", "p3", "p4"], 5));
        assert!(model.pods.iter().all(|pod| pod.release.as_deref() == Some("2")));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever happens to pods, to autoscalers and to people's minds, no release ever asks for
    /// more than replicas and surge, nor takes available instances below replicas - unavailable.
    #[test]
    fn no_release_overshoots(
        kind in prop_oneof![Just("canary"), Just("blueGreen"), Just("rolling"), Just("inPlace"),
            Just("keepAddress")],
        (stateful, disks) in any::<(bool, bool)>(),
        only_images in any::<bool>(),
        replicas in 1..12i32,
        surge in 0..4i32,
        unavailable in 0..3i32,
        weights in prop::collection::vec(1..100i32, 0..4),
        events in prop::collection::vec((0..10u8, 1..12i32), 0..60),
    ) {
        let (surge, unavailable) = if surge + unavailable == 0 { (1, 0) } else { (surge, unavailable) };
        let steps: Vec<Value> =
            weights.iter().map(|weight| json!({ "weight": weight, "pauseSeconds": 3 })).collect();
        let strategy = json!({ "type": kind, "reserve": false, "autoPromote": true,
            "keepSeconds": 2, "steps": steps, "maxSurge": surge, "maxUnavailable": unavailable });
        let mut model = Model::new(replicas, strategy);
        (model.stateful, model.disks) = (stateful, stateful && disks);
        model.only_images = only_images;
        let two_sets = match kind {
            "canary" => !stateful,
            "blueGreen" => !model.disks,
            _ => false,
        };
        let double = if kind == "blueGreen" && two_sets { i32::MAX } else { 0 };
        for (event, amount) in events {
            match event {
                0 => model.replicas = amount,
                1 => model.crash(amount),
                2 if amount == 1 => model.release.spec.abort = true,
                3 => model.release.spec.paused = amount % 2 == 0,
                _ => {}
            }
            let before = (model.main.side, model.candidate);
            let plan = model.step();
            let most = model.replicas + surge.max(double.min(model.replicas));
            let asked = model.main.side.asked + model.candidate.asked;
            let grew = model.main.side.asked > before.0.asked || model.candidate.asked > before.1.asked;
            prop_assert!(!grew || asked <= most, "{asked} asked, {most} allowed: {plan:?}");
            // Whose pods are replaced or swapped by one workload asks it for what the App says.
            prop_assert!(two_sets || asked == model.replicas, "{asked} asked: {plan:?}");
            prop_assert!(two_sets || !model.has_candidate);
            let out = model.pods.iter().filter(|pod| pod.serves == Some(false)).count();
            let may = usize::try_from(unavailable.max(1)).unwrap();
            prop_assert!(out <= may, "{out} out of service, {may} may be: {plan:?}");
            let good = |main: Side, other: Side| main.good() + other.good();
            let (was, is) = (good(before.0, before.1), good(model.main.side, model.candidate));
            let least = (model.replicas - unavailable).max(0);
            prop_assert!(is >= was.min(least), "{was} were good, {is} are, {least} are wanted: {plan:?}");
        }
        model.release.spec.paused = false;
        model.run(600);
        prop_assert!(model.status().phase.is_over(), "{:?} {:?}", model.status(), model.main);
        prop_assert!(!model.has_candidate);
        prop_assert_eq!(model.main.side.available, model.replicas);
    }
}
