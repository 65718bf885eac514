//! A living cluster is recorded, replayed and compared.

use berth_controllers::scheduler::Config;
use berth_scheduler::Profile;
use berth_scheduler::profile::Strategy;
use berth_sim::trace::Trace;
use berth_sim::{Contender, PolicyKind, Recording, Rehearsal, chart, compare, live, replay};
use serde_json::json;

use crate::ground::{Ground, eventually};

const NODES: usize = 12;
/// Pods that keep away from each other, more than there are nodes.
const APART: usize = 14;

async fn rehearse(ground: Ground) {
    ground.nodes(NODES, 8, 2).await;
    // First, since a packer fills nodes to the brim and then has no room beside the others;
    // also by name, for pods made within one second are replayed in that order.
    let apart = json!({
        "metadata": { "labels": { "app": "apart" } },
        "spec": { "affinity": { "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{
                "labelSelector": { "matchLabels": { "app": "apart" } },
                "topologyKey": "kubernetes.io/hostname",
            }] } } },
    });
    for at in 0..APART {
        ground.pod(&format!("apart-{at}"), "100m", apart.clone()).await;
    }
    for at in 0..40 {
        let labels = json!({ "labels": { "app": "web" } });
        ground.pod(&format!("web-{at}"), "500m", json!({ "metadata": labels })).await;
    }
    let tasks = ground.scheduler(Config::default());
    eventually!("all that can are bound", ground.bound().await.len() == 40 + NODES);

    let recording = live::record(&ground.client, "test").await.unwrap();
    assert_eq!((recording.nodes.len(), recording.pods.len()), (NODES, 40 + APART));
    let bound = ground.bound().await;
    for pod in &recording.pods {
        let name = pod.name.strip_prefix("default/").unwrap();
        assert_eq!(pod.node.as_ref(), bound.get(name), "{name}");
    }
    assert!(recording.missing.iter().any(|missing| missing.contains("metrics.k8s.io")));

    // The file is what is replayed; hidden, it packs the same.
    let mut file = Vec::new();
    recording.write_to(&mut file).unwrap();
    let read = Recording::read_from(file.as_slice()).unwrap();
    assert_eq!(read, recording);
    for recording in [read.clone(), read.clone().anonymised()] {
        let trace = Trace::without_kinds(&recording).unwrap();
        let standard = Rehearsal::new("profile", vec![Profile::default()], &recording).unwrap();
        let standard = Contender::Rehearsal(standard);
        let outcome = replay(standard.start(&trace, 1), &trace, |_| ());
        // What the live scheduler could place, the same scheduler places from the file.
        assert_eq!(outcome.figures.placed, 40 + NODES);
        assert_eq!(outcome.figures.left_over_count(), APART - NODES);
        assert_eq!(outcome.figures.empty_nodes, 0);
    }

    let packed = Profile { strategy: Strategy::MostAllocated, ..Profile::default() };
    let packed = Rehearsal::new("profile:packed", vec![packed], &read).unwrap();
    let sides = [Contender::Kind(PolicyKind::Archimedes), Contender::Rehearsal(packed)];
    let trace = Trace::of(&read).unwrap();
    let mut comparison = compare::compare(&trace, &sides, 1, |_, _| ());
    comparison.compact(&trace, &sides, 3, |_, _| ());
    // A packer knows nothing of distance between pods; the profile does.
    assert_eq!(comparison.sides[0].figures.left_over_count(), 0);
    assert_eq!(comparison.sides[1].figures.left_over_count(), APART - NODES);
    assert_eq!(comparison.only_first, APART - NODES);
    let machines = |side: usize| comparison.sides[side].compaction.as_ref().unwrap().machines;
    assert!(machines(0) <= 4, "{}", machines(0));
    assert_eq!(machines(1), APART, "each of those that keep away needs a machine");
    let table = comparison.table();
    assert!(table.contains("profile:packed") && table.contains("machines needed"), "{table}");
    let drawn = chart::svg(&comparison);
    assert!(drawn.contains("profile:packed") && drawn.contains("</svg>"));
    let written = serde_json::to_value(&comparison).unwrap();
    assert_eq!(written["sides"][1]["policy"], json!("profile:packed"));
    tasks.stop(std::time::Duration::from_secs(5)).await;
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_cluster_is_recorded_replayed_and_compared() {
    rehearse(Ground::ours().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_kubernetes_is_recorded_replayed_and_compared() {
    if let Some(ground) = Ground::theirs().await {
        rehearse(ground).await;
    }
}
