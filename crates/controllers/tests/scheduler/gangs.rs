//! Gangs that displace the less important.

use super::*;

fn member(name: &str, least: usize) -> Value {
    json!({
        "metadata": { "annotations": { "scheduling.berth.dev/gang": name,
            "scheduling.berth.dev/gang-min": least.to_string() } },
        "spec": { "priorityClassName": "high", "priority": 1000 } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gang_displaces_nobody_or_as_many_as_all_of_it_needs() {
    let ground = Ground::start().await;
    ground.node("n0", "2").await;
    ground.node("n1", "2").await;
    ground.create::<PriorityClass>(json!({ "metadata": { "name": "high" }, "value": 1000 })).await;
    let scheduler = ground.scheduler(Config::default());
    for name in ["low0", "low1"] {
        ground.pod(name, "2", json!({})).await;
    }
    eventually!("the cluster is full", ground.bound().await == 2);
    for name in ["a0", "a1", "a2"] {
        ground.pod(name, "2", member("a", 3)).await;
    }
    let told = async |name: &str| {
        let pod = ground.pods().get(name).await.unwrap();
        let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
        let said = conditions.into_iter().find(|each| each.type_ == "PodScheduled");
        said.and_then(|each| each.message).unwrap_or_default()
    };
    eventually!("it is told", told("a2").await.contains("3 pods that the gang needs at once"));
    let placed = ground.placed().await;
    assert!(placed["low0"].is_some() && placed["low1"].is_some(), "{placed:?}");
    for name in ["b0", "b1"] {
        ground.pod(name, "2", member("b", 2)).await;
    }
    eventually!("the smaller gang is bound", {
        let placed = ground.placed().await;
        placed["b0"].is_some() && placed["b1"].is_some()
    });
    let placed = ground.placed().await;
    assert!(!placed.contains_key("low0") && !placed.contains_key("low1"), "{placed:?}");
    assert!(["a0", "a1", "a2"].iter().all(|name| placed[*name].is_none()), "{placed:?}");
    ground.end([scheduler]).await;
}
