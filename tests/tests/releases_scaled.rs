//! An autoscaler at work while releases are on their way: it scales by what is measured, the release
//! divides what it asks for, and neither makes the other ask for too much.

use anyhow::{Context, Result};
use berth_tests::apps::{Ground, HOST, PATIENCE};
use berth_tests::{can_run_clusters, strategies, until, within};
use serde_json::{Value, json};

const FEW: usize = 3;
const MANY: usize = 5;

/// Scale rules that differ in what they aim at.
struct Rules {
    /// Three instances are enough, and six would be taken for five.
    steady: Value,
    /// Five are wanted.
    more: Value,
    /// Three are all that may be.
    fewer: Value,
}

#[test]
fn an_autoscaler_and_a_release_leave_each_other_what_is_theirs() -> Result<()> {
    if !can_run_clusters("releases while an autoscaler scales") {
        return Ok(());
    }
    let mut ground = Ground::start()?;
    ground.replicas = FEW;
    let amounts = json!({ "limits": { "cpu": "500m", "memory": "128Mi" },
        "requests": { "cpu": "20m", "memory": "4Mi" } });
    ground.more = json!({ "resources": amounts, "scale": rule(FEW, 6, 1000) });
    strategies::first(&ground, 0)?;
    let rules = measured(&ground)?;
    ground.more["scale"] = rules.steady.clone();
    nobody_scales_by_a_preview(&ground)?;
    let canary = json!({ "type": "canary", "steps": [{ "weight": 50 }] });
    it_scales_while_one_waits(&ground, &rules, 0, &canary, MANY + 1)?;
    it_scales_while_one_waits(&ground, &rules, 1, &json!({ "type": "blueGreen" }), MANY * 2)?;
    it_scales_while_one_goes(&ground, &rules, 0, &json!({ "type": "rolling" }), MANY + 1)?;
    it_scales_while_one_goes(&ground, &rules, 1, &json!({ "type": "inPlace" }), MANY)
}

fn rule(min: usize, max: usize, memory: u64) -> Value {
    json!({ "min": min, "max": max, "memory": memory })
}

/// Rules by what the instances use, which nobody knows beforehand.
fn measured(ground: &Ground) -> Result<Rules> {
    let path = "{.status.currentMetrics[0].resource.current.averageUtilization}";
    let (_, used) = within("the autoscaler knows what is used", PATIENCE, || {
        ground.cluster.field("hpa/svc", path).ok()?.parse::<u64>().ok().filter(|used| *used > 0)
    })?;
    eprintln!("the instances use {used} % of what they ask for");
    Ok(Rules {
        steady: rule(FEW, 6, used * 10 / 7),
        more: rule(FEW, MANY, (used * 2 / 3).max(1)),
        fewer: rule(FEW, FEW, used * 10 / 7),
    })
}

fn there(ground: &Ground, count: usize) -> Result<()> {
    until(&format!("the App is told {count}"), PATIENCE, || {
        ground.cluster.field("app/svc", "{.spec.replicas}").is_ok_and(|is| is == count.to_string())
    })
    .with_context(|| {
        ground
            .cluster
            .kubectl(&["describe", "hpa", "svc"])
            .map_or_else(|e| e.to_string(), |ran| ran.out)
    })?;
    Ok(())
}

/// Six stand there for longer than the autoscaler looks away; it is shown three of them.
fn nobody_scales_by_a_preview(ground: &Ground) -> Result<()> {
    ground.loses_nothing_with("a preview while an autoscaler looks", FEW * 2, || {
        let way = json!({ "type": "blueGreen", "keepSeconds": 20 });
        ground.apply(1, &way)?;
        ground.comes_to("Paused", 2)?;
        let path = "{.status.conditions[?(@.type==\"ScalingActive\")].status}";
        assert_eq!(ground.cluster.field("hpa/svc", path)?, "True", "it scales");
        ground.steer("promote")?;
        // Twenty seconds of the others standing by.
        ground.comes_to("Succeeded", 2)?;
        Ok(())
    })?;
    there(ground, FEW)
}

/// A step waits while the autoscaler asks for more, and for fewer.
fn it_scales_while_one_waits(
    ground: &Ground,
    rules: &Rules,
    image: usize,
    way: &Value,
    most: usize,
) -> Result<()> {
    let sets = if way["type"] == "blueGreen" { 2 } else { 1 };
    ground.loses_nothing_with(&format!("{} while it scales", way["type"]), most, || {
        let next = ground.release()?["spec"]["revision"].as_i64().context("a revision")? + 1;
        ground.apply(image, way)?;
        ground.comes_to("Paused", next)?;
        for (rule, count) in [(&rules.more, MANY), (&rules.fewer, FEW)] {
            ground.apply_with(&ground.images[image], way, &json!({ "scale": rule }))?;
            there(ground, count)?;
            until(&format!("{count} instances in each set"), PATIENCE, || {
                let ready = "{.status.conditions[?(@.type==\"Ready\")].status}";
                let all = ground.pods(ready).unwrap_or_default();
                all.len() == count * sets && all.iter().all(|one| one == "True")
            })?;
        }
        assert_eq!(ground.release()?["status"]["phase"], "Paused", "it waits as before");
        ground.steer("promote")?;
        ground.comes_to("Succeeded", next)?;
        Ok(())
    })?;
    ends(ground, image, way)
}

/// It goes on while the autoscaler asks for more, and ends with all that are asked for.
fn it_scales_while_one_goes(
    ground: &Ground,
    rules: &Rules,
    image: usize,
    way: &Value,
    most: usize,
) -> Result<()> {
    ground.loses_nothing_with(&format!("{} while it scales", way["type"]), most, || {
        let next = ground.release()?["spec"]["revision"].as_i64().context("a revision")? + 1;
        ground.apply_with(&ground.images[image], way, &json!({ "scale": rules.more }))?;
        there(ground, MANY)?;
        ground.comes_to("Succeeded", next)?;
        ground.apply_with(&ground.images[image], way, &json!({ "scale": rules.fewer }))?;
        there(ground, FEW)
    })?;
    ends(ground, image, way)
}

fn ends(ground: &Ground, image: usize, way: &Value) -> Result<()> {
    let mut all = [0, 0];
    all[image] = 8;
    assert_eq!(ground.answers(HOST, 8)?, all);
    ground.apply(image, way)
}
